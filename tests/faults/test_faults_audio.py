"""A run over clips of which three in ten are damaged, missing or no audio at all."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import os
import random
import re
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import soundfile
import soxr
from children import start_child
from crossed import crossed

from hf_audio_cache import CachedFeatures, verify
from hf_audio_cache.cache.stats import BadClip
from hf_audio_cache.errors import AudioDecodeError, AudioError, AudioSourceError

RATE = 8000
BATCH = 64  # what `CachedFeatures.map` and `attach` look up at once
UNKNOWN_FRAMES = 2**63 - 1

pytestmark = pytest.mark.timeout(900)


def energy(waveform, sampling_rate):
    """A front end: the energy of each hundredth of a second, and the number of samples."""
    n_frames = -(-len(waveform) * 100 // sampling_rate)
    frames = np.zeros((n_frames, sampling_rate // 100), np.float32)
    frames.reshape(-1)[: len(waveform)] = waveform
    return {"energy": np.square(frames).mean(axis=1), "n_samples": np.asarray(len(waveform), np.int64)}


# The truth about a clip, by soundfile alone ---------------------------------------------------------------------------


def samples_of(content: bytes) -> tuple[np.ndarray, int] | None:
    """Return all samples and the rate of a clip; None where soundfile cannot open it or not read it to its end."""
    streams = re.split(rb"(?=OggS\x00\x02)", content)
    if len(streams) > 2:  # one after another: some letters have silence behind them, of which soundfile reads nothing
        read = [samples_of(stream) for stream in streams if stream]
        if None in read:
            return None
        return np.concatenate([samples.mean(axis=1, keepdims=True) for samples, _ in read]), read[0][1]
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as sound:
            stated, rate = sound.frames, sound.samplerate
            sound.seek(0)  # as soundfile.read does it: of an MP3 the last bits are others without
            samples = sound.read(dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, ValueError, OverflowError, MemoryError):
        return None
    return (samples, rate) if len(samples) == stated and len(samples) else None


def waveform_of(content: bytes) -> np.ndarray:
    """Return the clip's mean over its channels at `RATE`."""
    found = samples_of(content)
    assert found is not None
    samples, rate = found
    mono = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1)
    return mono if rate == RATE else soxr.resample(mono, rate, RATE, quality="HQ")


def states_more_than_it_has(content: bytes) -> bool:
    """Return whether the chunk of samples of a WAV is said to be 100 ms longer than the file."""
    if content[:4] != b"RIFF" or content[8:12] != b"WAVE":
        return False
    position, frames_a_second, frame_bytes = 12, 0, 1
    while position + 8 <= len(content):
        name, size = struct.unpack_from("<4sI", content, position)
        if name == b"fmt ":
            frames_a_second, _, frame_bytes = struct.unpack_from("<IIH", content, position + 12)
        if name == b"data":
            n_lacking = (position + 8 + size - len(content)) / (frame_bytes or 1)
            return size < 0x7F000000 and n_lacking >= 0.1 * frames_a_second  # from there on it means "not known"
        position += 8 + size + size % 2
    return True


def decodes_whole(content: bytes) -> bool:
    """Return whether a clip has a rate that audio has, all the samples that it states, and each of them a number."""
    found = samples_of(content)
    return (
        found is not None
        and 1_000 <= found[1] <= 1_000_000
        and bool(np.isfinite(found[0]).all())
        and not states_more_than_it_has(content)
    )


# Rows -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A cell of the audio column, and what must come of it."""

    cell: Any
    kind: str
    clip: str = ""
    content: bytes | None = None  # what is there to be decoded; None where nothing can be read
    waveform: np.ndarray | None = None  # None for a bad clip

    @property
    def is_bad(self) -> bool:
        return self.waveform is None


def good(content: bytes, path: str, kind: str = "whole", *, same_as: bytes | None = None) -> Row:
    return Row({"bytes": content, "path": path}, kind, path, content, waveform_of(same_as or content))


def bad(content: bytes, path: str, kind: str) -> Row:
    return Row({"bytes": content, "path": path}, kind, path, content)


def without_content(cell: Any, kind: str, clip: str) -> Row:
    return Row(cell, kind, clip)


def as_format(clip: Path, form: str) -> bytes:
    samples, rate = soundfile.read(clip, dtype="int16")
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=form)
    return buffer.getvalue()


def cut(content: bytes, path: str, rng: random.Random) -> Row:
    """Cut a clip at any byte, so that 100 ms are lost at least. (An Ogg file that ends with a page looks whole.)"""
    whole, rate = samples_of(content)
    while True:
        length = rng.randrange(1, len(content))
        part = content[:length]
        if content[:4] == b"OggS" and content[length : length + 4] == b"OggS":
            continue
        left = samples_of(part)
        if left is None or len(left[0]) <= len(whole) - 0.1 * rate:
            return bad(part, path, "cut")


def flipped(content: bytes, path: str, rng: random.Random) -> Row | None:
    """Flip one bit of the first header; None where that leaves a clip that decodes."""
    damaged = bytearray(content)
    damaged[rng.randrange(42)] ^= 1 << rng.randrange(8)
    return None if decodes_whole(bytes(damaged)) else bad(bytes(damaged), path, "bit flipped")


def flipped_and_whole(content: bytes, path: str, rng: random.Random) -> Row | None:
    damaged = bytearray(content)
    damaged[rng.randrange(42)] ^= 1 << rng.randrange(8)
    return good(bytes(damaged), path, "harmless flip") if decodes_whole(bytes(damaged)) else None


def with_total(flac: bytes, total: int) -> bytes:
    """Return a FLAC that states another number of samples, in 36 bits of its STREAMINFO; 0 stands for unknown."""
    assert flac[:4] == b"fLaC"
    word = int.from_bytes(flac[18:26], "big") & ~((1 << 36) - 1) | total
    return flac[:18] + word.to_bytes(8, "big") + flac[26:]


def flac_start(flac: bytes) -> int:
    """Return where the first frame of a FLAC begins."""
    position, is_last = 4, False
    while not is_last:
        is_last = bool(flac[position] & 0x80)
        position += 4 + int.from_bytes(flac[position + 1 : position + 4], "big")
    return position


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def box(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), name) + content


def png(rng: random.Random) -> bytes:
    pixels = b"".join(b"\0" + rng.randbytes(3 * 32) for _ in range(32))
    header = struct.pack(">IIBBBBB", 32, 32, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


def mp4(rng: random.Random) -> bytes:
    return (
        box(b"ftyp", b"isom\0\0\2\0isomavc1")
        + box(b"moov", box(b"mvhd", bytes(100)))
        + box(b"mdat", rng.randbytes(2000))
    )


NO_AUDIO: dict[str, Callable[[random.Random], bytes]] = {
    "png": png,
    "mp4": mp4,
    "html": lambda rng: b"<!DOCTYPE html><html><body><h1>404 Not Found</h1>%d</body></html>" % rng.getrandbits(60),
    "text": lambda rng: b"version https://git-lfs.github.com/spec/v1\noid sha256:%064x\n" % rng.getrandbits(256),
    "gzip": lambda rng: gzip.compress(rng.randbytes(500)),
    "zeros": lambda rng: bytes(100 + rng.randrange(5000)),
    "pdf": lambda rng: b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n" + rng.randbytes(300),
}


def no_samples(clip: Path) -> dict[str, bytes]:
    """Return clips of several containers that have a header, and nothing behind it."""
    _, rate = soundfile.read(clip)
    empty = {}
    for form in ("WAV", "OGG", "AIFF"):
        buffer = io.BytesIO()
        soundfile.write(buffer, np.zeros(0, np.int16), rate, format=form)
        empty[form] = buffer.getvalue()
        assert empty[form]
    flac = as_format(clip, "FLAC")
    empty["FLAC of unknown length"] = with_total(flac, 0)[: flac_start(flac)]
    empty["FLAC that states samples"] = flac[: flac_start(flac)]
    return empty


def test_soundfile_reports_2_to_the_63_frames_for_a_flac_without_any(prompts):
    content = no_samples(prompts[0])["FLAC of unknown length"]
    assert soundfile.info(io.BytesIO(content)).frames == UNKNOWN_FRAMES


@dataclass(frozen=True)
class Corpus:
    """Clips to damage, and a folder for those that are read by their path."""

    prompts: list[Path]
    letters: list[Path]
    sentences: list[Path]
    folder: Path


def without_bytes(corpus: Corpus, rng: random.Random, index: int) -> list[Row]:
    """Return rows of which nothing can be read, one of each kind."""
    folder = corpus.folder
    (folder / "folder.wav").mkdir(exist_ok=True)
    with contextlib.suppress(FileExistsError):
        (folder / "loop.wav").symlink_to(folder / "loop.wav")
    denied = folder / f"denied-{index}.wav"
    denied.write_bytes(rng.choice(corpus.prompts).read_bytes())
    denied.chmod(0)
    paths = {
        "missing": folder / f"missing-{index}.wav",
        "bare name": Path(f"missing-{index}.wav"),
        "a directory": folder / "folder.wav",
        "a symbolic link to itself": folder / "loop.wav",
        "below a file": corpus.prompts[0] / f"{index}.wav",
        "too long": folder / ("x" * 300),
        "input/output error": Path("/proc/self/mem"),  # which can be opened, and not be read
        "missing URL": f"file://{folder}/missing-{index}.wav",
    }
    if os.geteuid() != 0:  # root may read everything
        paths["denied"] = denied
    rows = [without_content({"bytes": None, "path": str(path)}, kind, str(path)) for kind, path in paths.items()]
    rows.append(without_content(None, "None", "None"))
    both = {"bytes": None, "path": None}
    return [*rows, without_content(both, "a cell of None", "a dict of bytes: NoneType, path: NoneType")]


def bad_rows(corpus: Corpus, count: int, rng: random.Random) -> list[Row]:
    """Return `count` bad rows of every kind in turn, no two of one content but for the empty ones."""

    def endless() -> Iterator[Row]:
        index = 0
        while True:
            clip = rng.choice(corpus.prompts)
            for form in ("WAV", "FLAC", "MP3"):
                yield cut(as_format(clip, form), f"cut-{index}.{form.lower()}", rng)
            yield cut(rng.choice(corpus.letters).read_bytes(), f"cut-{index}.ogg", rng)
            encoded = [clip.read_bytes(), as_format(clip, "FLAC"), rng.choice(corpus.letters).read_bytes()]
            for content, suffix in zip(encoded, ("wav", "flac", "ogg"), strict=True):
                row = None
                while row is None:
                    row = flipped(content, f"flipped-{index}.{suffix}", rng)
                yield row
            flac = as_format(clip, "FLAC")
            n_samples = len(samples_of(flac)[0])
            yield bad(with_total(flac, n_samples + 1 + rng.randrange(1 << 20)), f"more-{index}.flac", "states too much")
            for kind, content in NO_AUDIO.items():
                yield bad(content(rng), f"{kind}-{index}.wav", kind)
            yield from without_bytes(corpus, rng, index)
            if index == 0:
                for form, content in no_samples(clip).items():
                    yield bad(content, f"no samples, {form}", "no samples")
            yield bad(b"", "empty.wav", "empty")
            index += 1

    found: list[Row] = []
    seen: set[bytes] = set()
    for row in endless():
        if row.content and row.content in seen:
            continue
        seen.add(row.content or b"")
        found.append(row)
        if len(found) == count:
            return found
    raise AssertionError


def good_rows(corpus: Corpus, count: int, rng: random.Random) -> list[Row]:
    """Return `count` good rows, no two of one content: as they are, by path, renamed, without a length, flipped."""
    clips = [*corpus.sentences, *corpus.prompts, *corpus.letters]
    rng.shuffle(clips)
    rows: list[Row] = []
    for index, clip in enumerate(clips[:count]):
        content = clip.read_bytes()
        form = index % 10
        if form == 0:
            path = corpus.folder / f"{index}{clip.suffix}"
            path.write_bytes(content)
            row = good(content, str(path), "by path")
            row = Row({"bytes": None, "path": str(path)}, row.kind, row.clip, row.content, row.waveform)
        elif form == 1:
            row = good(content, f"{index}{'.wav' if clip.suffix == '.ogg' else '.mp3'}", "renamed")
        elif form == 2 and clip.suffix == ".wav":
            flac = as_format(clip, "FLAC")
            row = good(with_total(flac, 0), f"{index}.flac", "FLAC of unknown length", same_as=flac)
        elif form == 3:
            row = flipped_and_whole(content, f"{index}.wav", rng) or good(content, f"{index}.wav")
        elif form == 4 and clip.suffix == ".wav":
            row = good(as_format(clip, "MP3"), f"{index}.wav", "MP3 named .wav")
        else:
            row = good(content, f"{index}{clip.suffix}")
        rows.append(row)
    return rows


@pytest.fixture(scope="module")
def make_rows(prompts, letters, sentences, tmp_path_factory):
    """``make_rows(n)``: `n` rows, three in ten of them bad, in a random order."""
    folder = tmp_path_factory.mktemp("clips")
    by_size = sorted(prompts, key=lambda path: path.stat().st_size)
    made: dict[int, list[Row]] = {}

    def make(n_rows: int) -> list[Row]:
        if n_rows not in made:
            rng = random.Random(n_rows)
            corpus = Corpus(by_size[:480], letters[::4], sentences, folder)
            n_bad = 3 * n_rows // 10
            rows = bad_rows(corpus, n_bad, rng) + good_rows(corpus, n_rows - n_bad, rng)
            rng.shuffle(rows)
            made[n_rows] = rows
        return made[n_rows]

    yield make
    for denied in folder.glob("denied-*"):
        denied.chmod(0o600)


@pytest.fixture
def rows(faults, make_rows):
    found = make_rows(faults.times(160, 1000))
    assert sum(row.is_bad for row in found) == 3 * len(found) // 10
    return found


def dataset_of(rows: Sequence[Row]) -> datasets.Dataset:
    features = datasets.Features({"audio": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}})
    cells = datasets.Dataset.from_dict({"audio": [row.cell for row in rows]}, features=features)
    dataset = cells.cast_column("audio", datasets.Audio(decode=False))
    return dataset.add_column("number", list(range(len(rows)))).add_column("kind", [row.kind for row in rows])


def make(root: Path, on_error: str) -> CachedFeatures:
    return CachedFeatures(
        energy,
        root,
        identity="energy",
        sampling_rate=RATE,
        auto_resample=True,
        on_error=on_error,
        reason_column="reason" if on_error == "null" else None,
        waveforms="always",
    )


# What must be, in each form -------------------------------------------------------------------------------------------


def wrong_rows(found: Sequence[Any], rows: Sequence[Row]) -> list[str]:
    """Return what is not right about rows that have a number, outputs and maybe a reason."""
    wrong = []
    for given in found:
        row = rows[given["number"]]
        if row.is_bad:
            is_right = given["energy"] is None and given["n_samples"] is None and given["reason"] != ""
        else:
            expected = energy(row.waveform, RATE)
            is_right = (
                given["energy"] is not None
                and np.array_equal(np.asarray(given["energy"], np.float32), expected["energy"])
                and given["n_samples"] == expected["n_samples"]
                and given.get("reason", "") == ""
            )
        if not is_right or given["kind"] != row.kind:
            wrong.append(f"{given['number']}: {row.kind} {row.clip}")
    return wrong


def shas_in(folder: Path) -> Counter[str]:
    return Counter(path.name.partition(".")[0] for path in folder.rglob("*") if path.is_file())


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def batches(rows: Sequence[Row], size: int, n_shards: int) -> Iterator[Sequence[Row]]:
    for shard in np.array_split(np.arange(len(rows)), n_shards):
        for start in range(0, len(shard), size):
            yield [rows[index] for index in shard[start : start + size]]


def check_root_and_figures(
    cached_features: CachedFeatures, rows: Sequence[Row], size: int = BATCH, n_shards: int = 1
) -> None:
    """Check that only good clips are stored, each once, and that all that happened is counted and listed."""
    root = cached_features.root
    shas = Counter(sha(row.content) for row in rows if not row.is_bad)
    assert set(shas.values()) == {1}
    assert shas_in(root / "features") == shas
    assert shas_in(root / "waveforms") == shas
    names = {path.name for path in root.iterdir()} - {"access", "runs"}  # of records of use, which come when they come
    assert names == {"CACHEDIR.TAG", "features", "processors", "waveforms"}
    assert verify(root).is_clean

    n_looked_up = sum(
        len({row.content for row in batch if row.content is not None}) for batch in batches(rows, size, n_shards)
    )
    stats = cached_features.stats
    assert (stats.hits, stats.misses) == (0, n_looked_up)
    assert (stats.waveform_hits, stats.waveform_misses, stats.decodes) == (0, n_looked_up, n_looked_up)
    assert (stats.computed, stats.bad_clips) == (len(shas), sum(row.is_bad for row in rows))
    assert (stats.bad_entries, stats.read_errors, stats.write_errors, stats.unsigned_entries) == (0, 0, 0, 0)
    assert stats.bytes_written == sum(path.stat().st_size for path in root.rglob("*.npz"))
    check_list(cached_features.bad_clips, rows)


def check_list(listed: list[BadClip], rows: Sequence[Row]) -> None:
    decoding = {"AudioDecodeError", "TruncatedAudioError"}
    wanted = {row.clip: {"AudioSourceError"} if row.content is None else decoding for row in rows if row.is_bad}
    assert {one.clip for one in listed} == wanted.keys()
    assert all(one.error in wanted[one.clip] for one in listed)
    assert len(listed) == len(set(listed)) == len(wanted)
    assert all(one.reason for one in listed)


# References -----------------------------------------------------------------------------------------------------------


def check_reasons(reasons: Sequence[str], cached_features: CachedFeatures, rows: Sequence[Row]) -> None:
    """Check that each reason is one that `bad_clips` has, of that very clip; and none where there are features."""
    known = {one.reason: one.clip for one in cached_features.bad_clips}
    for row, reason in zip(rows, reasons, strict=True):
        assert known[reason] == row.clip if row.is_bad else reason == ""


def check_rows(cached_features: CachedFeatures, found: Sequence[Any], rows: Sequence[Row]) -> int:
    """Check which rows are there, and the reasons that they give; return how many are wrong."""
    if "reason" in found[0]:
        assert [row["number"] for row in found] == list(range(len(rows)))
        check_reasons([row["reason"] for row in found], cached_features, rows)
    else:
        assert [row["number"] for row in found] == numbers_of_good(rows)
    return len(wrong_rows(found, rows))


def numbers_of_good(rows: Sequence[Row]) -> list[int]:
    return [index for index, row in enumerate(rows) if not row.is_bad]


def references(cached_features, dataset, num_proc):
    return cached_features.map(dataset, num_proc=num_proc)


def arrays(cached_features, dataset, num_proc):
    features = cached_features.features(dataset.features)
    return dataset.map(cached_features, batched=True, batch_size=BATCH, features=features, num_proc=num_proc)


@pytest.mark.parametrize(("form", "on_error", "num_proc"), crossed([references, arrays], ["null", "skip"], [None, 2]))
def test_a_mapped_dataset_has_the_right_rows(rows, form, on_error, num_proc, faults, tmp_path):
    cached_features = make(tmp_path / "root", on_error)
    mapped = form(cached_features, dataset_of(rows), num_proc)
    check_root_and_figures(cached_features, rows, n_shards=num_proc or 1)
    assert mapped["audio"][:] == [rows[number].cell for number in mapped["number"]]
    wrong = check_rows(cached_features, list(mapped.remove_columns("audio")), rows)
    faults.survived(f"bad clips: {form.__name__}, {on_error}, {num_proc}", len(rows), wrong_values=wrong)


@pytest.mark.parametrize(("form", "num_proc"), crossed([references, arrays], [None, 2]))
def test_a_run_ends_at_a_bad_clip_and_keeps_what_it_computed(rows, form, num_proc, faults, tmp_path):
    strict = make(tmp_path / "root", "raise")
    with pytest.raises(AudioError) as caught:
        form(strict, dataset_of(rows), num_proc)
    firsts = [next(row for row in shard if row.is_bad) for shard in batches(rows, len(rows), num_proc or 1)]
    clip = caught.value.clip
    assert clip in [row.clip for row in firsts]
    assert type(caught.value) in (AudioSourceError, AudioDecodeError)
    told = [one.reason for one in strict.bad_clips if (one.clip, one.error) == (clip, type(caught.value).__name__)]
    assert [reason for reason in told if str(caught.value).startswith(reason)]  # the error has its row and advice, too
    stored = shas_in(strict.root / "features")
    assert 0 < len(stored) < sum(not row.is_bad for row in rows)
    assert stored <= Counter(sha(row.content) for row in rows if not row.is_bad)

    lenient = make(tmp_path / "root", "null")
    mapped = form(lenient, dataset_of(rows), num_proc)
    assert (lenient.stats.hits, lenient.stats.computed) == (len(stored), len(numbers_of_good(rows)) - len(stored))
    wrong = wrong_rows(list(mapped.remove_columns("audio")), rows)
    check_list(lenient.bad_clips, rows)
    faults.survived(f"bad clips: {form.__name__}, raise, num_proc={num_proc}", len(rows), wrong_values=len(wrong))


# What a bad clip is called --------------------------------------------------------------------------------------------


def test_each_row_is_given_the_reason_of_its_own_clip_also_where_contents_are_equal(tmp_path):
    rows = [bad(b"", f"{name}.wav", "empty") for name in "ab"] + [bad(b"not audio", f"{n}.wav", "text") for n in "cd"]
    cached_features = make(tmp_path / "root", "null")
    batch = cached_features({"audio": [row.cell for row in rows]})
    assert [row.clip in reason for row, reason in zip(rows, batch["reason"], strict=True)] == [True] * 4
    assert {one.clip for one in cached_features.bad_clips} == {"a.wav", "b.wav", "c.wav", "d.wav"}


def read_a_pipe(path: str, root: str) -> None:
    batch = make(Path(root), "null")({"audio": [path]})
    assert batch["energy"] == [None]


def test_a_pipe_in_the_place_of_a_clip_stops_nobody(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    child = start_child(read_a_pipe, str(tmp_path / "pipe.wav"), str(tmp_path / "root"))
    child.join(8)
    is_stuck = child.is_alive()
    child.kill()
    child.join()
    assert not is_stuck
    assert child.exitcode == 0
