"""What people pass in the place of a processor, and what they are told to pass instead."""

from __future__ import annotations

import inspect
from typing import Any

from ..errors import ProcessorError

_MOST_SAID = 200  # characters of what was passed

# By a class of transformers' that it derives from.
_MISTAKES = {
    "PreTrainedTokenizerBase": "a tokenizer, which takes text",
    "PreTrainedModel": "a model, which takes the features",
    "PretrainedConfig": "a configuration",
    "PreTrainedConfig": "a configuration",
    "ImageProcessingMixin": "an image processor",
    "Pipeline": "a pipeline, which holds a processor and a model",
    "ProcessorMixin": "a processor without an audio part",
}


def method_of(kind: type, name: str) -> Any:
    """Return the unbound method that a class has or inherits, or None. Those of its metaclass do not count."""
    return next((vars(each)[name] for each in kind.__mro__ if name in vars(each)), None)


def kind_of_mistake(kind: type) -> str:
    """Return what an object of transformers is, if it is no front end for audio; else empty."""
    found, call = _kind_of(kind), method_of(kind, "__call__")
    is_own_call = found == _MISTAKES["ProcessorMixin"] and call is not None and _takes_audio(call)
    return "" if is_own_call else found


def _kind_of(kind: type) -> str:
    if kind.__module__.partition(".")[0] not in ("transformers", "transformers_modules"):
        return ""
    names = [each.__name__ for each in kind.__mro__]
    return next((_MISTAKES[name] for name in names if name in _MISTAKES), "")


def _takes_audio(call: Any) -> bool:
    """Return whether a call may have an argument for audio."""
    try:
        parameters = inspect.signature(call).parameters
    except (TypeError, ValueError):
        return True
    return any(
        name.startswith(("audio", "raw_", "speech", "sound", "wav", "inputs")) or each.kind is each.VAR_POSITIONAL
        for name, each in parameters.items()
    )


def not_a_processor(found: Any) -> ProcessorError:
    """Return the error that says what was passed in the place of a processor."""
    kind = type(found)
    load = "AutoFeatureExtractor.from_pretrained"
    if isinstance(found, type):
        what, remedy = f"the class {found.__name__}, not an object of it", f"{found.__name__}.from_pretrained(name)"
    elif isinstance(found, str):
        what, remedy = f"the name {found!r}", f"{load}({found!r})"
    elif mistake := _kind_of(kind):
        what, remedy = f"a {kind.__name__}: {mistake}", f"{load}(name), with the name of the model"
    else:
        what, remedy = repr(found), f"what {load} or AutoProcessor.from_pretrained returns"
        what = what if len(what) <= _MOST_SAID else f"{what[:_MOST_SAID]}…"
    return ProcessorError(
        f"Not a feature extractor, nor a processor that has one as audio_processor or feature_extractor: {what}. "
        f"Pass {remedy}. Nothing was computed."
    )
