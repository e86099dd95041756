"""A graph of described objects, and names for its nodes that are the same wherever it is made."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import xxhash


@dataclass(frozen=True)
class Ref:
    """Stands for a node in the content of another."""

    node: int


@dataclass(frozen=True)
class Unordered:
    """Stands for nodes that have no order."""

    nodes: tuple[int, ...]


@dataclass
class Node:
    """An object whose content is described once, wherever it is met."""

    value: Any
    label: str
    path: str
    describe: Callable[[Any, Node], dict[str, Any]]
    is_certain: bool  # whether a call reaches it, and not just may
    content: Any = None


def names_of(nodes: Mapping[int, Node]) -> dict[int, str]:
    """Return a name for each node: its label, with a digest where others of that label say something else.

    Nodes are told apart by what they say, then by what their neighbours say, and so on until nothing new is told apart.
    """
    said: dict[int, str] = {}
    neighbours: dict[int, list[Ref | Unordered]] = {key: [] for key in nodes}
    for key, node in nodes.items():
        parts = neighbours[key]
        text = json.dumps([node.label, node.content], sort_keys=True, default=functools.partial(_note, parts))
        said[key] = _digest(text)
    digests, count = said, 0
    while count != (count := len(set(digests.values()))):
        digests = {key: _digest(said[key] + "".join(_digests(neighbours[key], digests))) for key in nodes}
    of_label: dict[str, set[str]] = {}
    for key, node in nodes.items():
        of_label.setdefault(node.label, set()).add(digests[key])
    return {
        key: node.label if len(of_label[node.label]) == 1 else f"{node.label}#{digests[key][:12]}"
        for key, node in nodes.items()
    }


def _note(parts: list[Any], part: Any) -> dict[str, str]:
    parts.append(part)
    return {"\0": type(part).__name__}


def _digest(text: str) -> str:
    return xxhash.xxh3_128_hexdigest(text.encode())


def _digests(parts: Iterable[Ref | Unordered], digests: Mapping[int, str]) -> Iterator[str]:
    for part in parts:
        yield digests[part.node] if isinstance(part, Ref) else str(sorted(digests[node] for node in part.nodes))


def printed(content: Any, names: Mapping[int, str]) -> Any:
    """Return content as JSON values, with the names of nodes in their place."""

    def name(part: Ref | Unordered) -> Any:
        if isinstance(part, Ref):
            return {"is": names[part.node]}
        return [{"is": each} for each in sorted(names[node] for node in part.nodes)]

    return json.loads(json.dumps(content, default=name))
