"""A batch whose features are computed or read only when its column is looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any


class LateColumns(dict[str, Any]):
    """A batch of columns, of which some are made when any of them is looked at, or all columns at once.

    `datasets` asks an attached dataset for a whole batch where one column is wanted (``ds["label"][:]``, a batched
    filter or map). Columns that are there already cost nothing then. `late` makes the others by name, and is called
    once.
    """

    def __init__(self, present: Mapping[str, Any], late: Callable[[], Mapping[str, Any]]) -> None:
        super().__init__(present)
        self._late: Callable[[], Mapping[str, Any]] | None = late

    def _complete(self) -> None:
        if self._late is not None:
            super().update(self._late())
            self._late = None  # not before: what failed once fails again

    def __getitem__(self, name: str) -> Any:
        if not super().__contains__(name):
            self._complete()
        return super().__getitem__(name)

    def __contains__(self, name: object) -> bool:
        if not super().__contains__(name):
            self._complete()
        return super().__contains__(name)

    def get(self, name: str, default: Any = None) -> Any:
        """Return a column."""
        if not super().__contains__(name):
            self._complete()
        return super().get(name, default)

    # An own __iter__ keeps dict(batch) and {**batch} from copying only what is there.
    def __iter__(self) -> Iterator[str]:
        self._complete()
        return super().__iter__()

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self.items()),)


def _complete_first(name: str) -> Any:
    of_dict = getattr(dict, name)

    def method(self: LateColumns, *arguments: Any, **settings: Any) -> Any:
        self._complete()
        return of_dict(self, *arguments, **settings)

    method.__name__ = name
    return method


for _name in (
    *("__delitem__", "__eq__", "__ior__", "__len__", "__ne__", "__or__", "__repr__", "__reversed__", "__ror__"),
    *("__setitem__", "clear", "copy", "items", "keys", "pop", "popitem", "setdefault", "update", "values"),
):
    setattr(LateColumns, _name, _complete_first(_name))
