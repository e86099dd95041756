"""Datasets of real clips, in every container that `datasets` reads, and what their features must be.

Nothing here needs torchcodec, except reading an `audio_folder` or a `web_archive` with ``load_dataset`` (as of
datasets 5.2, which encodes while it loads).
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from audio_files import decode_audio
from children import python_path


def shortest(clips: Sequence[Path], count: int) -> list[Path]:
    """Return the `count` smallest files, in a fixed order."""
    return sorted(clips, key=lambda path: (path.stat().st_size, path))[:count]


def sha256(clip: Path) -> str:
    """Return the sha of a clip as it is stored."""
    return hashlib.sha256(clip.read_bytes()).hexdigest()


def digest(array: np.ndarray) -> str:
    """Return the sha256 of the bytes of an array."""
    return hashlib.sha256(array.tobytes()).hexdigest()


def columns(clips: Sequence[Path]) -> dict[str, list[Any]]:
    """Return the columns that all datasets here have: the clip as it is stored, a name and a number."""
    return {
        "audio": [{"bytes": path.read_bytes(), "path": path.name} for path in clips],
        "text": [path.stem for path in clips],
        "number": list(range(len(clips))),
    }


def pa_table(clips: Sequence[Path]) -> pa.Table:
    """Return the columns as an Arrow table."""
    return pa.Table.from_pydict(columns(clips))


def in_memory(clips: Sequence[Path], *, decode: bool = False) -> datasets.Dataset:
    """Return a dataset in memory; with ``decode=True`` nothing can read its audio column without torchcodec."""
    return datasets.Dataset.from_dict(columns(clips)).cast_column("audio", datasets.Audio(decode=decode))


def parquet_file(clips: Sequence[Path], path: Path) -> Path:
    """Write a Parquet file with embedded audio, as datasets on the Hub have it; its column says ``decode=True``."""
    in_memory(clips, decode=True).to_parquet(path)
    return path


def from_parquet(clips: Sequence[Path], folder: Path, *, streaming: bool = False) -> Any:
    """Return a dataset, or a stream, of a new Parquet file in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = parquet_file(clips, folder / "clips.parquet")
    return read_parquet(path, streaming=streaming)


def read_parquet(path: Path, *, streaming: bool = False) -> Any:
    """Return the dataset, or the stream, of a Parquet file; what `datasets` keeps of it goes beside it."""
    return datasets.load_dataset(
        "parquet", data_files=str(path), split="train", streaming=streaming, cache_dir=str(path.parent / "cache")
    )


def saved(clips: Sequence[Path], folder: Path, *, decode: bool = False) -> datasets.Dataset:
    """Return a dataset that was saved to `folder` and read from there."""
    in_memory(clips, decode=decode).save_to_disk(folder)
    return datasets.load_from_disk(folder)


def of_cells(cells: Sequence[Any], **columns: Sequence[Any]) -> datasets.Dataset:
    """Return a dataset in memory of these audio cells, and of other columns; nothing decodes its audio."""
    rows = {**columns, "audio": list(cells)}
    return datasets.Dataset.from_dict(rows).cast_column("audio", datasets.Audio(decode=False))


def of_paths(clips: Sequence[Path]) -> datasets.Dataset:
    """Return a dataset in memory whose audio column has the paths of files, and no bytes."""
    rows = {**columns(clips), "audio": [str(path) for path in clips]}
    return datasets.Dataset.from_dict(rows).cast_column("audio", datasets.Audio(decode=False))


def copies(clips: Sequence[Path], folder: Path) -> list[Path]:
    """Copy clips under names of their position in the list; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    return [Path(shutil.copy(path, folder / f"{index:04}{path.suffix}")) for index, path in enumerate(clips)]


def audio_folder(clips: Sequence[Path], folder: Path, *, streaming: bool = False) -> Any:
    """Return an ``audiofolder`` dataset of copies of the clips, in their order; needs torchcodec."""
    copies(clips, folder)
    return datasets.load_dataset(
        "audiofolder", data_dir=str(folder), split="train", streaming=streaming, cache_dir=f"{folder}-cache"
    )


def tar_file(clips: Sequence[Path], path: Path) -> Path:
    """Write a tar of the clips and of a JSON file for each, as webdataset has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for index, clip in enumerate(clips):
            for suffix, content in ((clip.suffix, clip.read_bytes()), (".json", json.dumps({"n": index}).encode())):
                member = tarfile.TarInfo(f"{index:04}{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return path


def web_archive(clips: Sequence[Path], path: Path, *, streaming: bool = True) -> Any:
    """Return a ``webdataset`` of the clips, which all have one suffix, which names the column; needs torchcodec."""
    return datasets.load_dataset(
        "webdataset",
        data_files={"train": str(tar_file(clips, path))},
        split="train",
        streaming=streaming,
        cache_dir=f"{path}-cache",
    )


def tar_stream(path: Path) -> datasets.IterableDataset:
    """Return a stream of the encoded bytes in a tar, which needs no torchcodec."""
    return datasets.IterableDataset.from_generator(_tar_rows, gen_kwargs={"paths": [str(path)]})


def _tar_rows(paths: list[str]) -> Any:
    for path in paths:
        with tarfile.open(path) as tar:
            for member in tar:
                file = tar.extractfile(member)
                if file is not None and not member.name.endswith(".json"):
                    yield {"audio": {"bytes": file.read(), "path": member.name}}


def expected_features(processor: Any, clip: Path | bytes, **settings: Any) -> dict[str, np.ndarray]:
    """Return what `processor` makes of one clip alone, on the waveform that this package decodes.

    `settings` are those of `decode_audio` beside the rate: ``auto_resample``, ``max_length_ms``.
    """
    encoded = clip if isinstance(clip, bytes) else clip.read_bytes()
    waveform = decode_audio(encoded, sampling_rate=processor.sampling_rate, **settings)
    outputs = processor([waveform], sampling_rate=processor.sampling_rate, return_tensors="np")
    return {name: value[0] for name, value in outputs.items()}


def assert_same_bits(actual: Any, expected: Any) -> None:
    """Check that two arrays have one dtype, one shape and the same bytes."""
    assert isinstance(actual, np.ndarray), type(actual)
    assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
    assert actual.tobytes() == expected.tobytes()


def assert_rows(rows: Sequence[Mapping[str, Any]], expected: Sequence[Mapping[str, np.ndarray]]) -> None:
    """Check each output of each row, bit for bit."""
    assert len(rows) == len(expected)
    for row, outputs in zip(rows, expected, strict=True):
        assert outputs.keys() <= row.keys()
        for name, array in outputs.items():
            assert_same_bits(row[name], array)


def assert_stored(dataset: datasets.Dataset, expected: Sequence[Mapping[str, np.ndarray]]) -> None:
    """Check the arrays that Arrow holds: floats bit for bit, integers and booleans by value.

    (`datasets`' NumPy format gives every integer back as int64.)
    """
    assert len(dataset) == len(expected)
    names = list(expected[0])
    rows = dataset.select_columns(names).with_format("numpy")
    for row, outputs in zip(rows, expected, strict=True):
        for name in names:
            if outputs[name].dtype.kind == "f":
                assert_same_bits(row[name], outputs[name])
            else:
                assert np.array_equal(row[name], outputs[name])


def run_program(
    program: str, *arguments: object, timeout: float = 120, has_torch: bool = True, **environment: str
) -> Any:
    """Run Python code in a new process; return what it printed last, read as JSON.

    The code can import what tests import by plain name: the helpers in this folder, and test modules that are loaded.
    """
    child = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": python_path(has_torch=has_torch), **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert child.returncode == 0, child.stdout + child.stderr
    return json.loads(child.stdout.splitlines()[-1])
