"""1. A hit against the other ways to keep features, and against reading and decoding the same bytes bare."""

from __future__ import annotations

import json
import math
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.clips import SETS, cells, clips
from benchmarks.contenders import (
    KEEPERS,
    SAVEZ,
    cached_features,
    main_output,
    prepare,
    read_arrow,
    read_kept,
    recompute,
    stored_bytes,
)
from benchmarks.harness import Contender, Pass, Worker, compare
from benchmarks.options import QUICK_PROCESSOR, Options, storing
from benchmarks.report import Claim, Section

BATCH = 32
HIT = "ours: AudioCache.get"
BARE = "floor: the stored bytes, read, checksummed and decoded bare"
BARE_BATCH = f"{BARE}, {BATCH} into one array"
ARROW = "Dataset.map, Arrow, numpy format"
ATTACHED, BOTH = f"ours: .attach, {BATCH} rows", f"ours: .map with .attach, {BATCH} rows"
MAPPED = "ours: .map, a row"

# For Whisper: at most so many times the floor beside it.
AT_MOST = {HIT: (BARE, 1.35), ATTACHED: (BARE_BATCH, 1.6), BOTH: (BARE_BATCH, 1.3)}
AT_MOST_BEYOND_MS = 0.1  # a row of `.map`, beyond the floor


def run(options: Options) -> Section:
    """Compare all ways to the features of one clip."""
    section = Section(
        "1. A hit",
        [
            "Each contender reads the features of each clip in turn; the bytes are in the page cache. `AudioCache.get` "
            "has the keys; the callable and `.attach` hash the encoded bytes that they are given; a row of `.map` "
            "carries its key. The floors are no alternatives: they know names and offsets beforehand.",
        ],
    )
    cases = [("whisper_tiny", name) for name in SETS] + [("seamless_m4t", "10 s"), ("ast", "10 s")]
    if options.is_quick:
        cases = [(QUICK_PROCESSOR, "prompts")]
    for processor_name, clip_set in cases:
        _compare(section, options, processor_name, clip_set)
    return section


def _compare(section: Section, options: Options, processor_name: str, clip_set: str) -> None:
    encoded = clips(clip_set, options.some(64, quick=3))
    folder = options.scratch / "hit" / f"{processor_name}-{clip_set.replace(' ', '')}"
    with Worker(in_process=options.in_processes) as worker:
        sizes = worker.call(prepare, processor_name, encoded, folder)
    output = main_output(processor_name)
    comparison = compare(
        contenders(processor_name, encoded, folder, output, options), options.rounds, in_processes=options.in_processes
    )
    caption = f"{processor_name}, {clip_set} ({len(encoded)} clips)"
    section.add(caption, comparison, beside=HIT)
    kept = {keeper.name: sizes[f"keeper-{number}"] for number, keeper in enumerate(KEEPERS)}
    kept |= {ARROW: sizes["arrow"], "ours: features": stored_bytes(folder / "root" / "features")}
    kept["ours: waveforms, beside them"] = stored_bytes(folder / "root" / "waveforms")
    section.tables[f"{caption}, bytes a clip"] = [
        {"what": name, "bytes a clip": size // len(encoded)} for name, size in kept.items() if size
    ]
    if processor_name != "whisper_tiny":
        return
    section.claims += [
        Claim(f"{caption}: {name} / its floor", comparison.ratios(name, floor), at_most=at_most)
        for name, (floor, at_most) in AT_MOST.items()
    ]
    beyond = [
        1e3 * (row - free) for row, free in zip(*(comparison.seconds[one] for one in (MAPPED, BARE)), strict=True)
    ]
    section.claims += [
        Claim(f"{caption}: {MAPPED}, beyond the floor", beyond, at_most=AT_MOST_BEYOND_MS, unit="ms"),
        Claim(f"{caption}: {ATTACHED} / numpy.load of savez", comparison.ratios(ATTACHED, SAVEZ), at_most=1.0),
    ]


def contenders(
    processor_name: str, encoded: Sequence[bytes], folder: Path, output: str, options: Options
) -> list[Contender]:
    """Return all ways to the features of the clips that `prepare` stored in `folder`."""
    ours = {"processor_name": processor_name, "folder": folder, "output": output}
    computing: dict[str, Any] = {"processor_name": processor_name, "encoded": encoded}
    found = [Contender("recompute", recompute, computing)]
    if processor_name == "whisper_tiny" and options.in_processes:  # it changes transformers in the whole process
        arguments = {**computing, "is_numpy": True}
        found.append(Contender("recompute, Whisper without torch", recompute, arguments, tolerance=1e-4))
    found.append(Contender(ARROW, read_arrow, {"folder": folder, "output": output}))
    for number, keeper in enumerate(KEEPERS):
        arguments = {"number": number, "folder": folder, "count": len(encoded)}
        found.append(Contender(keeper.name, read_kept, arguments, tolerance=keeper.tolerance, needs=keeper.needs))
    return [
        *found,
        Contender(BARE, bare, ours | {"encoded": encoded}),
        Contender(BARE_BATCH, bare_batches, ours | {"encoded": encoded}),
        Contender(HIT, hits, ours | {"encoded": encoded}),
        Contender("ours: the callable, a row", called, ours | {"encoded": encoded, "batch": 1}),
        Contender(f"ours: the callable, {BATCH} rows", called, ours | {"encoded": encoded, "batch": BATCH}),
        Contender(ATTACHED, attached, ours | {"dataset": "audio"}),
        Contender(MAPPED, mapped, ours),
        Contender(BOTH, attached, ours | {"dataset": "references"}),
    ]


def keys(cached: Any, encoded: Sequence[bytes]) -> list[Any]:
    """Return the keys of clips."""
    import hashlib

    from hf_audio_cache import AudioCacheKey

    shas = [hashlib.sha256(clip).hexdigest() for clip in encoded]
    rate = cached.processor.sampling_rate
    return [AudioCacheKey(sha, cached.processor_sha, rate, 0, auto_resample=True) for sha in shas]


def hits(processor_name: str, folder: Path, output: str, encoded: Sequence[bytes]) -> Pass:
    """Read each clip by its key."""
    from hf_audio_cache import AudioCache

    wanted = keys(cached_features(processor_name, folder / "root", **storing()), encoded)
    cache = AudioCache(folder / "root" / "features")
    return Pass(len(wanted), lambda: map(cache.get, wanted))


def called(processor_name: str, folder: Path, output: str, encoded: Sequence[bytes], batch: int) -> Pass:
    """Call the transform with the encoded clips, a batch at a time; one row is called as an example."""
    cached = cached_features(processor_name, folder / "root", **storing())
    given = cells(encoded)
    batches: list[Any] = [given[start : start + batch] for start in range(0, len(given), batch)]
    if batch == 1:
        batches = given
    return Pass(len(given), lambda: (cached({"audio": one})[output] for one in batches))


def attached(processor_name: str, folder: Path, output: str, dataset: str) -> Pass:
    """Read batches of rows through `.attach`."""
    import datasets

    rows = cached_features(processor_name, folder / "root", **storing()).attach(
        datasets.load_from_disk(folder / dataset)
    )
    starts = range(0, len(rows), BATCH)
    return Pass(len(rows), lambda: (rows[start : start + BATCH][output] for start in starts))


def mapped(processor_name: str, folder: Path, output: str) -> Pass:
    """Read the rows of `.map` one by one."""
    import datasets

    import hf_audio_cache  # noqa: F401 - datasets has to know the type of the references

    rows = datasets.load_from_disk(folder / "references")
    return Pass(len(rows), lambda: (rows[number][output] for number in range(len(rows))))


# The floor ----------------------------------------------------------------------------------------------------------


def bare(processor_name: str, folder: Path, output: str, encoded: Sequence[bytes]) -> Pass:
    """Read each entry's file, and decode its frame into an array; where it is and what it holds is known before."""
    readers = _bare_readers(processor_name, folder, output, encoded)
    return Pass(len(readers), lambda: (read(np.empty(*form)) for read, form in readers))


def bare_batches(processor_name: str, folder: Path, output: str, encoded: Sequence[bytes]) -> Pass:
    """Do the same for the rows of a batch, into one array where their shapes are one."""
    readers = _bare_readers(processor_name, folder, output, encoded)

    def read() -> Iterator[list[np.ndarray]]:
        for start in range(0, len(readers), BATCH):
            some = readers[start : start + BATCH]
            forms = [form for _, form in some]
            (shape, dtype), is_one = forms[0], len({shape for shape, _ in forms}) == 1
            places = np.empty((len(some), *shape), dtype) if is_one else [np.empty(*form) for form in forms]
            yield [read(place) for (read, _), place in zip(some, places, strict=True)]

    return Pass(len(readers), read)


def _bare_readers(
    processor_name: str, folder: Path, output: str, encoded: Sequence[bytes]
) -> list[tuple[Callable[[np.ndarray], np.ndarray], tuple[Any, Any]]]:
    cached = cached_features(processor_name, folder / "root", **storing())
    return [bare_reader(Path(cached.audio_cache.path_for(key)), output) for key in keys(cached, encoded)]


def bare_reader(path: Path, output: str) -> tuple[Callable[[np.ndarray], np.ndarray], tuple[Any, Any]]:
    """Return a function that reads one output of an entry into an array and does no more, and the array's form."""
    import xxhash
    from numcodecs import blosc

    with zipfile.ZipFile(path) as archive:
        manifest = json.JSONDecoder().raw_decode(archive.comment[16:].decode())[0]
    member = next(one for one in manifest["members"] if one["name"] == output)
    data = path.read_bytes()
    start = member["offset"] + 10 + int.from_bytes(data[member["offset"] + 8 : member["offset"] + 10], "little")
    dtype, shape, size = np.dtype(member["dtype"]), tuple(member["shape"]), len(data)
    length, value = member["tail"] if member.get("tail") else (0, "")
    kept = (*shape[:-1], shape[-1] - length)
    end = start + (
        math.prod(shape) * dtype.itemsize
        if member["codec"] == "raw"
        else int.from_bytes(data[start + 12 : start + 16], "little")
    )
    name, fill = os.fspath(path), np.frombuffer(bytes.fromhex(value), dtype)[0] if value else None
    if member["codec"] not in ("raw", "blosc"):
        raise ValueError(f"expected a raw or a blosc member, and {path} has {member['codec']}: the floor cannot be had")

    def read(array: np.ndarray) -> np.ndarray:
        file = os.open(name, os.O_RDONLY)
        try:
            block = memoryview(os.read(file, size))
        finally:
            os.close(file)
        xxhash.xxh3_64(block).digest()
        if member["codec"] == "raw":
            array[...] = np.frombuffer(block[start:end], dtype).reshape(shape)
        elif fill is None:
            blosc.decompress(block[start:end], array)
        else:
            array[..., kept[-1] :] = fill
            part = np.empty(kept, dtype)
            blosc.decompress(block[start:end], part)
            array[..., : kept[-1]] = part
        return array

    return read, (shape, dtype)
