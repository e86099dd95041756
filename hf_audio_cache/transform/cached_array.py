"""`CachedArray`: the feature type of a column of references. It has `reference_reader` read the arrays of a row.

Like `datasets.Image` for pictures: Arrow holds 32 bytes a row (the ``blob_sha``), the type holds what all rows share,
and a row becomes the array when it is read.
"""

from __future__ import annotations

import functools
import logging
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import datasets
import pyarrow as pa
from datasets.features.features import register_feature

from ..audio.channels import Channels
from ..cache.keys import AudioCacheKey, WaveformCacheKey
from ..errors import MissingEntryError
from ..processors.output_forms import copied
from .reference_reader import AnyCache, AnyKey, ReferenceReader, outputs_of, pick_output, reader_of

logger = logging.getLogger(__name__)

_SHA_BYTES = 32


@dataclass
class CachedArray:
    """Feature type of a cached array.

    Reading a row gives the array that the processor made, as a NumPy array of its own dtype and shape. `datasets`
    converts it if the dataset has a format.

    Parameters
    ----------
    root
        The ``features`` or ``waveforms`` directory of a cache, or its URL. Never holds a secret.
    processor_sha
        Identity of the processor, 64 hexadecimal digits; None for a waveform.
    sampling_rate, max_length_ms, auto_resample, channels
        As in the entry's key, where the first is ``sample_rate``.
    name
        Which output of the processor. Of a waveform ``"waveform"``, the array, or ``"audio"``, a dict of ``array`` and
        ``sampling_rate``.
    decode
        False gives the ``blob_sha`` as 32 bytes and reads nothing.
    audio_column
        The column of the audio that the arrays were made from, as it was named then. None if that is not known.
    """

    root: str
    processor_sha: str | None
    sampling_rate: int
    max_length_ms: int = 0
    auto_resample: bool = False
    name: str = "input_features"
    decode: bool = True
    audio_column: str | None = None
    channels: Channels = "mean"
    # `datasets` needs these of every feature type.
    id: str | None = field(default=None, repr=False)
    dtype: ClassVar[str] = "CachedArray"
    pa_type: ClassVar[Any] = pa.binary()  # datasets 4 cannot write binary of a fixed size
    _type: str = field(default="CachedArray", init=False, repr=False)

    def __call__(self) -> pa.DataType:
        """Return the Arrow type of the column."""
        return self.pa_type

    def encode_example(self, value: bytes | str | AnyKey) -> bytes:
        """Return the 32 bytes of a ``blob_sha``, from these bytes, their hexadecimal digits or a key."""
        if isinstance(value, AnyKey):
            value = value.blob_sha
        return bytes.fromhex(value) if isinstance(value, str) else value

    def cast_storage(self, storage: pa.Array) -> pa.Array:
        """Return a column of any binary type as this type's storage.

        `datasets` also tries it on arrays, if a mapped function has looked at them, and then keeps these as lists.
        """
        if pa.types.is_nested(storage.type):
            _warn_of_lists(self.name)
        return storage.cast(self.pa_type)

    def decode_example(self, value: Any, token_per_repo_id: Mapping[str, Any] | None = None) -> Any:
        """Return the array that `value`, a ``blob_sha`` of 32 bytes, refers to; an array as it is.

        `datasets` decodes a row of a stream again after ``remove_columns`` or ``rename_column``.

        Raises
        ------
        MissingEntryError
            If there is no entry.
        """
        return _reader(self).read(self.key(value), self.name) if isinstance(value, bytes) else value

    def key(self, value: bytes) -> AnyKey:
        """Return the key of the entry that `value` refers to."""
        # NumPy's fixed-width strings, through which some formats pass, lose zeros at their end.
        blob_sha = bytes(value).ljust(_SHA_BYTES, b"\0").hex()
        settings = (self.sampling_rate, self.max_length_ms, self.auto_resample, self.channels)
        if self.processor_sha is None:
            return WaveformCacheKey(blob_sha, *settings)
        return AudioCacheKey(blob_sha, self.processor_sha, *settings)


@dataclass
class CachedArrayList(CachedArray):
    """Feature type of a list of cached arrays, for audio columns whose cells are lists of clips.

    Reading a row gives a list of arrays. A clip without features is None. (`datasets` cannot decode a
    ``List(CachedArray)``: it compares decoded with stored values.) The parameters are those of `CachedArray`.
    """

    dtype: ClassVar[str] = "CachedArrayList"
    pa_type: ClassVar[Any] = pa.list_(pa.binary())
    _type: str = field(default="CachedArrayList", init=False, repr=False)

    def encode_example(self, value: Any) -> Any:
        """Return the 32 bytes of each ``blob_sha``; see `CachedArray.encode_example`."""
        encode = super().encode_example
        return [None if each is None else encode(each) for each in value]

    def cast_storage(self, storage: pa.Array) -> pa.Array:
        """Return a column of lists of any binary type as this type's storage; see `CachedArray.cast_storage`."""
        if not pa.types.is_null(storage.type) and pa.types.is_nested(storage.type.value_type):
            _warn_of_lists(self.name)
        return storage.cast(self.pa_type)

    def decode_example(self, value: Any, token_per_repo_id: Mapping[str, Any] | None = None) -> Any:
        """Return the arrays that the ``blob_sha`` of 32 bytes refer to; see `CachedArray.decode_example`."""
        decode = super().decode_example
        arrays = []
        for item, each in enumerate(value):
            try:
                arrays.append(None if each is None else decode(each))
            except MissingEntryError as exc:
                raise missing_at(f"item {item} of a list", exc) from exc
        return arrays


def missing_at(place: str, error: MissingEntryError) -> MissingEntryError:
    """Return an error that says where the missing entry is needed."""
    return MissingEntryError(f"For {place}, {error}", key=error.key, root=error.root)


@functools.cache
def _warn_of_lists(name: str) -> None:
    """Warn once of an output whose references became lists."""
    logger.warning(
        "A mapped function has looked at references to %r, so that datasets writes their arrays into Arrow as lists, "
        "a megabyte a row. To keep references, pass input_columns= without them, map before cached_features.map(ds), "
        "or return only new columns of a dataset from which they were removed, and put the two side by side "
        "(concatenate_datasets(…, axis=1)). If arrays are what you want, use cached_features.materialize(ds).",
        name,
    )


with warnings.catch_warnings():
    # `datasets` warns every user that this function is experimental. Its oldest and newest releases are tested here.
    warnings.simplefilter("ignore", UserWarning)
    register_feature(CachedArray, "CachedArray")
    register_feature(CachedArrayList, "CachedArrayList")


def reference_columns(features: Mapping[str, Any]) -> dict[str, CachedArray]:
    """Return the columns that are references."""
    return {name: feature for name, feature in features.items() if isinstance(feature, CachedArray)}


def undecoded(dataset: Any, references: Mapping[str, CachedArray]) -> Any:
    """Return the dataset with its references as they are stored."""
    for name, feature in references.items():
        dataset = dataset.cast_column(name, replace(feature, decode=False))
    return dataset


def stored_shas(dataset: datasets.Dataset, column: str) -> pa.ChunkedArray:
    """Return a column of references as it is stored."""
    return dataset.with_format("arrow").select_columns([column])[:].column(0)


def read_references(
    columns: Mapping[str, Sequence[bytes | None]], types: Mapping[str, CachedArray], own_cache: AnyCache
) -> dict[str, list[Any]]:
    """Return the arrays of a batch of rows by column. Its entries are read in one batch, each once.

    `own_cache` is read for references to its own root, and for those that their own root has lost. Raises
    MissingEntryError if an entry is gone.
    """
    entries: dict[AnyCache, dict[AnyKey, Any]] = {}
    keys_of: dict[str, list[AnyKey | None]] = {}
    for name, feature in types.items():
        keys_of[name] = [None if value is None else feature.key(value) for value in columns[name]]
        # In the order of the rows, in which they then lie in memory.
        wanted = entries.setdefault(_cache_of(feature, own_cache), {})
        wanted.update(dict.fromkeys(key for key in keys_of[name] if key is not None))
    for cache, wanted in entries.items():
        wanted.update(_found(cache, own_cache, wanted, lambda cache, keys: cache.read_many(keys)))
    arrays: dict[str, list[Any]] = {}
    for name, feature in types.items():
        arrays[name] = []
        given: set[AnyKey] = set()
        found = entries[_cache_of(feature, own_cache)]
        for key in keys_of[name]:
            if key is None:
                arrays[name].append(None)
                continue
            array = pick_output(outputs_of(found[key]), key, feature.name, feature.root)
            arrays[name].append(copied(array) if key in given else array)
            given.add(key)
    return arrays


def read_lengths(
    columns: Mapping[str, Sequence[bytes | None]], types: Mapping[str, CachedArray], own_cache: AnyCache
) -> list[int | None]:
    """Return of how many samples the features of each row were made, as the entries of one column say it."""
    name, feature = next(iter(types.items()))
    cache = _cache_of(feature, own_cache)
    keys = [None if value is None else feature.key(value) for value in columns[name]]
    wanted = dict.fromkeys(key for key in keys if key is not None)
    entries = _found(cache, own_cache, wanted, lambda cache, keys: cache.open_many(keys))
    lengths = {key: entry.length.n_samples for key, entry in entries.items() if entry is not None and entry.length}
    return [None if key is None else lengths.get(key) for key in keys]


def _found(
    cache: AnyCache, own_cache: AnyCache, wanted: Iterable[AnyKey], read: Callable[[AnyCache, list[AnyKey]], list[Any]]
) -> dict[AnyKey, Any]:
    """Return each entry from a cache, or from `own_cache` if that has lost it: its root may have been moved."""
    keys = list(wanted)
    entries = dict(zip(keys, read(cache, keys), strict=True))
    if cache is not own_cache and type(cache) is type(own_cache):
        lost = [key for key, entry in entries.items() if entry is None]
        entries.update(zip(lost, read(own_cache, lost), strict=True))
    return entries


def _cache_of(feature: CachedArray, own_cache: AnyCache) -> AnyCache:
    return own_cache if feature.root == str(own_cache.root) else _reader(feature).cache


def _reader(feature: CachedArray) -> ReferenceReader:
    return reader_of(feature.root, feature.processor_sha is None)
