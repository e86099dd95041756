"""Finding and calling the audio part of a processor, its rate and channels: one clip in, its outputs by name out."""

from __future__ import annotations

import functools
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ProcessorError
from ..support.process_local import ProcessLocal, is_forked
from ..support.torch_module import loaded_torch
from .mistakes import kind_of_mistake, method_of, not_a_processor
from .output_forms import without_batch_axis

# Extractors of transformers 5.23 that are no `SequenceFeatureExtractor`s call their audio part one of these.
_AUDIO_PARTS = ("audio_processor", "feature_extractor")
# Methods by which the call of a processor of transformers 5.23 hands audio to that part.
_AUDIO_STEPS = ("prepare_inputs_layout", "_process_audio")

# Attribute of the class of a stand-in: the extractor in whose place it is.
STANDS_FOR = "_hf_audio_cache_stands_for"

# How transformers asks for an optional library. ("Speech" is torchaudio, which these extractors can do without.)
_GUARD = re.compile(r"is_(?!speech_)(\w+)_available")


class NamedFunction:
    """A front end of the user's own, in the form of a feature extractor, under an identity that the user gives it.

    The function is ``function(waveform, sampling_rate, **processor_kwargs)`` and returns an array, or arrays by name;
    or it is an object that is called as a feature extractor is. Its `identity` is another one whenever it computes
    something else.
    """

    def __init__(self, function: Callable[..., Any], identity: str) -> None:
        if not callable(function):
            raise ProcessorError(
                f"identity={identity!r} names a function(waveform, sampling_rate), and {function!r} cannot be called. "
                "Nothing was computed."
            )
        if type(identity) is not str or not identity:
            raise ProcessorError(f"identity must be a name, not {identity!r}; nothing was computed.")
        self.function = function
        self.identity = identity
        is_function = inspect.isroutine(function) or isinstance(function, functools.partial)
        self.front_end = None if is_function else audio_part(function)
        self.sampling_rate = attribute(self.front_end, "sampling_rate")

    def __call__(self, waveforms: list[npt.NDArray[np.float32]], sampling_rate: int, **kwargs: Any) -> dict[str, Any]:
        """Return the outputs for a batch of one."""
        [waveform] = waveforms
        kwargs.pop("return_tensors", None)
        outputs = self.function(waveform, sampling_rate, **kwargs)
        named = outputs if isinstance(outputs, Mapping) else {"input_features": outputs}
        return {name: [value] for name, value in named.items()}


def real_extractor(extractor: Any) -> Any:
    """Return the extractor that a stand-in of ours has the place of; another object as it is."""
    return vars(type(extractor)).get(STANDS_FOR, extractor)


def attribute(owner: Any, name: str) -> Any:
    """Return an attribute, or None if it is missing: a `__getattr__` may raise any exception for that."""
    try:
        return getattr(owner, name, None)
    except Exception:  # noqa: BLE001 - whatever a `__getattr__` raises
        return None


def audio_part(processor: Any) -> Any:
    """Return what is called for audio: a processor itself, or a part of one of transformers' own.

    A processor of transformers takes its audio by its ``audio_processor`` or ``feature_extractor``. One with a call of
    its own, or a method of its own that hands audio on, is called itself, whatever parts it has. Raises ProcessorError
    if that cannot be called.
    """
    extractor = processor
    if _is_taken_apart(processor):
        parts = (attribute(processor, name) for name in _AUDIO_PARTS)
        extractor = next((part for part in parts if part is not None), None)
        if extractor is None:
            raise not_a_processor(processor)
    extractor = real_extractor(extractor)
    if inspect.isroutine(extractor):
        raise ProcessorError(
            f"The function {extractor!r} needs a name for its key, and its rate. Pass "
            'CachedFeatures(function, identity="my-mel-v1", sampling_rate=16_000). Nothing was computed.'
        )
    if callable(extractor) and not isinstance(extractor, type) and not kind_of_mistake(type(extractor)):
        return extractor
    raise not_a_processor(processor)


def _is_taken_apart(processor: Any) -> bool:
    """Return whether a processor has no call, or is a `ProcessorMixin` that hands audio on by transformers' code."""
    if not callable(processor):
        return True
    kind = type(processor)
    if not _is_a_mixin(kind):
        return False
    steps = [method_of(kind, "__call__")]
    steps += [vars(processor).get(name, method_of(kind, name)) for name in _AUDIO_STEPS]
    # Their decorators may be around a call of one's own, and one of one's own around theirs.
    written = (inspect.unwrap(step, stop=lambda layer: not _is_of_transformers(layer)) for step in steps if step)
    return all(map(_is_of_transformers, written))


def _is_a_mixin(kind: type) -> bool:
    return any(parent.__name__ == "ProcessorMixin" for parent in kind.__mro__)


def _is_of_transformers(function: Any) -> bool:
    """Return whether a function was written in transformers; `functools.wraps` gives it another `__module__`."""
    return str(getattr(function, "__globals__", {}).get("__name__")).startswith("transformers.")


def name_of(extractor: Any) -> str:
    """Return what messages call an extractor: its class, or the name that the user gave a function."""
    return extractor.identity if isinstance(extractor, NamedFunction) else type(extractor).__name__


def processor_sampling_rate(processor: Any, sampling_rate: int | None = None) -> int:
    """Return the rate in Hz at which a processor takes its waveforms; `sampling_rate` is what the caller asks for.

    Raises ProcessorError if neither says it, or they contradict each other: Gemma3n's extractor takes any rate.
    """
    own: int | None = attribute(audio_part(processor), "sampling_rate")
    rate: Any = own if sampling_rate is None else sampling_rate
    if rate is None:
        raise ProcessorError(
            f"{name_of(audio_part(processor))} does not say its sampling rate. Pass sampling_rate= in Hz. "
            "Nothing was computed."
        )
    if own is not None and sampling_rate is not None and own != sampling_rate:
        raise ProcessorError(
            f"{name_of(audio_part(processor))} takes waveforms at {own} Hz, and sampling_rate={sampling_rate} "
            "was passed. Leave out sampling_rate=: clips are brought to the processor's rate. Nothing was computed."
        )
    is_number = isinstance(rate, (int, float, np.integer, np.floating)) and not isinstance(rate, bool)
    if not is_number or not 0 < rate <= 1_000_000 or not float(rate).is_integer():
        raise ProcessorError(
            f"The sampling rate {rate!r} is not a whole number of Hz up to 1,000,000. Pass sampling_rate= in Hz. "
            "Nothing was computed."
        )
    return int(rate)


def check_takes_channels(processor: Any, channels: str | int) -> None:
    """Raise `ProcessorError` if an extractor of transformers does not take its audio in this form.

    One for stereo has a ``feature_size`` of 2. Of the others some take two channels for two clips.
    """
    extractor = audio_part(processor)
    size = attribute(extractor, "feature_size")
    if not type(extractor).__module__.startswith("transformers.") or size is None:
        return
    if channels == "all" and size != 2:
        raise ProcessorError(
            f'{name_of(extractor)} takes clips of one channel, and channels="all" gives all of them, as an array of '
            'shape (n_channels, n_samples). Pass channels="mean", or the number of one. Nothing was computed.'
        )
    if channels != "all" and size == 2:
        raise ProcessorError(
            f"{name_of(extractor)} takes clips of two channels, as its feature_size says. Pass "
            'channels="all". Nothing was computed.'
        )


def check_arguments(processor: Any, processor_kwargs: Mapping[str, Any]) -> None:
    """Raise `ProcessorError` for arguments that a processor would hand on, and its extractor ignores."""
    extractor = audio_part(processor)
    call = method_of(type(extractor), "__call__")
    if not _is_of_transformers(call) or _is_a_mixin(type(extractor)):
        return
    groups = [name for name in processor_kwargs if name.endswith("_kwargs")]
    if groups and groups[0] not in inspect.signature(call).parameters:
        raise ProcessorError(
            f"processor_kwargs are arguments of {name_of(extractor)}, which ignores {groups[0]!r}: only a processor "
            'around it knows that. Pass what is in its audio_kwargs, as processor_kwargs={"padding": …}, and nothing '
            "for text. Nothing was computed."
        )


def extract(
    extractor: Any, waveform: npt.NDArray[np.float32], sampling_rate: int, processor_kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the outputs of `extractor` for one clip, by name.

    The clip goes in as a batch of one, so that nothing depends on other clips (the padding of a batch changes the
    features of several extractors); the batch axis is taken off again. An extractor that makes several rows of one clip
    keeps them all. The waveform is float32 mono of shape ``(n_samples,)``, C-contiguous. The outputs are C-contiguous
    NumPy arrays, and JSON values for outputs that are none. What has neither form is as it was returned: no entry can
    hold it. Raises ProcessorError if its outputs have no names, or a library that it needs is not installed.
    """
    use_one_torch_thread_after_fork()
    called = extractor
    if isinstance(extractor, NamedFunction) and extractor.front_end is not None:
        called = extractor.front_end
    outputs = _call(called, waveform, {**_own_arguments(called, sampling_rate), **processor_kwargs})
    if not isinstance(outputs, Mapping) or not outputs:
        found = "no outputs" if isinstance(outputs, Mapping) else f"a {type(outputs).__name__}"
        raise ProcessorError(
            f"{name_of(extractor)} returned {found}, and must return a dict of outputs by name. Nothing was stored."
        )
    # What it returns is copied, for one that uses its buffers again.
    return {name: without_batch_axis(value) for name, value in outputs.items()}


def _call(extractor: Any, waveform: npt.NDArray[np.float32], arguments: Mapping[str, Any]) -> Any:
    # Each call gets a copy, for an extractor that works in place.
    try:
        try:
            return extractor([waveform.copy()], **arguments)
        except ValueError as exc:
            if arguments.get("return_tensors") != "np" or "return_tensors" not in str(exc):
                raise
        return extractor([waveform.copy()], **{**arguments, "return_tensors": "pt"})
    except (ImportError, NameError) as exc:
        missing = _missing_libraries(extractor, exc)
        if not missing:
            raise
        names = " and ".join(missing)
        raise ProcessorError(
            f"{name_of(extractor)} needs {names}, which cannot be imported here. Install it: pip install "
            f"{' '.join(missing)}. Nothing was computed. ({type(exc).__name__}: {' '.join(str(exc).split())})"
        ) from exc


def _missing_libraries(extractor: Any, error: ImportError | NameError) -> list[str]:
    """Return the missing libraries that made an extractor fail. The list is empty if none is known."""
    libraries = list(getattr(type(extractor), "__backends", ()))  # set by transformers' @requires
    if not libraries:  # imported under `if is_torch_available():`, so that a missing one is a NameError
        module = vars(sys.modules.get(type(extractor).__module__, object))
        libraries = [guard[1] for guard in map(_GUARD.fullmatch, module) if guard]
    if isinstance(error, ModuleNotFoundError) and error.name:
        libraries.append(error.name.partition(".")[0])
    return [name for name in dict.fromkeys(libraries) if importlib.util.find_spec(name) is None]


def _own_arguments(extractor: Any, sampling_rate: int) -> dict[str, Any]:
    """Return the arguments that each call has, as far as this extractor takes them."""
    call = type(extractor).__call__
    module = getattr(call, "__module__", "")
    if module == "torch._dynamo.eval_frame":  # of torch.compile, which takes any argument and hands it on
        return _own_arguments(extractor._orig_mod, sampling_rate)
    is_known = module.startswith("transformers.") and attribute(extractor, "__signature__") is None
    called = extractor.forward if module == "torch.nn.modules.module" else extractor  # which torch calls
    takes_rate, takes_type = _known_arguments(call) if is_known else _find_arguments(called)
    arguments: dict[str, Any] = {"sampling_rate": sampling_rate} if takes_rate else {}
    return arguments | ({"return_tensors": "np"} if takes_type else {})


def _find_arguments(call: Any) -> tuple[bool, bool]:
    """Return whether a call takes ``sampling_rate``, and ``return_tensors`` without a default of its own."""
    try:
        parameters = inspect.signature(call).parameters
    except Exception:  # noqa: BLE001 - whatever a `__getattr__` raises
        parameters = inspect.signature(type(call).__call__).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    # An extractor with a default of its own is left at it: some take only that one.
    default = parameters["return_tensors"].default if "return_tensors" in parameters else None
    takes_type = default is None and (takes_any or "return_tensors" in parameters)
    return takes_any or "sampling_rate" in parameters, takes_type


_known_arguments = functools.lru_cache(maxsize=64)(_find_arguments)  # of calls of transformers, which nobody edits


_torch_is_limited: ProcessLocal[bool] = ProcessLocal()


def _limit_torch() -> bool:
    sys.modules["torch"].set_num_threads(1)
    return True


def use_one_torch_thread_after_fork() -> None:
    """Keep torch from its threads in a forked process.

    OpenMP's threads do not live on in a fork: after any parallel operation of torch in the parent, the next one in
    the child waits for them for ever. On one thread, which gives the same bits, a worker is also faster.
    """
    if is_forked() and loaded_torch() is not None:
        _torch_is_limited.get(_limit_torch)
