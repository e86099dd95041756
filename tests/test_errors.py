from __future__ import annotations

import builtins
import errno
import inspect
import multiprocessing
import pickle
import re

import pytest

from hf_audio_cache import errors
from hf_audio_cache.cache.keys import WaveformCacheKey

KEY = WaveformCacheKey("0" * 64, 16000, 0)

# Each class with one value for each of its fields.
EXAMPLES = [
    errors.HfAudioCacheError("message"),
    errors.InvalidKeyError("message", field="sample_rate", actual=-1),
    errors.InvalidNameError("message", name="../name"),
    errors.InvalidRootError("message", root="s3://bucket"),
    errors.UnstorableOutputError("message", name="input_features"),
    errors.SigningKeyError("message", path="keys.txt"),
    errors.CorruptEntryError("message"),
    errors.UnsignedEntryError("message"),
    errors.UnknownVersionError("message"),
    errors.StoreError("message", name="ab/name", errno=28, kind="throttled"),
    errors.ArchiveError("message", path="all.tar"),
    errors.ClusterError("message"),
    errors.MissingEntryError("message", key=KEY, root="/root"),
    errors.CannotSkipError("message"),
    errors.AudioColumnError("message", column="audio", columns=("text", "label")),
    errors.AudioError("message", clip="a.wav"),
    errors.AudioSourceError("message", clip="a.wav"),
    errors.AudioDecodeError("message", clip="a.wav", n_bytes=44, cause="no samples"),
    errors.TruncatedAudioError("message", clip="a.wav", n_bytes=44, cause="it is short", seconds=1.5, promised=3.0),
    errors.AudioTooLongError("message", clip="a.wav", max_seconds=30.0),
    errors.SamplingRateError("message", clip="a.wav", expected=16000, actual=8000),
    errors.AudioExtractionError("message", clip="a.wav"),
    errors.ProcessorError("message"),
    errors.UnfingerprintableProcessorError("message", path="window.beta"),
    errors.RandomOutputError("message", clip="a.wav"),
]


def raise_error(error):
    raise error


def classes():
    return {name: value for name, value in vars(errors).items() if inspect.isclass(value)}


def tree_in_docstring():
    """Return {class name: (name of its parent, its builtin or None)} as the module's docstring draws it."""
    tree, parents = {}, []
    for line in errors.__doc__.splitlines():
        drawn = re.fullmatch(r"    ((?:[│ ]   )*(?:[├└]── )?)(\w+Error)(?:\((\w+)\))?(?: .*)?", line)
        if drawn:
            depth = len(drawn[1]) // 4
            parents[depth:] = [drawn[2]]
            tree[drawn[2]] = (parents[depth - 1] if depth else None, drawn[3])
    return tree


def test_the_docstring_draws_the_tree_that_is_there():
    drawn = tree_in_docstring()
    real = {}
    for name, cls in classes().items():
        parent, *mixins = cls.__bases__
        real[name] = (None if parent is Exception else parent.__name__, mixins[0].__name__ if mixins else None)
        assert len(mixins) <= 1
    assert drawn == real


def test_all_names_every_class_and_nothing_else():
    assert errors.__all__ == sorted(classes())


def test_every_class_is_tried_here():
    assert {type(error).__name__ for error in EXAMPLES} == set(classes())


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_each_is_caught_as_the_base_and_as_its_builtin(error):
    assert isinstance(error, errors.HfAudioCacheError)
    parent, builtin = tree_in_docstring()[type(error).__name__]
    if parent in ("AudioError", "AudioDecodeError", "CorruptEntryError"):
        builtin = "ValueError"
    assert isinstance(error, getattr(builtins, builtin or "Exception"))
    assert (builtin is None) == (parent is None)


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_fields_survive_pickling(error, protocol):
    again = pickle.loads(pickle.dumps(error, protocol))
    assert type(again) is type(error)
    assert str(again) == str(error) == "message"
    assert vars(again) == vars(error)


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_every_field_of_the_signature_is_an_attribute(error):
    fields = {
        name
        for name, parameter in inspect.signature(type(error).__init__).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }
    assert all(hasattr(error, field) for field in fields)
    assert set(vars(error)) == fields - {"errno"}  # which an OSError keeps elsewhere
    bare = type(error)("message")
    assert set(vars(bare)) == fields - {"errno"}
    assert not any(vars(bare).values())


def test_the_number_of_a_system_error_survives_pickling(tmp_path):
    from hf_audio_cache.stores import LocalStore

    [error] = LocalStore(tmp_path).get_many(["x" * 300])
    assert error.errno == errno.ENAMETOOLONG
    assert pickle.loads(pickle.dumps(error)).errno == errno.ENAMETOOLONG


def test_fields_survive_leaving_a_spawned_process():
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        for error in EXAMPLES:
            with pytest.raises(type(error), match="message") as caught:
                pool.apply(raise_error, [error])
            assert type(caught.value) is type(error)
            assert vars(caught.value) == vars(error)


@pytest.mark.parametrize("clip", ["a", "1", "a.wav", "/data/1"])
def test_an_error_of_a_clip_is_said_of_another_one_with_nothing_else_changed(clip):
    error = errors.AudioDecodeError(f"Expected audio in {clip!r} (11 bytes), found no sample. See {clip}.", clip=clip)
    error.__cause__ = OSError("why")
    other = error.of("other.wav")
    assert str(other) == "Expected audio in 'other.wav' (11 bytes), found no sample. See other.wav."
    more = other.adding("It is row 3.")
    assert str(more) == f"{other} It is row 3."
    for each in (other, more):
        assert (type(each), each.clip, each.__cause__) == (errors.AudioDecodeError, "other.wav", error.__cause__)
    assert error.clip == clip
