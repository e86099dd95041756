"""What keeps features beside this package, each filled with the same arrays and read clip by clip.

One file or record a clip, in each library's plainest form; those that differ from what went in are marked.
"""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from configs import make_processor

from benchmarks.harness import Pass
from benchmarks.options import storing

Read = Callable[[int], np.ndarray]


# Recompute ----------------------------------------------------------------------------------------------------------


class Recompute:
    """Decoding, resampling and extracting, as one would write it: soundfile, soxr and the processor.

    Parameters
    ----------
    processor_name
        A configuration of `processors`.
    is_numpy
        Whether Whisper's features are computed without torch, as where that is not installed. It holds for the whole
        process.
    """

    def __init__(self, processor_name: str, *, is_numpy: bool = False) -> None:
        self.processor = make_processor(processor_name)
        if is_numpy:
            import transformers.models.whisper.feature_extraction_whisper as whisper

            whisper.is_torch_available = lambda: False

    def __call__(self, encoded: bytes) -> dict[str, np.ndarray]:
        """Return the outputs for a clip, without a batch axis."""
        outputs = self.processor([self.waveform(encoded)], sampling_rate=self.rate, return_tensors="np")
        return {name: value[0] for name, value in outputs.items()}

    def waveform(self, encoded: bytes) -> np.ndarray:
        """Return the waveform of a clip."""
        waveform, rate = soundfile.read(io.BytesIO(encoded), dtype="float32")
        return waveform if rate == self.rate else soxr.resample(waveform, rate, self.rate)

    @property
    def rate(self) -> int:
        """The rate of the processor's waveforms, in Hz."""
        return self.processor.sampling_rate

    def main(self, encoded: bytes) -> np.ndarray:
        """Return the output that a model takes."""
        outputs = self(encoded)
        return outputs["input_features"] if "input_features" in outputs else outputs["input_values"]


def recompute(processor_name: str, encoded: Sequence[bytes], *, is_numpy: bool = False) -> Pass:
    """Compute the features of each clip."""
    compute = Recompute(processor_name, is_numpy=is_numpy)
    return Pass(len(encoded), lambda: map(compute.main, encoded))


# Keepers ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Keeper:
    """A library that keeps arrays.

    Parameters
    ----------
    name
        What the table calls it.
    fill
        Stores arrays in a folder.
    reader
        Returns a function that reads one of them by its number.
    needs
        Modules without which it is left out.
    tolerance
        The largest difference between what is stored and what is read.
    """

    name: str
    fill: Callable[[Path, Sequence[np.ndarray]], None]
    reader: Callable[[Path], Read]
    needs: tuple[str, ...] = ()
    tolerance: float = 0.0


def _name(number: int) -> str:
    return f"{number:06}"


def _fill_savez(folder: Path, arrays: Sequence[np.ndarray]) -> None:
    for number, array in enumerate(arrays):
        np.savez(folder / f"{_name(number)}.npz", input_features=array)


def _read_savez(folder: Path) -> Read:
    def read(number: int) -> np.ndarray:
        with np.load(folder / f"{_name(number)}.npz") as archive:
            return archive["input_features"]

    return read


def _fill_safetensors(folder: Path, arrays: Sequence[np.ndarray]) -> None:
    from safetensors.numpy import save_file

    for number, array in enumerate(arrays):
        save_file({"input_features": np.ascontiguousarray(array)}, folder / f"{_name(number)}.safetensors")


def _read_safetensors(folder: Path) -> Read:
    from safetensors.numpy import load_file

    return lambda number: load_file(folder / f"{_name(number)}.safetensors")["input_features"]


_GIVEN: dict[str, np.ndarray] = {}  # what the function below "computes", while joblib's cache is filled


def given_features(clip: str) -> np.ndarray:
    """Return the features of a clip: the function that joblib remembers."""
    return _GIVEN[clip]


def _remembered(folder: Path) -> Callable[[str], np.ndarray]:
    import joblib

    return joblib.Memory(folder, verbose=0).cache(given_features)


def _fill_joblib(folder: Path, arrays: Sequence[np.ndarray]) -> None:
    remembered = _remembered(folder)
    for number, array in enumerate(arrays):
        _GIVEN[_name(number)] = array
        remembered(_name(number))
    _GIVEN.clear()


def _read_joblib(folder: Path) -> Read:
    remembered = _remembered(folder)
    return lambda number: remembered(_name(number))


def _fill_diskcache(folder: Path, arrays: Sequence[np.ndarray]) -> None:
    import diskcache

    with diskcache.Cache(folder, size_limit=2**40) as cache:
        for number, array in enumerate(arrays):
            cache[_name(number)] = array


def _read_diskcache(folder: Path) -> Read:
    import diskcache

    cache = diskcache.Cache(folder, size_limit=2**40)
    return lambda number: cache[_name(number)]


def _fill_lhotse(writer: str, folder: Path, arrays: Sequence[np.ndarray]) -> None:
    import lhotse.features.io as storage

    with getattr(storage, f"{writer}Writer")(folder) as out:
        for number, array in enumerate(arrays):
            out.write(_name(number), np.ascontiguousarray(array.T))  # frames first, as Lhotse has them


def _read_lhotse(reader: str, suffix: str, folder: Path) -> Read:
    import lhotse.features.io as storage

    features = getattr(storage, f"{reader}Reader")(folder)
    # Lhotse puts the files into folders of their first three letters.
    return lambda number: features.read(f"{_name(number)[:3]}/{_name(number)}{suffix}").T


def _fill_raw(folder: Path, arrays: Sequence[np.ndarray]) -> None:
    for number, array in enumerate(arrays):
        array.tofile(folder / _name(number))
    forms = [(array.shape, array.dtype.str) for array in arrays]
    (folder / "forms.json").write_text(json.dumps(forms))


def _read_raw(folder: Path) -> Read:
    forms = [(tuple(shape), np.dtype(dtype)) for shape, dtype in json.loads((folder / "forms.json").read_text())]

    def read(number: int) -> np.ndarray:
        array = np.empty(*forms[number])
        with open(folder / _name(number), "rb", buffering=0) as file:
            file.readinto(array.data)
        return array

    return read


RAW = "floor: the raw float32 bytes, read bare"
SAVEZ = "numpy.savez, one file a clip"
LILCOM_TOLERANCE = 0.05

KEEPERS = (
    Keeper(RAW, _fill_raw, _read_raw),
    Keeper(SAVEZ, _fill_savez, _read_savez),
    Keeper("safetensors, one file a clip", _fill_safetensors, _read_safetensors, ("safetensors",)),
    Keeper("joblib.Memory", _fill_joblib, _read_joblib, ("joblib",)),
    Keeper("diskcache", _fill_diskcache, _read_diskcache, ("diskcache",)),
    Keeper(
        "Lhotse NumpyFilesWriter",
        functools.partial(_fill_lhotse, "NumpyFiles"),
        functools.partial(_read_lhotse, "NumpyFiles", ".npy"),
        ("lhotse",),
    ),
    Keeper(
        "Lhotse LilcomFilesWriter (lossy)",
        functools.partial(_fill_lhotse, "LilcomFiles"),
        functools.partial(_read_lhotse, "LilcomFiles", ".llc"),
        ("lhotse", "lilcom"),
        LILCOM_TOLERANCE,
    ),
)


def keeper_folder(folder: Path, number: int) -> Path:
    """Return the folder of a keeper by its place in `KEEPERS`."""
    return folder / f"keeper-{number}"


def read_kept(number: int, folder: Path, count: int) -> Pass:
    """Read what a keeper has, clip by clip."""
    read = KEEPERS[number].reader(keeper_folder(folder, number))
    return Pass(count, lambda: map(read, range(count)))


# This package, and Dataset.map --------------------------------------------------------------------------------------


def cached_features(processor_name: str, root: Path, **settings: Any) -> Any:
    """Return a `CachedFeatures` that resamples; `storing` are the settings of one that stores whatever it computes."""
    from hf_audio_cache import CachedFeatures

    return CachedFeatures(make_processor(processor_name), root, **{"auto_resample": True, **settings})


def main_output(processor_name: str) -> str:
    """Return the name of the output that a model takes."""
    return make_processor(processor_name).model_input_names[0]


def prepare(processor_name: str, encoded: Sequence[bytes], folder: Path, *, keepers: bool = True) -> dict[str, int]:
    """Fill every contender's place in `folder` with the features of the clips, and return the bytes that each takes.

    There are ``audio/``, a dataset of the clips; ``arrow/``, `Dataset.map` of it in its best form; ``root/``, this
    package's; ``references/``, the dataset with references to it; and a folder for each of the `KEEPERS`.
    """
    import datasets

    from benchmarks.clips import save_dataset

    compute = Recompute(processor_name)
    folder.mkdir(parents=True)
    save_dataset(encoded, folder / "audio")
    plain = datasets.load_from_disk(folder / "audio")
    ours = cached_features(processor_name, folder / "root", **storing())
    ours.map(plain, remove_columns=["audio"]).save_to_disk(folder / "references")
    # What comes back is a new dict: the audio is not wanted in Arrow twice.
    arrays = plain.map(
        lambda row: compute(row["audio"]["bytes"]),
        features=datasets.Features(
            {name: kind for name, kind in ours.features(plain.features).items() if name != "audio"}
        ),
        remove_columns=["audio"],
        writer_batch_size=16,
    )
    arrays.save_to_disk(folder / "arrow")
    if keepers:
        values = [compute.main(clip) for clip in encoded]
        for number, keeper in enumerate(KEEPERS):
            place = keeper_folder(folder, number)
            place.mkdir()
            try:
                keeper.fill(place, values)
            except ImportError:
                continue  # left out of the comparison, which says so
    return {path.name: stored_bytes(path) for path in sorted(folder.iterdir())}


def stored_bytes(folder: Path) -> int:
    """Return the bytes of all files under a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def read_arrow(folder: Path, output: str) -> Pass:
    """Read what `Dataset.map` wrote, row by row, in the NumPy format."""
    import datasets

    rows = datasets.load_from_disk(folder / "arrow").with_format("numpy")
    return Pass(len(rows), lambda: (rows[number][output] for number in range(len(rows))))
