"""Columns of references: made by `CachedFeatures.map`, without bad rows, and replaced by arrays by `materialize`."""

from __future__ import annotations

import inspect
import logging
import os
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import datasets
import pyarrow as pa

from ..audio.file_hashes import files_sha256
from ..audio.source import check_column, flat_columns, has_audio, located, read_source
from ..cache.stats import BadClip
from ..errors import AudioError
from ..pipeline.unstorable import check_storable
from ..stores import is_in_process
from .attached import Attached
from .audio_rows import loose_files, with_encoded_audio
from .cached_array import CachedArray, reference_columns, stored_shas, undecoded
from .clip_lists import is_list_feature
from .column_checks import check_audio, check_new_columns, removed_columns
from .feature_columns import FeatureColumns, note_dataset
from .feature_reader import FeatureReader
from .map_functions import ReferenceMaker

logger = logging.getLogger(__name__)

_BATCH_ROWS = 64  # about a round trip's worth of entries, and the most that is in memory at once

# Arguments of `datasets.Dataset.map` that are no choice here.
_SET_HERE = frozenset(
    {"batched", "drop_last_batch", "features", "fn_kwargs", "function", "input_columns", "with_indices", "with_rank"}
)


def make_references(
    columns: FeatureColumns,
    dataset: datasets.Dataset,
    remove_columns: str | Sequence[str] | None,
    map_kwargs: Mapping[str, Any],
) -> datasets.Dataset:
    """Return the dataset with columns of references; see `CachedFeatures.map`."""
    _check_arguments("map", columns, dataset, map_kwargs)
    _check_workers(columns, map_kwargs)
    settings = columns.settings
    check_column(settings.audio_column, dataset.column_names)
    check_audio(settings.audio_column, dataset.features)
    note_dataset(columns, dataset)
    check_storable(columns.pipeline.output_specs(), columns.pipeline.name)
    lists = is_list_feature(dataset.features.get(settings.audio_column))
    types = columns.references(lists=lists)
    dropped = removed_columns(remove_columns, dataset.column_names)
    check_new_columns(types, dataset.features, dropped)
    known = set(columns.pipeline.counters.bad_clips())
    features = datasets.Features({**types, **columns.further_types(lists=lists)})
    references = _mapped_references(columns, dataset, types, features, map_kwargs)
    columns.pipeline.access_log.finish()
    dropped += [name for name in features if name in dataset.column_names and name not in dropped]
    kept = dataset.remove_columns(dropped)
    if not datasets.config.TORCHCODEC_AVAILABLE:  # `datasets` cannot read rows with a column that it cannot decode
        kept = with_encoded_audio(kept, settings.audio_column)
    if not kept.column_names:
        return _without_bad_rows(columns, references, types, known)
    joined = _without_bad_rows(columns, _side_by_side(kept, references), types, known)
    return joined.with_format(**_format_with(dataset, dropped, list(features)))


def _check_arguments(
    called: str, columns: FeatureColumns, dataset: datasets.Dataset, map_kwargs: Mapping[str, Any]
) -> None:
    """Raise TypeError for a stream, and for arguments that the method `called` cannot pass to `Dataset.map`."""
    what = columns.pipeline.what
    if not isinstance(dataset, datasets.Dataset):
        raise TypeError(
            f"{called} needs a Dataset or a DatasetDict, not {type(dataset).__name__}. For a stream, which keeps no "
            f"columns, use cached_{what}.attach(stream). Nothing was computed."
        )
    if taken := sorted(_SET_HERE & map_kwargs.keys()):
        raise TypeError(
            f"Leave out {', '.join(f'{name}=' for name in taken)}: cached_{what}.{called} sets it itself, "
            "and looks clips up in batches. Nothing was computed."
        )
    if unknown := sorted(map_kwargs.keys() - inspect.signature(datasets.Dataset.map).parameters.keys()):
        raise TypeError(
            f"Dataset.map, which gets them, does not know {', '.join(f'{name}=' for name in unknown)}. What decides on "
            f"{what} is said when Cached{what.capitalize()}(…) is made. Nothing was computed."
        )


def _check_workers(columns: FeatureColumns, map_kwargs: Mapping[str, Any]) -> None:
    """Raise ValueError if worker processes would store entries where this process cannot find them."""
    root = columns.pipeline.store.location()
    if map_kwargs.get("num_proc") and is_in_process(str(root)):
        raise ValueError(
            f"{root} is in the memory of one process, and what workers store there is lost with them. Leave out "
            "num_proc=, or use a directory. Nothing was computed."
        )


def _mapped_references(
    columns: FeatureColumns,
    dataset: datasets.Dataset,
    types: dict[str, CachedArray],
    features: datasets.Features,
    map_kwargs: Mapping[str, Any],
) -> datasets.Dataset:
    """Map the audio column to references; again if what `datasets` kept has lost entries, or rows that now work."""
    audio_column = columns.settings.audio_column
    flat = flat_columns(audio_column, dataset.column_names)
    audio_columns = [*flat.values()] or [audio_column]
    cells = dataset.with_format(None).select_columns(audio_columns)
    # Where nothing is taken from what `datasets` kept, and nothing kept, no file need be looked at.
    keeps = map_kwargs.get("load_from_cache_file") is not False or not map_kwargs.get("keep_in_memory")
    files = _files_of(dataset, [audio_column], columns.settings.data_dir) if keeps else ""
    maker = ReferenceMaker(columns, types, files)
    started = time.time()
    arguments = {"remove_columns": audio_columns, "batch_size": _BATCH_ROWS, "desc": "Caching features", **map_kwargs}
    arguments["with_indices"] = True
    references = _map_rows(cells, maker, features, **arguments)
    is_kept = any(os.path.getmtime(file["filename"]) < started for file in references.cache_files)
    if not _are_there(columns, references, types) or (is_kept and _has_found_more(maker, cells, references)):
        references = _map_rows(cells, maker, features, **{**arguments, "load_from_cache_file": False})
    return references


def _are_there(columns: FeatureColumns, references: datasets.Dataset, types: Mapping[str, CachedArray]) -> bool:
    """Return whether each reference has an entry; one that only the near tier has is put into the root again."""
    cache = columns.pipeline.cache
    name, feature = next(iter(types.items()))
    column = stored_shas(references, name)
    column = column.combine_chunks().flatten() if pa.types.is_list(column.type) else column
    keys = [feature.key(sha) for sha in set(column.to_pylist()) - {None}]
    cache.note_use([key.name() for key in keys])  # workers may be killed before they record it
    return all(cache.secure_many(keys))  # an error is true: this machine can read that entry


def _has_found_more(maker: ReferenceMaker, cells: datasets.Dataset, references: datasets.Dataset) -> bool:
    """Return whether a row that had no features, when `datasets` kept the result, has some now; those are stored."""
    audio_column = cells.column_names[0]
    shas = stored_shas(references, next(iter(maker.types)))
    without = _rows_without(shas)
    rows = with_encoded_audio(cells.with_format(None).select(without), audio_column)
    batches = rows.iter(batch_size=_BATCH_ROWS) if without else ()
    found = (sha for batch in batches for sha in maker(batch)[next(iter(maker.types))])
    return any(
        sha != before for sha, before in zip(found, shas.take(pa.array(without, pa.int64())).to_pylist(), strict=True)
    )


def _rows_without(shas: pa.ChunkedArray) -> list[int]:
    """Return the rows that have no features, or a clip without."""
    if not pa.types.is_list(shas.type):
        return [row for row, is_valid in enumerate(shas.is_valid().to_pylist()) if not is_valid]
    return [row for row, each in enumerate(shas.to_pylist()) if each is None or None in each]


def _without_bad_rows(
    columns: FeatureColumns, dataset: datasets.Dataset, types: Mapping[str, CachedArray], known: Collection[BadClip]
) -> datasets.Dataset:
    """Return a dataset of references as `on_error` wants it, and log how many clips are bad."""
    without = _rows_without(stored_shas(dataset, next(iter(types))))
    if not without:
        return dataset
    skips = columns.settings.on_error == "skip"
    new = [clip.reason for clip in columns.pipeline.counters.bad_clips() if clip not in known]
    logger.warning(
        "%d of %d rows have no %s and %s%s (cached_%s.bad_clips lists them)",
        len(without),
        len(dataset),
        columns.pipeline.what,
        "were left out" if skips else "have None in their place",
        f"; the first: {new[0]}" if new else ", as in an earlier run",
        columns.pipeline.what,
    )
    if not skips:
        return dataset
    return dataset.select(sorted({*range(len(dataset))} - {*without}))


def materialize(columns: FeatureColumns, dataset: datasets.Dataset, map_kwargs: Mapping[str, Any]) -> datasets.Dataset:
    """Return the dataset with arrays in the place of references; see `CachedFeatures.materialize`."""
    _check_arguments("materialize", columns, dataset, map_kwargs)
    arguments = {"batch_size": 16, "writer_batch_size": 16, "desc": "Reading features", **map_kwargs}
    dropped = removed_columns(arguments.pop("remove_columns", None), dataset.column_names)
    kept = dataset.remove_columns(dropped) if dropped else dataset
    references = reference_columns(kept.features)
    if not references:
        return kept
    dataset = dataset.remove_columns([*reference_columns(dataset.features).keys() - references.keys()])
    named = {reference.audio_column or columns.settings.audio_column for reference in references.values()}
    audio_columns = sorted(name for name in named if has_audio(name, dataset.column_names))
    no_lengths = () if columns.settings.length_column is None else (columns.settings.length_column,)
    arrays = _map_rows(
        undecoded(dataset, references).with_format("arrow"),
        FeatureReader(
            columns, references, False, no_lengths, _files_of(dataset, audio_columns, columns.settings.data_dir)
        ),
        columns.types_with(dataset.features),
        **arguments,
    )
    columns.pipeline.access_log.finish()
    # The audio was needed until now, where an entry was gone.
    arrays = arrays.remove_columns([name for name in dropped if name in arrays.column_names])
    return arrays.with_format(**_format_with(kept, [], list(references)))


def _files_of(dataset: datasets.Dataset, audio_columns: Sequence[str], data_dir: str | None) -> str:
    """Return what tells the state of all loose files in these columns; "" if there are none."""
    paths = [located(path, data_dir) for column in audio_columns for path in loose_files(dataset, column)]
    return files_sha256(paths, _sha_of_content) if paths else ""


def _sha_of_content(path: str) -> str:
    try:
        return read_source(path).blob_sha
    except AudioError as exc:
        return str(exc)


def _format_with(dataset: datasets.Dataset, removed: Sequence[str], added: Sequence[str]) -> dict[str, Any]:
    """Return the arguments of `with_format` that keep a dataset's format, and show added columns in it."""
    form = dict(dataset.format)
    if form["type"] == "custom":  # a transform of the user's stays; an attach of features was not mapped
        attached = Attached.of(dataset)
        if attached.before is None:
            return {"type": None}
        form |= {
            "format_kwargs": {"transform": attached.before},
            "columns": attached.before_columns or form["columns"],
            "output_all_columns": attached.keeps_others,
        }
    # After a `flatten` `datasets` may still show columns that were flattened.
    there = dataset.column_names
    shown = [name for name in form["columns"] if name in there and name not in (*removed, *added)]
    return {**form, "columns": [*shown, *added]}


def _map_rows(dataset: datasets.Dataset, function: Any, features: datasets.Features, **map_kwargs: Any) -> Any:
    """Map a batched function over a dataset whose resulting features are known."""
    if len(dataset) == 0:  # which `datasets` gives back as it is, without the new columns
        return _empty(features, dataset)
    if any(map_kwargs.get(name) is not None for name in ("cache_file_name", "new_fingerprint")):
        # Under a name of the user's own `datasets` takes the file that is there, though other rows are in it.
        map_kwargs["load_from_cache_file"] = False
    return dataset.map(function, batched=True, features=features, **map_kwargs)


def _side_by_side(kept: datasets.Dataset, added: datasets.Dataset) -> datasets.Dataset:
    """Return the columns of two datasets of the same rows as one dataset; neither is written again."""
    if len(kept) == 0:  # of which `datasets` takes the first alone
        return _empty(datasets.Features({**kept.features, **added.features}), kept)
    return datasets.concatenate_datasets([kept.with_format(None), added], axis=1)


def _empty(features: datasets.Features, like: datasets.Dataset) -> datasets.Dataset:
    return datasets.Dataset(features.arrow_schema.empty_table(), split=like.split)
