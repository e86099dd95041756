"""Compare two processors: what differs, by their descriptions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

# Parts of a description that are named without saying where they stand.
_UNNAMED = ("state", "code", "globals", "members", "class", "backends", "torch", "kept")
# Keys that say what a value is.
_FORMS = frozenset({"array", "tensor", "bytes", "bytearray", "scalar", "dict", "tuple", "set"})
_FORMS |= {"frozenset", "float", "int", "complex", "is", "library", "method", "nothing", "objects"}

_LONGEST = 160  # letters of a value that are shown
_NOTHING = {"nothing": True}  # where only one of two descriptions has a part


@dataclass(frozen=True)
class Difference:
    """One part in which two descriptions differ; a function whose code does has no values."""

    path: str  # where it stands, such as ``feature_size``, ``processor_kwargs.padding`` or ``FrontEnd.__call__.GAIN``
    old: Any = None  # None for nothing
    new: Any = None
    kind: str = "value"  # ``"value"``, or for code ``"changed"``, ``"gone"`` or ``"new"``

    def __str__(self) -> str:
        old, new = (
            text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…" for text in map(_text, (self.old, self.new))
        )
        words = {
            "changed": f"the code of {self.path} changed",
            "gone": f"{self.path} is not reached any more",
            "new": f"{self.path} is reached now",
        }
        return words.get(self.kind) or f"{self.path}: {old} -> {new}"


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Difference]:
    """Return the parts in which two descriptions of one scheme differ, the state first."""
    parts = sorted(old.keys() | new.keys(), key=lambda part: (part == "code", part != "class", part))
    found: list[Difference] = []
    for part in parts:
        prefix = {"call": "processor_kwargs"}.get(part, "" if part in _UNNAMED and part != "class" else part)
        there, here = old.get(part), new.get(part)
        found += _code(there or {}, here or {}, _attributes(new)) if part == "code" else _values(there, here, prefix)
    return found


def _attributes(description: Mapping[str, Any]) -> dict[str, str]:
    """Return for each object that a processor holds by which attribute it does, the shortest way there."""
    found: dict[str, str] = {}
    pending = [("", description.get("state"))]
    while pending:
        path, value = pending.pop(0)
        if not isinstance(value, (Mapping, list)):
            continue
        label = value.get("is") if isinstance(value, Mapping) else None
        if isinstance(label, str) and label not in found:
            found[label] = path
            held = description["code"].get(label, {})
            pending += [(path, held.get(part)) for part in ("state", "kept", "arguments", "items", "pairs")]
        elif isinstance(value, Mapping):
            pending += [
                (f"{path}.{name}".lstrip(".") if name not in _FORMS else path, part) for name, part in value.items()
            ]
        else:
            pending += [(path, part) for part in value]
    return {label: path for label, path in found.items() if " object" in label}


def _code(old: Mapping[str, Any], new: Mapping[str, Any], attributes: Mapping[str, str]) -> Iterator[Difference]:
    for name in sorted(old.keys() & new.keys()):
        there, here = old[name], new[name]
        if isinstance(there.get("code"), str) and there.get("code") != here.get("code"):
            yield Difference(name, kind="changed")
            there, here = {**there, "code": None}, {**here, "code": None}
        yield from _values(there, here, attributes.get(name, name))
    yield from (Difference(name, kind="gone") for name in sorted(old.keys() - new.keys()))
    yield from (Difference(name, kind="new") for name in sorted(new.keys() - old.keys()))


def _values(old: Any, new: Any, path: str) -> Iterator[Difference]:
    if json.dumps(old, sort_keys=True) == json.dumps(new, sort_keys=True):  # True is not 1
        return
    if isinstance(old, Mapping) and isinstance(new, Mapping) and not _is_form(old) and not _is_form(new):
        for name in sorted(old.keys() | new.keys()):
            inner = path if name in _UNNAMED else f"{path}.{name}" if path else name
            if name in old and name in new:
                yield from _values(old[name], new[name], inner)
            else:
                yield from _values(old.get(name, _NOTHING), new.get(name, _NOTHING), inner)
    elif isinstance(old, Mapping) and isinstance(new, Mapping) and list(old) == list(new) == ["dict"]:
        pairs = [{json.dumps(name): (name, value) for name, value in part["dict"]} for part in (old, new)]
        if pairs[0].keys() == pairs[1].keys() and list(pairs[0]) != list(pairs[1]):
            yield Difference(f"{path} order", list(pairs[0]), list(pairs[1]))
        for key in dict.fromkeys((*pairs[0], *pairs[1])):
            name = (pairs[0].get(key) or pairs[1][key])[0]
            there, here = (part[key][1] if key in part else None for part in pairs)
            yield from _values(there, here, f"{path}.{name}" if isinstance(name, str) else f"{path}[{key}]")
    else:
        yield Difference(path, old, new)


def _is_form(value: Mapping[str, Any]) -> bool:
    """Return whether a mapping is the form of one value, and none of parts that have names."""
    return not _FORMS.isdisjoint(value)


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        for kind in ("array", "tensor"):
            if kind in value:
                order = ", in Fortran order" if value.get("order") == "F" else ""
                return f"{value[kind]} {kind} of shape {tuple(value['shape'])}{order}, digest {value['xxh3_128'][:8]}"
        for kind in ("is", "library", "module", "type"):
            if kind in value:
                return str(value[kind])
        if "tuple" in value:
            return f"({', '.join(map(_text, value['tuple']))})"
    return "(none)" if value is None or value == _NOTHING else repr(value)
