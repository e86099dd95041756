"""The lengths of clips, clips that are too long, and files that are not whole: the same in every calling form."""

from __future__ import annotations

import hashlib
import io
import struct
from pathlib import Path

import audio_datasets as data
import datasets
import numpy as np
import pytest
import soundfile
from audio_files import encode
from crossed import crossed

from hf_audio_cache import AudioCache, CachedFeatures
from hf_audio_cache.errors import AudioTooLongError, TruncatedAudioError

RATE = 16_000


def of_stream(cached_features, dataset):
    return list(cached_features.attach(dataset.to_iterable_dataset()))


FORMS = {
    "map": lambda cached_features, dataset: dataset.map(cached_features),
    "batched": lambda cached_features, dataset: dataset.map(cached_features, batched=True),
    "arrow": lambda cached_features, dataset: (
        dataset.with_format("arrow").map(cached_features, batched=True).with_format(None)
    ),
    "references": lambda cached_features, dataset: cached_features.map(dataset),
    "attach": lambda cached_features, dataset: cached_features.attach(dataset),
    "attached references": lambda cached_features, dataset: cached_features.attach(cached_features.map(dataset)),
    "stream": of_stream,
}


@pytest.fixture(scope="module")
def speech(sentences):
    samples, rate = soundfile.read(max(sentences, key=lambda path: path.stat().st_size), dtype="int16")
    assert rate == RATE
    return samples[:30_000]


@pytest.fixture(scope="module")
def files(speech):
    """The same speech in several forms; by name the encoded bytes, and the length that soundfile and soxr give."""
    return {
        "a.wav": encode(speech, RATE, "WAV"),
        "a.flac": encode(speech[:24_000], RATE, "FLAC"),
        "a.mp3": encode(speech, RATE, "MP3"),
        "a.ogg": encode(speech[:20_001], RATE, "OGG"),
        "stereo.wav": encode(np.stack([speech, speech // 2], axis=1), RATE, "WAV"),
        "8k.wav": encode(speech, 8000, "WAV"),
        "44k.flac": encode(speech, 44_100, "FLAC"),
        "8k.opus": encode(speech, 8000, "OGG", "OPUS"),
    }


def length_of(encoded):
    samples, rate = soundfile.read(io.BytesIO(encoded))
    return -(-len(samples) * RATE // rate) if rate == 8000 else round(len(samples) * RATE / rate)


@pytest.fixture
def dataset(files):
    cells = [{"bytes": encoded, "path": name} for name, encoded in files.items()]
    return data.of_cells(cells)


@pytest.fixture
def make(make_processor, tmp_path):
    def make(**settings):
        return CachedFeatures(make_processor("wav2vec2"), tmp_path / "root", auto_resample=True, **settings)

    return make


def lengths_of(dataset):
    return [row["input_length"] for row in dataset]


@pytest.mark.parametrize(("form", "cap"), crossed([*FORMS], [None, 1.25]))
def test_lengths_are_those_of_the_decoded_clips_and_nothing_is_decoded_for_them(form, cap, make, dataset, files):
    expected = [length_of(encoded) for encoded in files.values()]
    assert len(set(expected)) >= 5
    expected = [min(length, int(cap * RATE)) if cap else length for length in expected]
    cold = make(length_column="input_length", max_length_seconds=cap)
    assert lengths_of(FORMS[form](cold, dataset)) == expected
    assert cold.stats.decodes == len(files)
    warm = make(length_column="input_length", max_length_seconds=cap)
    found = FORMS[form](warm, dataset.shuffle(seed=3))
    shuffled = [expected[list(files).index(row["path"])] for row in dataset.shuffle(seed=3)["audio"]]
    assert lengths_of(found) == shuffled
    assert (warm.stats.decodes, warm.stats.computed, warm.stats.misses) == (0, 0, 0)
    if form not in ("stream", "attach", "attached references"):
        assert found.features["input_length"] == datasets.Value("int64")
        assert found.filter(lambda length: length > 20_001, input_columns=["input_length"]).num_rows == sum(
            length > 20_001 for length in shuffled
        )


def test_lengths_of_a_dataset_of_references_that_was_made_without_them(make, dataset, files):
    references = make().map(dataset)
    attached = make(length_column="input_length").attach(references)
    assert lengths_of(attached) == [length_of(encoded) for encoded in files.values()]


def test_features_that_another_program_stored_without_a_length_are_made_again(make, dataset, files):
    cached_features = make(length_column="input_length")
    first = FORMS["references"](make(), dataset)
    cache = AudioCache(cached_features.audio_cache.root)
    for sha in first.with_format("arrow")[:]["input_values"].to_pylist():
        key = first.features["input_values"].key(sha)
        cache.put(key, cache.get_all(key))  # says no length
    for form in ("batched", "references"):
        assert lengths_of(FORMS[form](cached_features, dataset)) == [length_of(each) for each in files.values()]
    assert (cached_features.stats.misses, cached_features.stats.hits) == (len(files), len(files))


def test_an_empty_dataset_has_a_column_of_lengths(make, dataset):
    mapped = make(length_column="input_length").map(dataset.select([]))
    assert mapped.features["input_length"] == datasets.Value("int64")


@pytest.mark.parametrize("form", ["map", "references", "attach", "stream"])
def test_bad_clips_have_no_length(form, make, dataset):
    cells = [*dataset["audio"], {"bytes": b"no audio", "path": "bad.wav"}]
    mixed = data.of_cells(cells)
    found = FORMS[form](make(length_column="input_length", on_error="null"), mixed)
    lengths = lengths_of(found)
    assert lengths[-1] is None
    assert None not in lengths[:-1]


# Clips longer than the cap


@pytest.mark.parametrize("form", FORMS)
def test_a_clip_that_is_too_long_is_an_error_also_if_its_beginning_is_cached(form, make, dataset, files):
    cut = FORMS["batched"](make(max_length_seconds=1.5, length_column="input_length"), dataset)
    is_long = [length_of(encoded) > 1.5 * RATE for encoded in files.values()]
    assert 0 < sum(is_long) < len(files)
    strict = {"max_length_seconds": 1.5, "longer": "error"}
    with pytest.raises(AudioTooLongError, match=r"Expected at most 1\.5 s in 'a\.wav', found more"):
        list(FORMS[form](make(**strict), dataset))
    if form in ("batched", "references", "stream"):
        left = make(on_error="skip", length_column="input_length", **strict)
        assert lengths_of(FORMS[form](left, dataset)) == [
            length for length, too_long in zip(cut["input_length"], is_long, strict=True) if not too_long
        ]
        assert len(left.bad_clips) == sum(is_long)
        assert left.stats.decodes == 0


def test_longer_needs_a_cap(make):
    with pytest.raises(ValueError, match='longer="error" needs max_length_seconds='):
        make(longer="error")


# Files that are not whole


def test_a_stored_waveform_of_a_clip_that_is_too_long_is_refused_too(make, dataset):
    cut = make(max_length_seconds=1.5, waveforms="always")
    list(cut.attach(dataset))
    cut.audio_cache.clear()
    strict = make(max_length_seconds=1.5, longer="error", waveforms="always", on_error="null")
    assert None in [row["input_values"] for row in strict.attach(dataset)]
    assert {one.error for one in strict.bad_clips} == {"AudioTooLongError"}
    assert strict.stats.decodes == 0


@pytest.fixture
def lying(dataset, files):
    """A dataset whose second file promises three seconds more than there are."""
    wav = bytearray(files["a.wav"])
    struct.pack_into("<I", wav, 40, len(wav) - 44 + 6 * RATE)
    cells = [{"bytes": files["a.flac"], "path": "a.flac"}, {"bytes": bytes(wav), "path": "lie.wav"}]
    return data.of_cells(cells)


@pytest.mark.parametrize(("form", "waveforms"), crossed([*FORMS], ["always", "never"]))
def test_what_a_tolerant_run_stored_is_refused_by_a_strict_one(form, waveforms, make, lying, files, tmp_path):
    with pytest.raises(TruncatedAudioError) as first:
        list(FORMS[form](make(waveforms=waveforms), lying))
    assert (first.value.seconds, first.value.promised) == (30_000 / RATE, 30_000 / RATE + 3)
    tolerant = make(truncated="accept", waveforms=waveforms)
    features = [row["input_values"] for row in FORMS[form](tolerant, lying)]
    whole = data.expected_features(tolerant.processor, files["a.wav"])["input_values"]
    assert np.array_equal(np.asarray(features[1], np.float32), whole)  # all of the audio is there

    strict = make(waveforms=waveforms)
    with pytest.raises(TruncatedAudioError) as again:
        list(FORMS[form](strict, lying))
    assert str(again.value) == str(first.value)
    assert vars(again.value) == vars(first.value)
    assert strict.stats.decodes == 0
    # Another processor finds the waveform, and it is as short.
    other = CachedFeatures(lambda waveform, _: waveform, tmp_path / "root", identity="raw", sampling_rate=RATE)
    if waveforms == "always":
        with pytest.raises(TruncatedAudioError):
            other({"audio": lying["audio"][1]})


def test_a_warm_map_reads_no_entry_but_those_of_clips_that_are_not_whole(make, lying):
    tolerant = make(truncated="accept")
    tolerant.map(lying)
    strict = make(on_error="null")
    assert strict.map(lying, load_from_cache_file=False)["input_values"][1] is None
    sha = hashlib.sha256(lying["audio"][1]["bytes"]).hexdigest()
    key = tolerant.pipeline.key(sha, tolerant.pipeline.identity())
    assert strict.stats.bytes_read == tolerant.audio_cache.path_for(key).stat().st_size


def test_a_renamed_file_is_named_by_its_own_name(make, lying):
    list(make(truncated="accept").map(lying))
    cell = {**lying["audio"][1], "path": "other.wav"}
    with pytest.raises(TruncatedAudioError, match=r"Expected audio in 'other\.wav' \(60044 bytes\)"):
        make()({"audio": cell})


def test_files_whose_hash_is_remembered_are_refused_too(make, lying, tmp_path):
    path = tmp_path / "lie.wav"
    path.write_bytes(lying["audio"][1]["bytes"])
    make(truncated="accept")({"audio": str(path)})
    with pytest.raises(TruncatedAudioError, match=Path(path).name):
        make()({"audio": str(path)})
