"""What somebody without the key can do to the entries of a signed root: cause misses, and nothing else."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import io
import itertools
import multiprocessing
import os
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import audio_datasets as data
import numpy as np
import pytest
import soundfile
from children import start_child
from entry_tools import signed_text

from hf_audio_cache import AudioCache, AudioCacheKey, CachedFeatures, CacheRoot, WaveformCache, verify
from hf_audio_cache.cache.entry import encode_entry
from hf_audio_cache.cache.processor_manifest import Manifest, read_manifest
from hf_audio_cache.cache.signing import SigningKeys
from hf_audio_cache.stores import open_store

RATE = 8000
OURS, THEIRS = "the-key-that-only-we-have", "the-key-that-others-have"
KEYS = SigningKeys([OURS.encode()])
KEY = AudioCacheKey("c0535e4b" * 8, "7d865e95" * 8, 16000, 0)
SMALL = np.linspace(-1, 1, 60, dtype=np.float32).reshape(6, 10)
EVIL = np.full((6, 10), 7, np.float32)

pytestmark = pytest.mark.timeout(600)


def spectrum(waveform, sampling_rate):
    """A front end of two outputs: a spectrogram, and which of its frames are loud."""
    frames = np.lib.stride_tricks.sliding_window_view(waveform[:8000], 200)[::80]
    magnitudes = np.abs(np.fft.rfft(frames, axis=1)).astype(np.float32)
    return {"spectrum": magnitudes, "loud": magnitudes.mean(axis=1) > 1}


def evil_spectrum(waveform, sampling_rate):
    return {name: array * 0 + 7 for name, array in spectrum(waveform, sampling_rate).items()}


def make(root: Path, signing_key: Any = OURS, function: Any = spectrum) -> CachedFeatures:
    return CachedFeatures(
        function, CacheRoot(root, signing_key=signing_key), identity="spectrum", sampling_rate=RATE, waveforms="always"
    )


def is_signed(content: bytes) -> bool:
    signature = hmac.new(OURS.encode(), signed_text(content), hashlib.sha256).hexdigest().encode()
    return content[-64:] == signature


@pytest.fixture(scope="module")
def clips(prompts):
    return [clip for clip in data.shortest(prompts, 200) if soundfile.info(clip).frames > 4000][:12]


@pytest.fixture(scope="module")
def expected(clips):
    return [spectrum(soundfile.read(clip, dtype="float32")[0], RATE) for clip in clips]


@pytest.fixture(scope="module")
def batch(clips):
    return {"audio": data.columns(clips)["audio"]}


def wrong_rows(outputs: Any, expected: Any) -> int:
    """Return how many rows are not the bits that they must be."""
    rows = [dict(zip(outputs, row, strict=True)) for row in zip(*outputs.values(), strict=True)]
    assert len(rows) == len(expected)
    return sum(
        any(
            (row[name].dtype, row[name].shape, row[name].tobytes()) != (array.dtype, array.shape, array.tobytes())
            for name, array in wanted.items()
        )
        for row, wanted in zip(rows, expected, strict=True)
    )


# One entry, changed everywhere ----------------------------------------------------------------------------------------

SMALL_ENTRIES = {
    "features": (AudioCache, KEY, {"input_features": SMALL, "mask": np.ones(10, np.int32)}, None),
    "features, compressed": (AudioCache, KEY, {"input_features": SMALL, "chunks": [[0, 1], None]}, "blosc"),
    "a waveform": (WaveformCache, KEY.waveform_key(), {"waveform": SMALL[0] / 2}, None),
    "a waveform, compressed": (WaveformCache, KEY.waveform_key(), {"waveform": np.round(SMALL.ravel()) / 2}, "blosc"),
}


class Victim:
    """A cache of one signed entry, whose file is then written by somebody else."""

    def __init__(self, root: Path, cache_type: Any, key: Any, outputs: Any, compression: str | None) -> None:
        self.cache = cache_type(CacheRoot(root, compression=compression, signing_key=KEYS))
        self.key, self.outputs = key, outputs
        self.path = self.cache.path_for(key)
        self.cache.put_many({key: outputs})
        self.content = self.path.read_bytes()
        self.n_tried = self.n_served = self.n_gone = self.n_raised = 0

    def suffer(self, content: bytes) -> None:
        """Count what comes of reading the entry with these bytes in its place."""
        assert content != self.content
        self.path.write_bytes(content)
        self.n_tried += 1
        try:
            self.n_served += self.cache.get(self.key) is not None or self.cache.exists(self.key)
        except Exception:  # noqa: BLE001 - none may leave the cache
            self.n_raised += 1
        self.n_gone += not self.path.exists() or self.path.read_bytes() != content

    def recover(self) -> None:
        """Check that a put replaces what is there, and that each try was counted for what it was."""
        stats = self.cache.stats
        assert (stats.unsigned_entries, stats.bad_entries, stats.read_errors) == (self.n_tried, 0, 0)
        assert self.n_gone == 0
        self.cache.put_many({self.key: self.outputs})
        assert self.path.read_bytes() == self.content
        assert self.cache.get(self.key) is not None

    def report(self, faults: Any, what: str) -> None:
        self.recover()
        faults.survived(what, self.n_tried, wrong_values=self.n_served, exceptions=self.n_raised)


@pytest.fixture(params=SMALL_ENTRIES)
def victim(request, tmp_path):
    return Victim(tmp_path, *SMALL_ENTRIES[request.param])


def test_an_entry_with_a_changed_bit_anywhere_is_a_miss(victim, faults):
    rng = random.Random(0)
    for position in range(len(victim.content)):
        for bit in range(8) if faults.is_long else [rng.randrange(8)]:
            damaged = bytearray(victim.content)
            damaged[position] ^= 1 << bit
            victim.suffer(bytes(damaged))
    victim.report(faults, "signed entry: a bit flipped at every position")


def test_an_entry_with_a_byte_less_or_more_anywhere_is_a_miss(victim, faults):
    rng = random.Random(1)
    content = victim.content
    for position in rng.sample(range(len(content)), min(len(content), faults.times(200, 10_000))):
        for changed in (content[:position] + content[position + 1 :], content[:position] + b"0" + content[position:]):
            if changed != content:
                victim.suffer(changed)
    victim.report(faults, "signed entry: a byte removed or put in")


def test_a_part_of_an_entry_is_a_miss(victim, faults):
    rng = random.Random(2)
    content = victim.content
    for length in rng.sample(range(len(content)), min(len(content), faults.times(200, 10_000))):
        victim.suffer(content[:length])
        victim.suffer(content[len(content) - length :])
    for more in (b"\0", b"x" * 64, content, content[-64:]):
        victim.suffer(content + more)
        victim.suffer(more + content)
    victim.report(faults, "signed entry: parts of it, and more than it")


def with_comment_length(content: bytes, length: int) -> bytes:
    """Return a zip that states another length of its comment."""
    end = content.rfind(b"PK\5\6")
    return content[: end + 20] + struct.pack("<H", length) + content[end + 22 :]


def without_digits(content: bytes, count: int) -> bytes:
    """Return a zip whose comment, as it says itself, lacks the last digits of the signature."""
    end = content.rfind(b"PK\5\6")
    return with_comment_length(content, len(content) - end - 22 - count)[: len(content) - count]


def test_a_forged_signature_is_none(victim, faults):
    rng = random.Random(3)
    content, signature = victim.content, victim.content[-64:]
    assert is_signed(content)
    for forged in (
        signature.upper(),
        signature[::-1],
        signature[1:] + signature[:1],
        bytes(64),
        b"0" * 64,
        b" " * 64,
        b"}" * 64,
        hashlib.sha256(signed_text(content)).hexdigest().encode(),
        hmac.new(b"", signed_text(content), hashlib.sha256).hexdigest().encode(),
        hmac.new(THEIRS.encode(), signed_text(content), hashlib.sha256).hexdigest().encode(),
        hmac.new(OURS.encode(), content, hashlib.sha256).hexdigest().encode(),
        hmac.new(OURS.encode(), signed_text(content), hashlib.sha512).hexdigest()[:64].encode(),
        hmac.new(OURS.encode(), signed_text(content), hashlib.sha256).digest() * 2,
    ):
        if forged != signature:
            victim.suffer(content[:-64] + forged)
    for count in range(1, 65):
        other = b"0" if signature[count - 1 : count] != b"0" else b"1"
        victim.suffer(content[:-64] + signature[: count - 1] + other + signature[count:])
        victim.suffer(content[:-count])
        victim.suffer(without_digits(content, count))
    for _ in range(faults.times(200, 20_000)):
        victim.suffer(content[:-64] + rng.randbytes(32).hex().encode())
    victim.report(faults, "signed entry: forged signatures")


def test_nothing_that_is_valid_without_a_signature_is_served(victim, faults):
    evil = {name: array * 0 if isinstance(array, np.ndarray) else [] for name, array in victim.outputs.items()}
    signature = victim.content[-64:]
    foreign = io.BytesIO()
    np.savez(foreign, **{name: np.asarray(array) for name, array in evil.items() if isinstance(array, np.ndarray)})
    for outputs in (evil, victim.outputs):
        for compression in (None, "blosc"):
            unsigned = encode_entry(victim.key, outputs, compression=compression)
            theirs = encode_entry(
                victim.key, outputs, compression=compression, signing_keys=SigningKeys([THEIRS.encode()])
            )
            with_ours = theirs[:-64] + signature
            for content in (unsigned, theirs, with_ours, unsigned + signature, unsigned + victim.content):
                if content != victim.content:  # the same outputs under our own signature
                    victim.suffer(content)
    victim.suffer(foreign.getvalue())
    victim.suffer(foreign.getvalue() + signature)
    # A signed entry behind an unsigned one, and the other way round: zip goes by what it finds last.
    victim.suffer(encode_entry(victim.key, evil)[:-1] + victim.content)
    victim.suffer(victim.content + encode_entry(victim.key, evil))
    victim.report(faults, "signed entry: valid entries without our signature")


def test_a_real_entry_with_a_changed_byte_is_computed_anew(clips, expected, tmp_path, faults):
    rng = random.Random(4)
    root = tmp_path / "root"
    batch = {"audio": data.columns(clips[:1])["audio"]}
    cached_features = make(root)
    cached_features(batch)
    right = {path: path.read_bytes() for path in root.rglob("*.npz")}
    [features] = (root / "features").rglob("*.npz")
    wrong, raised = 0, 0
    n_tried = faults.times(150, 4000)
    for _ in range(n_tried):
        for content, path in ((content, path) for path, content in right.items()):
            damaged = bytearray(content)
            damaged[rng.randrange(len(damaged))] ^= rng.randrange(1, 256)
            path.write_bytes(damaged)
        try:
            wrong += wrong_rows(cached_features(batch), expected[:1])
        except Exception:  # noqa: BLE001 - none may leave the cache
            raised += 1
        assert is_signed(features.read_bytes())
    stats = cached_features.stats
    assert (stats.unsigned_entries, stats.bad_entries, stats.computed) == (2 * n_tried, 0, 1 + n_tried)
    faults.survived("signed entries of a clip: changed bytes", n_tried, wrong_values=wrong, exceptions=raised)


# A root that others write ---------------------------------------------------------------------------------------------

FORGERIES: dict[str, Callable[[bytes, bytes, random.Random], bytes]] = {
    "unsigned": lambda ours, evil, rng: evil,
    "unsigned, with our signature": lambda ours, evil, rng: evil + ours[-64:],
    "cut": lambda ours, evil, rng: ours[: rng.randrange(len(ours))],
    "its signature cut": lambda ours, evil, rng: without_digits(ours, rng.randrange(1, 65)),
    "a byte changed": lambda ours, evil, rng: _changed(ours, rng),
    "empty": lambda ours, evil, rng: b"",
    "noise": lambda ours, evil, rng: rng.randbytes(len(ours)),
}


def _changed(content: bytes, rng: random.Random) -> bytes:
    damaged = bytearray(content)
    damaged[rng.randrange(len(damaged))] ^= rng.randrange(1, 256)
    return bytes(damaged)


@pytest.mark.parametrize("their_key", [None, THEIRS])
@pytest.mark.parametrize("kind", FORGERIES)
def test_a_run_over_a_forged_root_gives_the_right_features(kind, their_key, clips, batch, expected, tmp_path, faults):
    rng = random.Random(kind)
    root, other = tmp_path / "root", tmp_path / "theirs"
    make(root)(batch)
    make(other, their_key, evil_spectrum)(batch)
    right = {path: path.read_bytes() for path in sorted(root.rglob("*.npz"))}
    wrong = 0
    n_rounds = faults.times(2, 40)
    for round_number in range(n_rounds):
        for path, content in right.items():
            path.write_bytes(content)
        forged = rng.sample(sorted(right), len(right) // 2)
        for path in forged:
            evil = (other / path.relative_to(root)).read_bytes()
            path.write_bytes(FORGERIES[kind](right[path], evil, rng))
        untouched = {path: content for path, content in right.items() if path not in forged}
        cached_features = make(root)
        if round_number % 2:
            mapped = cached_features.map(data.in_memory(clips), load_from_cache_file=False)
            batch_of_all = mapped[:]
            outputs = {name: batch_of_all[name] for name in ("spectrum", "loud")}
        else:
            outputs = cached_features(batch)
        wrong += wrong_rows(outputs, expected)
        stats = cached_features.stats
        n_features = sum(path.is_relative_to(root / "features") for path in forged)
        assert (stats.computed, stats.bad_entries) == (n_features, 0)
        lost = sum(len(content) for path, content in untouched.items() if path.read_bytes() != content)
        assert lost == 0
        assert all(is_signed(path.read_bytes()) for path in (root / "features").rglob("*.npz"))
    # Waveforms that were not asked for, as their features were there, are still as somebody left them.
    verify(CacheRoot(root, signing_key=OURS), repair=True)
    assert verify(CacheRoot(root, signing_key=OURS)).is_clean
    faults.survived(f"signed root: forged entries, {kind}", n_rounds * len(clips), wrong_values=wrong)


def swap(root: Path, rng: random.Random) -> int:
    """Give each entry of features and each waveform the name of another; return how many those are."""
    n_swapped = 0
    for folder in ("features", "waveforms"):
        paths = sorted((root / folder).rglob("*.npz"))
        contents = [path.read_bytes() for path in paths]
        shift = rng.randrange(1, len(paths))
        for path, content in zip(paths, contents[shift:] + contents[:shift], strict=True):
            path.write_bytes(content)
        n_swapped += len(paths)
    return n_swapped


def test_signed_entries_under_each_others_names_are_misses(clips, batch, expected, tmp_path, faults):
    rng = random.Random(5)
    make(tmp_path)(batch)
    wrong = n_swapped = 0
    for _ in range(faults.times(5, 100)):
        n_swapped += swap(tmp_path, rng)
        cached_features = make(tmp_path)
        wrong += wrong_rows(cached_features(batch), expected)
        stats = cached_features.stats
        assert (stats.hits, stats.waveform_hits, stats.computed, stats.decodes) == (0, 0, len(clips), len(clips))
        assert stats.unsigned_entries + stats.bad_entries == 2 * len(clips)
        assert verify(CacheRoot(tmp_path, signing_key=OURS)).is_clean
    faults.survived("signed root: entries under each other's names", n_swapped, wrong_values=wrong)


def test_signed_entries_under_each_others_names_count_as_unsigned_and_stay(clips, batch, tmp_path):
    make(tmp_path)(batch)
    n_swapped = swap(tmp_path, random.Random(6))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.npz")}
    cached_features = make(tmp_path)
    keys = [AudioCacheKey(data.sha256(clip), cached_features.processor_sha, RATE, 0) for clip in clips]
    cached_features.audio_cache.get_all_many(keys)
    cached_features.waveform_cache.get_many([key.waveform_key() for key in keys])
    assert cached_features.stats.unsigned_entries == n_swapped
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.npz")} == before


def test_the_entries_of_other_settings_are_not_served_under_our_names(clips, batch, expected, tmp_path, faults):
    """They are signed with our key, and hold their own key in full."""
    others = {
        "another processor": CachedFeatures(
            evil_spectrum,
            CacheRoot(tmp_path, signing_key=OURS),
            identity="evil",
            sampling_rate=RATE,
            waveforms="always",
        ),
        "a cap": CachedFeatures(
            evil_spectrum,
            CacheRoot(tmp_path, signing_key=OURS),
            identity="spectrum",
            sampling_rate=RATE,
            max_length_seconds=1,
            waveforms="always",
        ),
        "resampling": CachedFeatures(
            evil_spectrum,
            CacheRoot(tmp_path, signing_key=OURS),
            identity="spectrum",
            sampling_rate=RATE,
            auto_resample=True,
            waveforms="always",
        ),
    }
    wrong = 0
    for other in others.values():
        other(batch)
        ours = make(tmp_path)
        for clip in clips:
            blob_sha = data.sha256(clip)
            settings = (
                other.processor_sha,
                RATE,
                other.settings.waveform.max_length_ms,
                other.settings.waveform.auto_resample,
            )
            theirs = other.audio_cache.path_for(AudioCacheKey(blob_sha, *settings))
            path = ours.audio_cache.path_for(AudioCacheKey(blob_sha, ours.processor_sha, RATE, 0))
            path.write_bytes(theirs.read_bytes())
        wrong += wrong_rows(ours(batch), expected)
        assert (ours.stats.hits, ours.stats.computed) == (0, len(clips))
    faults.survived("signed root: entries of other settings", len(others) * len(clips), wrong_values=wrong)


def test_a_changed_manifest_is_none_or_says_the_same(tmp_path, batch, faults):
    rng = random.Random(7)
    cached_features = make(tmp_path)
    cached_features(batch)
    [path] = (tmp_path / "processors").iterdir()
    content = path.read_bytes()
    store, sha = open_store(tmp_path), cached_features.processor_sha
    right = read_manifest(store, sha, KEYS)
    assert isinstance(right, Manifest)
    believed = raised = 0
    positions = rng.sample(range(len(content)), min(len(content), faults.times(400, 100_000)))
    for position in positions:
        damaged = bytearray(content)
        damaged[position] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            found = read_manifest(store, sha, KEYS)
            believed += found is not None and found != right
            if position % 40 == 0:
                verify(CacheRoot(tmp_path, signing_key=KEYS))
        except Exception:  # noqa: BLE001 - none may leave the reader
            raised += 1
    path.write_bytes(content.replace(b'"signature"', b'"signatur"'))
    assert read_manifest(store, sha, KEYS) is None
    faults.survived("signed root: a changed manifest", len(positions), wrong_values=believed, exceptions=raised)


def forge_for_ever(root: str, theirs: str, started: Any) -> None:
    """Put forged entries in the place of all that is there, over and over."""
    rng = random.Random(8)
    evil = {path.name: path.read_bytes() for path in Path(theirs).rglob("*.npz")}
    started.send(None)
    for number in itertools.count():
        for path in list(Path(root).rglob("*.npz")):
            if path.name not in evil:
                continue
            temporary = path.with_name(f"forged-{os.getpid()}")
            # What is read may be a forgery of which nothing can be made.
            with contextlib.suppress(OSError, struct.error, ValueError):
                forged = rng.choice(list(FORGERIES.values()))(path.read_bytes(), evil[path.name], rng)
                if number % 3:
                    path.write_bytes(forged)  # so that readers may see a part of it
                else:
                    temporary.write_bytes(forged)
                    os.replace(temporary, path)


@pytest.mark.parametrize("their_key", [None, THEIRS])
def test_while_others_forge_entries_all_that_is_read_is_right(their_key, clips, batch, expected, tmp_path, faults):
    root, theirs = tmp_path / "root", tmp_path / "theirs"
    make(theirs, their_key, evil_spectrum)(batch)
    make(root)(batch)
    receiver, sender = multiprocessing.Pipe(duplex=False)
    with receiver, sender:
        forgers = [start_child(forge_for_ever, str(root), str(theirs), sender) for _ in range(2)]
        for _ in forgers:
            receiver.recv()
    wrong = raised = 0
    n_tried = faults.times(60, 1000)
    cached_features = make(root)
    try:
        for _ in range(n_tried):
            try:
                wrong += wrong_rows(cached_features(batch), expected)
            except Exception:  # noqa: BLE001 - none may leave the cache
                raised += 1
        assert all(forger.is_alive() for forger in forgers)
    finally:
        for forger in forgers:
            forger.kill()
            forger.join()
    stats = cached_features.stats
    assert stats.hits + stats.misses == n_tried * len(clips)
    assert stats.unsigned_entries > n_tried / 10  # else nobody forged anything
    after = make(root)
    assert wrong_rows(after(batch), expected) == 0
    assert [path.name for path in (root / "features").rglob("*.npz") if not is_signed(path.read_bytes())] == []
    faults.survived("signed root: others forge meanwhile", n_tried * len(clips), wrong_values=wrong, exceptions=raised)
