"""Entries of real clips that were damaged on disk: each is a miss, counted and replaced; no array is ever wrong."""

from __future__ import annotations

import base64
import gzip
import io
import pickle
import random
import re
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import audio_datasets as data
import configs
import numpy as np
import pytest
import soundfile
from assertions import all_same, is_same
from crossed import crossed
from entry_tools import Outcomes, npy, savez, zip_of

from hf_audio_cache import AudioCache, AudioCacheKey, CachedFeatures, CacheRoot, WaveformCache, WaveformCacheKey, verify

SIGNING_KEY = "a key for the tests of damage"
PAGE = 4096


@dataclass(frozen=True)
class Stored:
    """One entry as a cache wrote it."""

    name: str
    cache_type: type
    key: Any
    outputs: dict[str, np.ndarray]
    compression: str | None
    is_signed: bool
    content: bytes

    def open_in(self, root: Path) -> Any:
        keys = SIGNING_KEY if self.is_signed else None
        return self.cache_type(CacheRoot(root, compression=self.compression, signing_key=keys))

    def get(self, cache: Any) -> dict[str, Any] | None:
        if self.cache_type is AudioCache:
            return cache.get_all(self.key)
        waveform = cache.get(self.key)
        return None if waveform is None else {"waveform": waveform}


@pytest.fixture(scope="module")
def real_outputs(sentences, prompts):
    """What two extractors make of clips of 0.3 to 3 s, the start of a padded spectrogram among them; and a waveform."""
    waveform, rate = soundfile.read(data.shortest(sentences, 1)[0], dtype="float32")
    spoken, spoken_rate = soundfile.read(data.shortest(prompts, 60)[59], dtype="float32")

    def extract(name, waveform):
        features = configs.make_processor(name)([waveform], sampling_rate=rate, return_tensors="np")
        return {output: np.asarray(value[0][..., :400], order="C") for output, value in features.items()}

    assert spoken_rate == 8000
    return {
        "spectrogram": (AudioCache, extract("whisper_tiny", waveform)),
        "two outputs": (AudioCache, extract("seamless_m4t", waveform[: rate // 3])),
        "waveform": (WaveformCache, {"waveform": spoken}),
    }


@pytest.fixture(scope="module")
def stored(real_outputs, tmp_path_factory):
    """Entries of each of these, compressed and not, signed and not."""
    entries = []
    for index, (name, (cache_type, outputs)) in enumerate(real_outputs.items()):
        for compression in (None, "blosc"):
            for is_signed in (False, True):
                key = AudioCacheKey(f"{index:02}c0535e" * 8, "7d865e95" * 8, 16000, 30000, True)
                key = key if cache_type is AudioCache else WaveformCacheKey(key.blob_sha, 8000, 0)
                label = f"{name}, {compression or 'plain'}{', signed' if is_signed else ''}"
                entry = Stored(label, cache_type, key, outputs, compression, is_signed, b"")
                cache = entry.open_in(tmp_path_factory.mktemp("stored"))
                cache.put_many({key: outputs})
                content = cache.path_for(key).read_bytes()
                entries.append(Stored(label, cache_type, key, outputs, compression, is_signed, content))
    assert len({len(entry.content) for entry in entries}) == 12
    return entries


def read_damaged(entry, cache, damaged, label, outcomes, *, may_hit=False):
    """Put a damaged file in the place of an entry, read it through the cache, and store the outputs anew."""
    path = cache.path_for(entry.key)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(damaged)
    outcomes.tried += 1
    what = f"{label} of {entry.name} ({len(damaged)} of {len(entry.content)} bytes)"
    bad, unsigned = cache.stats.bad_entries, cache.stats.unsigned_entries
    try:
        found = entry.get(cache)
        put = cache.put_many({entry.key: entry.outputs})
        again = entry.get(cache)
    except Exception as exc:  # noqa: BLE001 - what may not happen, counted
        outcomes.raised.append(f"{what}: {exc!r}")
        return
    counted = (cache.stats.bad_entries - bad, cache.stats.unsigned_entries - unsigned)
    # In a signed root nothing is signed any more, but for a whole entry of another key.
    is_counted = sum(counted) == 1 and (counted[1] == 0 or entry.is_signed)
    if found is None and not is_counted:
        outcomes.wrong.append(f"{what}: counted as {counted}")
    if found is not None and not (may_hit and all_same(found, entry.outputs)):
        outcomes.wrong.append(f"{what}: a hit")
    if not put or not all_same(again, entry.outputs) or path.read_bytes() != entry.content:
        outcomes.wrong.append(f"{what}: not replaced")


# Random damage --------------------------------------------------------------------------------------------------------


def boundaries(content):
    """Return where something begins or ends in an entry: headers, arrays, the directory, the manifest, pages."""
    marks = rb"PK\x03\x04|PK\x01\x02|PK\x05\x06|\x93NUMPY|\), \} *\n|\{\"version|\{\"name|\}\]\}"
    found = [place for match in re.finditer(marks, content) for place in match.span()]
    return sorted({0, len(content), *found, *range(PAGE, len(content), PAGE)})


def cut(content, rng, other):
    at = rng.choice([rng.randrange(len(content)), *boundaries(content)[:-1]])
    return content[:at]


def flip(content, rng, other):
    return overwritten(content, at := rng.randrange(len(content)), bytes([content[at] ^ 1 << rng.randrange(8)]))


def flips(content, rng, other):
    for _ in range(rng.randrange(2, 12)):
        content = flip(content, rng, other)
    return content


def flip_of_a_header(content, rng, other):
    at = min(rng.choice(boundaries(content)) + rng.randrange(40), len(content) - 1)
    return overwritten(content, at, bytes([content[at] ^ 1 << rng.randrange(8)]))


def flip_behind_the_members(content, rng, other):
    at = rng.randrange(content.index(b"PK\x01\x02"), len(content))
    return overwritten(content, at, bytes([content[at] ^ 1 << rng.randrange(8)]))


def change(content, rng, other):
    return overwritten(content, rng.randrange(len(content)), rng.randbytes(rng.choice([1, 2, 4, 512])))


def zeroed_pages(content, rng, other):
    start = PAGE * rng.randrange(-(-len(content) // PAGE))
    return overwritten(content, start, bytes(PAGE * rng.choice([1, 1, 2, 8])))


def pages_of_another(content, rng, other):
    start = PAGE * rng.randrange(-(-len(content) // PAGE))
    return overwritten(content, start, other[start : start + PAGE * rng.choice([1, 2, 8])] or b"\0")


def the_rest_never_written(content, rng, other):
    start = PAGE * rng.randrange(-(-len(content) // PAGE))
    return content[:start] + bytes(len(content) - start)


def the_rest_of_another(content, rng, other):
    start = rng.randrange(len(content))
    return content[:start] + other[start:]


def appended(content, rng, other):
    more = [b"\0", b"\n", b"}", rng.randbytes(64), content[-22:], content, other, bytes(PAGE), b"PK\5\6" + bytes(18)]
    return content + rng.choice(more)


def prefixed(content, rng, other):
    return rng.choice([b"\0", b"\xef\xbb\xbf", b"\r\n", rng.randbytes(64), bytes(PAGE), content, other]) + content


def duplicated_block(content, rng, other):
    start, length = rng.randrange(len(content)), rng.choice([1, 16, 512, PAGE])
    return content[: start + length] + content[start:]


def lost_block(content, rng, other):
    start, length = rng.randrange(len(content)), rng.choice([1, 16, 512, PAGE])
    return content[:start] + content[start + length :]


def block_elsewhere(content, rng, other):
    length = rng.choice([1, 16, 512, PAGE])
    block = content[(start := rng.randrange(len(content))) : start + length]
    return overwritten(content, rng.randrange(len(content)), block)


def exchanged_blocks(content, rng, other):
    length = rng.choice([4, 16, 512])
    first, second = sorted(rng.sample(range(len(content) // length), 2))
    one, two = (content[at * length : (at + 1) * length] for at in (first, second))
    return overwritten(overwritten(content, first * length, two), second * length, one)


def cut_and_appended(content, rng, other):
    length = rng.randrange(len(content))
    return content[:length] + rng.choice([content[-PAGE:], other[-PAGE:], content[-600:], b"\0" * 64])


def as_text(content, rng, other):
    translations = [
        lambda: content.replace(b"\n", b"\r\n"),
        lambda: content.replace(b"\n", b""),
        lambda: content.replace(b"\0", b""),
        lambda: content.decode("latin-1").encode("utf-8"),
        lambda: content.decode("utf-8", "replace").encode(),
        lambda: content.decode("utf-8", "ignore").encode(),
        lambda: bytes(byte & 127 for byte in content),
        lambda: base64.b64encode(content),
    ]
    return rng.choice(translations)()


def another_entry(content, rng, other):
    return other


RANDOM_DAMAGE = [cut, flip, flips, flip_of_a_header, flip_behind_the_members, change, zeroed_pages, pages_of_another]
RANDOM_DAMAGE += [the_rest_never_written, the_rest_of_another, appended, prefixed, duplicated_block, lost_block]
RANDOM_DAMAGE += [block_elsewhere, exchanged_blocks, cut_and_appended, as_text, another_entry]


def overwritten(content, at, block):
    """Return `content`, no longer than it was, with `block` written at `at`."""
    return (content[:at] + block + content[at + len(block) :])[: len(content)]


def test_random_damage_is_a_miss_and_replaced(stored, faults, tmp_path):
    rng = random.Random(7)
    outcomes = Outcomes()
    caches = [entry.open_in(tmp_path / f"{index}") for index, entry in enumerate(stored)]
    tried = dict.fromkeys(RANDOM_DAMAGE, 0)
    while outcomes.tried < faults.times(1000, 12_000):
        index = rng.randrange(len(stored))
        entry = stored[index]
        other = rng.choice([one for one in stored if one.key != entry.key])  # one of this key would be a good entry
        damage = RANDOM_DAMAGE[outcomes.tried % len(RANDOM_DAMAGE)]
        damaged = damage(entry.content, rng, other.content)
        if damaged == entry.content:
            continue
        tried[damage] += 1
        read_damaged(entry, caches[index], damaged, damage.__name__, outcomes)
        if len(outcomes.wrong) + len(outcomes.raised) > 20:
            break
    assert min(tried.values()) > 50 or outcomes.wrong or outcomes.raised
    outcomes.report(faults, "random damage to entries, through the caches")


# Other files in the place of an entry ---------------------------------------------------------------------------------


class Bait:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return open, (str(self.marker), "w")


def rezipped(content, *, compression=zipfile.ZIP_STORED, comment=True):
    """Return what an archiver makes of an entry that it unpacks and packs again."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
        return zip_of(*members, compression=compression, comment=archive.comment if comment else b"")


def tar_of(content):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        member = tarfile.TarInfo("entry.npz")
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def other_files(entry, clip, marker):
    """Return files that are no entry, by what they are."""
    objects = np.array([Bait(marker)], dtype=object)
    pickled = pickle.dumps({"input_features": Bait(marker), "waveform": Bait(marker)})
    office = [("[Content_Types].xml", b"<?xml?><Types/>"), ("word/document.xml", b"<?xml?><w:document/>")]
    names = list(entry.outputs)
    return {
        "empty": b"",
        "one byte": b"P",
        "zeros": bytes(len(entry.content)),
        "ones": b"\xff" * len(entry.content),
        "noise": random.Random(1).randbytes(len(entry.content)),
        "the clip": clip.read_bytes(),
        "text": b"features of a clip\n" * 100,
        "a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n",
        "a page of HTML": b"<!DOCTYPE html><html><title>503</title></html>",
        "an error of XML": b'<?xml version="1.0"?><Error><Code>SlowDown</Code></Error>',
        "gzip": gzip.compress(entry.content),
        "base64": base64.encodebytes(entry.content),
        "tar": tar_of(entry.content),
        "the entry in a zip": zip_of(("entry.npz", entry.content)),
        "the entry in a zip, deflated": zip_of(("entry.npz", entry.content), compression=zipfile.ZIP_DEFLATED),
        "npy": npy(next(iter(entry.outputs.values()))),
        "a pickle": pickled,
        "a pickle in a zip": zip_of(("archive/data.pkl", pickled), ("archive/version", b"3\n")),  # as torch.save
        "a pickle as npy": zip_of(*((f"{name}.npy", pickled) for name in names)),
        "objects": savez(**dict.fromkeys(names, objects)),
        "objects under a comment": zip_of(("x.npy", npy(objects)), comment=b"0" * 16 + b'{"version":1}'),
        "jar": zip_of(("META-INF/MANIFEST.MF", b"Manifest-Version: 1.0\n"), ("Main.class", b"\xca\xfe\xba\xbe")),
        "docx": zip_of(*office, compression=zipfile.ZIP_DEFLATED),
        "an empty zip": zip_of(),
        "arrays and a text": zip_of(("x.npy", npy(np.arange(3))), ("README.txt", b"see x")),
        "arrays in a folder": zip_of(*((f"entry/{name}.npy", npy(value)) for name, value in entry.outputs.items())),
        "packed again": rezipped(entry.content),
        "packed again, deflated": rezipped(entry.content, compression=zipfile.ZIP_DEFLATED),
    }


def test_other_files_in_the_place_of_an_entry_are_misses(stored, sentences, faults, tmp_path):
    outcomes, marker = Outcomes(), tmp_path / "unpickled"
    for index, entry in enumerate(stored):
        cache = entry.open_in(tmp_path / f"{index}")
        for label, content in other_files(entry, sentences[0], marker).items():
            read_damaged(entry, cache, content, label, outcomes)
    assert not marker.exists()
    pickle.loads(pickle.dumps(Bait(marker))).close()  # it would have made it
    assert marker.exists()
    outcomes.report(faults, "other files in the place of an entry")


def test_entries_of_other_keys_are_misses(stored, faults, tmp_path):
    outcomes = Outcomes()
    for index, entry in enumerate(stored):
        cache = entry.open_in(tmp_path / f"{index}")
        options = {"compression": entry.compression, "signing_key": SIGNING_KEY if entry.is_signed else None}
        changed = {"sample_rate": 44100, "max_length_ms": 1, "auto_resample": not entry.key.auto_resample}
        changed |= {"blob_sha": "ab" * 32}
        if entry.cache_type is AudioCache:
            changed |= {"processor_sha": entry.key.processor_sha[:12] + "0" * 52}  # the same file name
        for field, value in changed.items():
            other = type(entry.key)(**{**vars(entry.key), field: value})
            writer = entry.cache_type(CacheRoot(tmp_path / f"{index}-{field}", **options))
            writer.put_many({other: {name: array[::-1].copy() for name, array in entry.outputs.items()}})
            foreign = writer.path_for(other).read_bytes()
            path = cache.path_for(entry.key)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(foreign)
            outcomes.tried += 1
            # A signature is of the name too: under another one it is none, and what is not ours to trust stays.
            is_foreign = entry.is_signed and other.name() != entry.key.name()
            before = cache.stats
            found, more = entry.get(cache), cache.stats - before
            if found is not None or (more.unsigned_entries, more.bad_entries) != (is_foreign, not is_foreign):
                outcomes.wrong.append(f"{entry.name}: an entry of another {field}")
            if path.exists() != is_foreign:
                outcomes.wrong.append(
                    f"{entry.name}: an entry of another {field} was {'' if is_foreign else 'not '}deleted"
                )
    assert outcomes.tried >= 50
    outcomes.report(faults, "entries of another key under this name")


def test_a_plain_savez_is_read_and_its_damage_gives_the_same_array_or_none(stored, faults, tmp_path):
    """Under the right name it is an entry; zip's checksums guard it. In a signed root it is none."""
    rng = random.Random(11)
    outcomes = Outcomes()
    damages = [flip, flips, flip_of_a_header, flip_behind_the_members, change, zeroed_pages, lost_block]
    entries = [entry for entry in stored if entry.compression is None]
    caches = [entry.open_in(tmp_path / f"{index}") for index, entry in enumerate(entries)]
    contents = [savez(**entry.outputs) for entry in entries]
    for entry, cache, content in zip(entries, caches, contents, strict=True):
        cache.path_for(entry.key).parent.mkdir(parents=True)
        for good in (content, rezipped(content, compression=zipfile.ZIP_DEFLATED)):
            cache.path_for(entry.key).write_bytes(good)
            found = entry.get(cache)
            assert found is None if entry.is_signed else all_same(found, entry.outputs)
    for number in range(faults.times(200, 3000)):
        index = rng.randrange(len(entries))
        damage = damages[number % len(damages)]
        damaged = damage(contents[index], rng, contents[index - 1])
        is_signed = entries[index].is_signed
        read_damaged(entries[index], caches[index], damaged, damage.__name__, outcomes, may_hit=not is_signed)
    outcomes.report(faults, "damage to plain files of savez")


# A run over a damaged root --------------------------------------------------------------------------------------------


def spectrum(waveform, sampling_rate):
    frames = waveform[: len(waveform) // 160 * 160].reshape(-1, 160)
    return {
        "input_features": np.abs(np.fft.rfft(frames, axis=1)).astype(np.float32),
        "energy": np.square(frames).sum(axis=1),
        "n_samples": np.array(len(waveform)),
    }


MAKERS = {
    "two outputs": lambda root, **settings: CachedFeatures(
        configs.make_processor("seamless_m4t"), CacheRoot(root, **settings), auto_resample=True, waveforms="always"
    ),
    "plain spectra": lambda root, **settings: CachedFeatures(
        spectrum,
        CacheRoot(root, compression=None, **settings),
        identity="spectrum",
        sampling_rate=8000,
        waveforms="always",
    ),
}


def damage_some(paths, rng):
    """Damage about a third of the files, or swap two; return those that are no entries of their names any more."""
    damaged = set()
    for path in paths:
        if rng.random() < 0.35:
            content = path.read_bytes()
            other = rng.choice(paths).read_bytes()
            changed = rng.choice(RANDOM_DAMAGE)(content, rng, other)
            if changed != content:
                path.write_bytes(changed)
                damaged.add(path)
    one, two = rng.sample(sorted(set(paths) - damaged), 2)
    contents = one.read_bytes(), two.read_bytes()
    two.write_bytes(contents[0])
    one.write_bytes(contents[1])
    return damaged | {one, two}


@pytest.mark.parametrize(("maker", "is_signed"), crossed([*MAKERS], [False, True]))
def test_a_run_over_a_damaged_root_gives_what_the_processor_computes(maker, is_signed, prompts, faults, tmp_path):
    clips = data.shortest(prompts, 50)[30:]
    settings = {"signing_key": SIGNING_KEY} if is_signed else {}
    first = MAKERS[maker](tmp_path / "root", **settings)
    batch = {"audio": data.columns(clips)["audio"]}
    expected = first(batch)
    assert first.stats.computed == len(clips)
    features = sorted((tmp_path / "root" / "features").rglob("*.npz"))
    waveforms = sorted((tmp_path / "root" / "waveforms").rglob("*.npz"))
    assert len(features) == len(waveforms) == len(clips)

    rng, outcomes = random.Random(5), Outcomes()
    for number in range(faults.times(2, 60)):
        bad = damage_some(features, rng)
        bad_waveforms = damage_some(waveforms, rng)
        missed = {path.name[:64] for path in bad}
        met = {path for path in bad_waveforms if path.name[:64] in missed}
        untouched = {path: path.read_bytes() for path in {*features, *waveforms} - bad - bad_waveforms}
        cached_features = MAKERS[maker](tmp_path / "root", **settings)
        outcomes.tried += len(bad | bad_waveforms)
        try:
            found = run_over(cached_features, clips, batch, number)
        except Exception as exc:  # noqa: BLE001 - what may not happen, counted
            outcomes.raised.append(f"round {number}: {exc!r}")
            continue
        for name, arrays in expected.items():
            pairs = zip(found[name], arrays, strict=True)
            outcomes.wrong += [
                f"round {number}: {name} of row {row}" for row, (a, b) in enumerate(pairs) if not is_same(a, b)
            ]
        for path, content in untouched.items():
            outcomes.bytes_lost += 0 if path.is_file() and path.read_bytes() == content else len(content)
        stats = cached_features.stats
        assert (stats.hits, stats.misses, stats.computed) == (len(clips) - len(bad), len(bad), len(bad))
        # In a signed root an entry that was swapped has a good signature, and another key.
        assert stats.bad_entries + stats.unsigned_entries == len(bad) + len(met)
        assert stats.unsigned_entries > 0 if is_signed else stats.unsigned_entries == 0
        assert stats.decodes == len(met)

        report = verify(CacheRoot(tmp_path / "root", **settings), repair=True)  # the waveforms that nothing had to read
        assert set(report.bad) | set(report.unsigned) == {
            str(path.relative_to(tmp_path / "root")) for path in bad_waveforms - met
        }
        again = MAKERS[maker](tmp_path / "root", **settings)
        again(batch)
        assert (again.stats.hits, again.stats.misses, again.stats.bad_entries) == (len(clips), 0, 0)
        for path in bad_waveforms - met:  # put back, for the next round
            path.write_bytes(good_waveform(path, clips, again))
    outcomes.report(faults, f"runs over a damaged root: {maker}{', signed' if is_signed else ''}")


def run_over(cached_features, clips, batch, number):
    """Return the columns of a run, in one of its forms by turns."""
    if number % 2:
        return dict(cached_features.attach(data.in_memory(clips), remove_columns="audio")[:])
    return cached_features(batch)


def good_waveform(path, clips, cached_features):
    """Return the entry of a waveform that was deleted, made anew from its clip."""
    cache = cached_features.waveform_cache
    [clip] = [clip for clip in clips if data.sha256(clip) == path.name[:64]]
    settings = cached_features.settings.waveform
    waveform = data.decode_audio(
        clip.read_bytes(), sampling_rate=settings.sampling_rate, auto_resample=settings.auto_resample
    )
    assert cache.put(settings.waveform_key(path.name[:64]), waveform) == path
    return path.read_bytes()
