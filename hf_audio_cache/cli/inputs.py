"""What the commands work on: a dataset, by its name or place; a processor; a cache."""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa
    import ray

    from ..cache.root import CacheRoot
    from ..transform.cached_features import CachedFeatures


def load_dataset(name: str, *, split: str | None, subset: str | None, audio_column: str) -> datasets.Dataset:
    """Return the audio of a dataset; nothing is decoded.

    It is a folder that ``save_to_disk`` wrote, a folder of audio, a Parquet file (or a pattern of them), or a name on
    the Hub. Without `split` all splits come one after the other. The column of a folder of audio has the name
    `audio_column` in any case. Raises ValueError if there is no such dataset or split; AudioColumnError if there is no
    such column.
    """
    import datasets

    from ..transform.audio_rows import audio_rows

    datasets.disable_progress_bars()
    path = Path(name).expanduser()
    loaded: Any
    if subset is not None and (path.is_dir() or name.endswith(".parquet")):
        raise ValueError(f"expected no --subset {subset!r}, since {name!r} is not on the Hub; nothing was done")
    try:
        if (path / "dataset_info.json").exists() or (path / "dataset_dict.json").exists():
            loaded = datasets.load_from_disk(path)
        elif path.is_dir():
            loaded = _audio_folder(path, audio_column)
        elif name.endswith(".parquet"):
            loaded = datasets.load_dataset("parquet", data_files={split or "train": str(path)})
        else:
            loaded = datasets.load_dataset(name, subset)
    except Exception as exc:  # every builder and every file system has errors of its own
        raise ValueError(
            "expected a dataset (a name on the Hub, a Parquet file, a folder of audio, or one of save_to_disk), "
            f"and {name!r} could not be loaded as any ({type(exc).__name__}: {exc})"
        ) from exc
    if split is not None:
        if not isinstance(loaded, datasets.DatasetDict):
            raise ValueError(f"expected no --split {split!r}, since {name!r} has no splits; nothing was done")
        if split not in loaded:
            raise ValueError(f"expected a split of {name!r}, which has {', '.join(loaded)}, and not {split!r}")
        loaded = loaded[split]
    rows = audio_rows(loaded, audio_column)
    rows.info.dataset_name = f"{name} {split}" if split else name  # by which the run is recorded
    rows._split = None
    return rows


def _audio_folder(folder: Path, audio_column: str) -> datasets.Dataset:
    """Return the audio files under a folder as a dataset; `datasets`' own would need torchcodec."""
    import datasets

    from ..audio import AUDIO_SUFFIXES

    files = sorted(
        os.path.join(parent, name)
        for parent, _, names in os.walk(folder)
        for name in names
        if os.path.splitext(name)[1].lower() in AUDIO_SUFFIXES
    )
    if not files:
        raise ValueError(f"no file under {folder} has a suffix of audio")
    for file in files:
        if os.fsencode(file) != file.encode(errors="replace"):
            raise ValueError(f"the name {os.fsencode(file)!r} is not UTF-8, which Arrow needs: rename the file")
    return datasets.Dataset.from_dict({audio_column: files}).cast_column(audio_column, datasets.Audio(decode=False))


def load_ray_dataset(name: str, *, split: str | None, subset: str | None, audio_column: str) -> ray.data.Dataset:
    """Return the audio of a dataset as Ray Data reads it, in the workers where they can; nothing is read yet.

    The parameters and errors are those of `load_dataset`; Parquet files and folders of audio may be URLs.
    """
    import ray

    from ..audio import AUDIO_SUFFIXES
    from ..audio.source import check_column, flat_columns
    from ..errors import AudioColumnError

    # Reading takes next to no CPU, and must not wait for one: the workers have them all.
    reading: dict[str, Any] = {"num_cpus": 0.1}
    path = Path(name).expanduser()
    where = name if "://" in name else str(path)
    try:
        if name.endswith(".parquet"):
            files = where if "://" in name else sorted(glob.glob(where))
            rows = ray.data.read_parquet(files, **reading)
            columns = rows.columns(fetch_if_missing=False) or (audio_column,)
            check_column(audio_column, columns)
            return rows.select_columns([*flat_columns(audio_column, columns).values()] or [audio_column], **reading)
        if "://" in name:
            suffixes = sorted(suffix[1:] for suffix in AUDIO_SUFFIXES)
            files = ray.data.read_binary_files(where, include_paths=True, file_extensions=suffixes, **reading)
            column = {"audio_column": audio_column}
            return files.map_batches(_audio_cells, batch_format="pyarrow", fn_kwargs=column, **reading)
    except AudioColumnError:
        raise
    except Exception as exc:  # each of Ray's sources and file systems has errors of its own
        raise ValueError(
            f"expected Parquet files or a folder of audio that Ray Data can read, and found of {name!r}: "
            f"{type(exc).__name__}: {exc}"
        ) from exc
    if not path.is_dir() and len(name.split("/")) <= 2:
        return _from_hub(name, split, subset, audio_column)
    rows = load_dataset(name, split=split, subset=subset, audio_column=audio_column)
    # Each worker maps the files of it into its memory: sent to them, all of it would be in Ray's first.
    n_blocks = max(1, len(rows) // 256)
    numbers = ray.data.range(len(rows), override_num_blocks=n_blocks)
    return numbers.map_batches(_rows_of, batch_format="numpy", fn_kwargs={"rows": rows}, **reading)


def _from_hub(name: str, split: str | None, subset: str | None, audio_column: str) -> ray.data.Dataset:
    """Return the audio of a dataset on the Hub, whose Parquet files Ray's workers read there."""
    import datasets
    import ray

    from ..audio.source import check_column, flat_columns

    streams = datasets.load_dataset(name, subset, split=split, streaming=True)
    parts = []
    for stream in streams.values() if isinstance(streams, dict) else [streams]:
        columns = stream.column_names or (audio_column,)
        check_column(audio_column, columns)
        stream.info.dataset_name = name  # by which Ray asks for the files; as it is, it lacks the owner
        parts.append(ray.data.from_huggingface(stream))
    return parts[0].union(*parts[1:]).select_columns([*flat_columns(audio_column, columns).values()] or [audio_column])


def _audio_cells(table: pa.Table, audio_column: str) -> pa.Table:
    """Return a table of one audio column, made of the columns that `ray.data.read_binary_files` gives."""
    import pyarrow as pa

    fields = [table[name].combine_chunks() for name in ("bytes", "path")]
    return pa.table({audio_column: pa.StructArray.from_arrays(fields, ["bytes", "path"])})


def _rows_of(batch: Mapping[str, Any], rows: datasets.Dataset) -> pa.Table:
    """Return the rows of a dataset with these numbers."""
    return rows.with_format("arrow")[list(batch["id"])].replace_schema_metadata(None)


def load_processor(name: str) -> Any:
    """Return the processor that a directory or a repository on the Hub has; ValueError if it has none."""
    import transformers

    reasons = []
    for loader in (transformers.AutoFeatureExtractor, transformers.AutoProcessor):
        try:
            return loader.from_pretrained(os.path.expanduser(name))
        except Exception as exc:  # noqa: BLE001 - whatever a configuration makes transformers raise
            reasons.append(f"{loader.__name__}: {str(exc).splitlines()[0] if str(exc) else type(exc).__name__}")
    raise ValueError(
        f"expected --processor to be a Hub name or a directory with a preprocessor_config.json, and {name!r} could not "
        f"be loaded ({'; '.join(reasons)})"
    )


def open_cache(processor: str, root: CacheRoot, **settings: Any) -> CachedFeatures:
    """Return the cache of a processor on a root."""
    from ..transform.cached_features import CachedFeatures

    return CachedFeatures(load_processor(processor), root, **settings)
