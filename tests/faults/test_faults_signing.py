"""What somebody without the key can do to the entries of a signed root: cause misses, and nothing else."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import itertools
import multiprocessing
import os
import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import audio_datasets as data
import numpy as np
import pytest
import soundfile
from assertions import n_wrong
from children import start_child
from entry_tools import savez, signed_text

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


def flip(content: bytes, position: int, bits: int) -> bytes:
    return content[:position] + bytes([content[position] ^ bits]) + content[position + 1 :]


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


# A signature is checked before it matters what an entry is of, and how it is compressed.
ALIKE = {"features", "a waveform, compressed"}


@pytest.fixture(params=[pytest.param(kind, marks=pytest.mark.long if kind in ALIKE else ()) for kind in SMALL_ENTRIES])
def victim(request, tmp_path):
    return Victim(tmp_path, *SMALL_ENTRIES[request.param])


def with_comment_length(content: bytes, length: int) -> bytes:
    """Return a zip that states another length of its comment."""
    end = content.rfind(b"PK\5\6")
    return content[: end + 20] + struct.pack("<H", length) + content[end + 22 :]


def without_digits(content: bytes, count: int) -> bytes:
    """Return a zip whose comment, as it says itself, lacks the last digits of the signature."""
    end = content.rfind(b"PK\5\6")
    return with_comment_length(content, len(content) - end - 22 - count)[: len(content) - count]


def forged_signatures(content: bytes) -> Iterator[bytes]:
    """Yield what stands where a signature stands, and is none."""
    signature = content[-64:]
    yield from (signature.upper(), signature[::-1], signature[1:] + signature[:1])
    yield from (bytes(64), b"0" * 64, b" " * 64, b"}" * 64, b"\xff" * 64)
    yield hashlib.sha256(signed_text(content)).hexdigest().encode()
    for key, text in ((b"", signed_text(content)), (THEIRS.encode(), signed_text(content)), (OURS.encode(), content)):
        yield hmac.new(key, text, hashlib.sha256).hexdigest().encode()
    yield hmac.new(OURS.encode(), signed_text(content), hashlib.sha512).hexdigest()[:64].encode()
    yield hmac.new(OURS.encode(), signed_text(content), hashlib.sha256).digest() * 2
    for at in range(64):
        yield signature[:at] + (b"0" if signature[at : at + 1] != b"0" else b"1") + signature[at + 1 :]


def unsigned_entries(victim: Victim) -> Iterator[bytes]:
    """Yield entries that are valid but for the signature: none, of another key, or of another entry."""
    evil = {name: array * 0 if isinstance(array, np.ndarray) else [] for name, array in victim.outputs.items()}
    signature = victim.content[-64:]
    for outputs, compression in itertools.product((evil, victim.outputs), (None, "blosc")):
        unsigned = encode_entry(victim.key, outputs, compression=compression)
        theirs = SigningKeys([THEIRS.encode()])
        by_them = encode_entry(victim.key, outputs, compression=compression, signing_keys=theirs)
        yield from (unsigned, by_them, by_them[:-64] + signature, unsigned + signature, unsigned + victim.content)
    foreign = savez(**{name: np.asarray(array) for name, array in evil.items() if isinstance(array, np.ndarray)})
    yield from (foreign, foreign + signature)
    # A signed entry behind an unsigned one, and the other way round: zip goes by what it finds last.
    yield encode_entry(victim.key, evil)[:-1] + victim.content
    yield victim.content + encode_entry(victim.key, evil)


def test_what_we_did_not_sign_is_a_miss_that_stays(victim, faults):
    rng = random.Random(0)
    content = victim.content
    for position in range(len(content)):
        for bit in range(8) if faults.is_long else [rng.randrange(8)]:
            victim.suffer(flip(content, position, 1 << bit))
    for forged in forged_signatures(content):
        if forged != content[-64:]:
            victim.suffer(content[:-64] + forged)
    for count in range(1, 65):
        victim.suffer(content[:-count])
        victim.suffer(without_digits(content, count))
    for forged in unsigned_entries(victim):
        if forged != content:  # the same outputs under our own signature
            victim.suffer(forged)
    victim.report(faults, "signed entry: changed bits, forged signatures, others' entries")


# A root that others write ---------------------------------------------------------------------------------------------

FORGERIES: list[Callable[[bytes, bytes, random.Random], bytes]] = [
    lambda ours, theirs, rng: theirs,
    lambda ours, theirs, rng: theirs + ours[-64:],
    lambda ours, theirs, rng: without_digits(ours, rng.randrange(1, 65)),
    lambda ours, theirs, rng: flip(ours, rng.randrange(len(ours)), rng.randrange(1, 256)),
]


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
    positions = rng.sample(range(len(content)), min(len(content), faults.times(200, 100_000)))
    for position in positions:
        path.write_bytes(flip(content, position, 1 << rng.randrange(8)))
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
                forged = rng.choice(FORGERIES)(path.read_bytes(), evil[path.name], rng)
                if number % 3:
                    path.write_bytes(forged)  # so that readers may see a part of it
                else:
                    temporary.write_bytes(forged)
                    os.replace(temporary, path)


def test_while_others_forge_entries_all_that_is_read_is_right(clips, batch, expected, tmp_path, faults):
    root, unsigned, theirs = tmp_path / "root", tmp_path / "unsigned", tmp_path / "theirs"
    make(unsigned, None, evil_spectrum)(batch)
    make(theirs, THEIRS, evil_spectrum)(batch)
    make(root)(batch)
    receiver, sender = multiprocessing.Pipe(duplex=False)
    with receiver, sender:
        forgers = [start_child(forge_for_ever, str(root), str(evil), sender) for evil in (unsigned, theirs)]
        for _ in forgers:
            receiver.recv()
    wrong = raised = 0
    n_tried = faults.times(30, 1000)
    cached_features = make(root)
    try:
        for _ in range(n_tried):
            try:
                wrong += n_wrong(cached_features(batch), expected)
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
    assert n_wrong(after(batch), expected) == 0
    assert [path.name for path in (root / "features").rglob("*.npz") if not is_signed(path.read_bytes())] == []
    faults.survived("signed root: others forge meanwhile", n_tried * len(clips), wrong_values=wrong, exceptions=raised)
