"""A batch goes through the steps once: what each step is asked for, and in which order."""

import audio_datasets as data
import numpy as np
import pyarrow as pa
import pytest
import soundfile

from hf_audio_cache import CacheRoot
from hf_audio_cache.errors import AudioError, AudioSourceError, StoreError
from hf_audio_cache.pipeline import FeaturePipeline, FeatureSettings, WaveformSettings, store, waveforms
from hf_audio_cache.pipeline import clip_pipeline as module


@pytest.fixture
def clips(prompts):
    return data.shortest(prompts, 3)


@pytest.fixture
def pipeline(make_processor, tmp_path):
    settings = FeatureSettings(WaveformSettings(16_000, 0, True))
    return FeaturePipeline(make_processor("wav2vec2"), CacheRoot(tmp_path / "root"), settings)


@pytest.fixture
def steps(pipeline, monkeypatch):
    """Names of the steps as they are taken; the look-up with its number of cells."""
    taken = []

    def note(owner, name):
        original = getattr(owner, name)

        def noted(*args, **kwargs):
            taken.append(f"{name} {len(args[0])}" if name == "look_up" else name)
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, noted)

    note(module, "look_up")
    note(pipeline.manifests, "ensure")
    note(pipeline.waveforms, "reader_of")
    note(pipeline.extraction, "extract")
    for name in ("write_waveform", "write", "wait"):
        note(pipeline.writer, name)
    return taken


def cells(clips):
    return [{"bytes": clip.read_bytes(), "path": clip.name} for clip in clips]


def test_a_batch_goes_down_once_and_comes_back_once(pipeline, steps, clips):
    rows = pipeline.features([*cells(clips), cells(clips)[0]])
    each = ["write_waveform", "write", "extract"]
    assert steps == ["look_up 4", "ensure", "reader_of", *each * 3, *["write"] * 3, "wait"]
    rows = [row.outputs for row in rows]
    assert rows[0]["input_values"] is not rows[3]["input_values"]
    data.assert_same_bits(rows[0]["input_values"], rows[3]["input_values"])
    steps.clear()
    again = pipeline.features(cells(clips))
    assert steps == ["look_up 3", "wait"]
    for row, other in zip(again, rows, strict=False):
        data.assert_same_bits(row.outputs["input_values"], other["input_values"])


def test_a_batch_that_is_ensured_takes_the_same_steps(pipeline, steps, clips):
    sha = pipeline.identity().sha
    stored = pipeline.ensure(cells(clips), sha)
    keys = [clip.key for clip in stored]
    assert [clip.length.n_samples for clip in stored] == [2 * soundfile.info(clip).frames for clip in clips]
    each = ["write_waveform", "write", "extract"]
    assert steps == ["ensure", "look_up 3", "ensure", "reader_of", *each * 3, *["write"] * 3, "wait"]
    assert keys == [pipeline.settings.waveform.features_key(data.sha256(clip), sha) for clip in clips]
    assert all(pipeline.audio_cache.exists_many(keys))


def test_a_bad_clip_takes_no_further_step(pipeline, steps, clips):
    rows = pipeline.features([{"bytes": b"no audio", "path": "bad.wav"}, *cells(clips[:1])])
    assert isinstance(rows[0], AudioError)
    assert steps == ["look_up 2", "ensure", "reader_of", "write_waveform", "write", "extract", "write", "wait"]
    assert [clip.clip for clip in pipeline.counters.bad_clips()] == ["bad.wav"]


@pytest.mark.parametrize("form", ["array", "Arrow"])
def test_memory_that_changes_after_it_was_hashed_gets_no_entry(form, clips, pipeline, monkeypatch):
    if form == "array":
        memory = soundfile.read(clips[0], dtype="float32")[0]
        cell = {"array": memory, "sampling_rate": 16_000, "path": "x.wav"}
    else:
        memory = np.frombuffer(bytearray(clips[0].read_bytes()), np.uint8)
        cell = {"bytes": pa.py_buffer(memory), "path": "x.wav"}
    before = memory.copy()
    decode = waveforms.decode

    def while_somebody_writes(*args):
        memory[-1] = 0 if memory[-1] else 1
        return decode(*args)

    with monkeypatch.context() as patched:
        # After the hash and before the decoding, where no thread could be made to write.
        patched.setattr(waveforms, "decode", while_somebody_writes)
        (row,) = pipeline.features([cell])
    assert isinstance(row, AudioSourceError)
    assert "x.wav changed while they were read" in str(row)
    assert not list(pipeline.audio_cache._store.names())
    memory[:] = before
    assert not isinstance(pipeline.features([cell])[0], AudioError)


@pytest.mark.parametrize("lost", ["processors", "CACHEDIR.TAG"])
@pytest.mark.parametrize("strict", [True, False])
def test_a_lost_manifest_or_tag_is_an_error_of_a_strict_root_alone(strict, lost, clips, make_processor, tmp_path):
    def put_many(objects):
        found = {name: content for name, content in objects.items() if not name.startswith(lost)}
        return put(found) | {name: StoreError(f"no room for {name}", name=name) for name in objects.keys() - found}

    settings = FeatureSettings(WaveformSettings(16_000, 0, True))
    root = CacheRoot(tmp_path / "root", strict=strict)
    pipeline = FeaturePipeline(make_processor("wav2vec2"), root, settings)
    put, pipeline.store.put_many = pipeline.store.put_many, put_many
    for call in (pipeline.features, lambda cells: pipeline.ensure(cells, pipeline.identity().sha)):
        if strict:
            with pytest.raises(StoreError, match=f"^no room for {lost}"):
                call(cells(clips))
    if not strict:
        assert pipeline.features(cells(clips))[0].outputs
        assert pipeline.counters.total().write_errors == 1


def test_the_next_root_is_told_what_the_processor_gives(pipeline, clips, tmp_path, monkeypatch):
    specs = pipeline.output_specs()
    other = FeaturePipeline(pipeline.processor, CacheRoot(tmp_path / "other"), pipeline.settings)
    monkeypatch.setattr(other.manifests, "_probe", pytest.fail)
    other.features(cells(clips))
    assert other.root.read_manifest(other.identity().sha).outputs == specs


def test_a_manifest_without_outputs_is_written_again_where_they_are_found(pipeline, clips, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "_PROBED", {})
    monkeypatch.setattr(pipeline.manifests, "_probe", dict)
    pipeline.features(cells(clips[:1]))
    sha = pipeline.identity().sha
    assert pipeline.root.read_manifest(sha).outputs == {}
    other = FeaturePipeline(pipeline.processor, CacheRoot(tmp_path / "root"), pipeline.settings)
    assert other.output_specs().keys() == {"input_values"}
    other.features(cells(clips[1:]))
    assert other.root.read_manifest(sha).outputs == other.output_specs()
