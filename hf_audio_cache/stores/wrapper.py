"""A store around another one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from ..errors import StoreError
from .base import Range, Store, StoredObject

if TYPE_CHECKING:
    from typing_extensions import Self


class WrappingStore(Store):
    """Hands every call on to another store; a subclass overrides the calls that it is there for.

    A child shares all other attributes with its parent. Like what it wraps, it is not pickled, since that may hold
    credentials.
    """

    def __init__(self, wrapped: Store) -> None:
        self._wrapped = wrapped

    @property
    def is_local(self) -> bool:  # type: ignore[override]  # an attribute of the class elsewhere
        return self._wrapped.is_local

    def get_many(self, names: Sequence[str]) -> list[bytes | StoreError | None]:
        return self._wrapped.get_many(names)

    def get_again(self, names: Sequence[str]) -> list[bytes | StoreError | None]:
        return self._wrapped.get_again(names)

    def get_ranges(self, ranges: Sequence[Range]) -> list[bytes | StoreError | None]:
        return self._wrapped.get_ranges(ranges)

    def put_many(self, objects: Mapping[str, bytes]) -> dict[str, StoreError]:
        return self._wrapped.put_many(objects)

    def refuse_puts(self, names: Iterable[str]) -> dict[str, StoreError]:
        return self._wrapped.refuse_puts(names)

    def exists_many(self, names: Sequence[str]) -> list[bool]:
        return self._wrapped.exists_many(names)

    def renew(self) -> bool:
        return self._wrapped.renew()

    def delete(self, names: Iterable[str]) -> dict[str, StoreError]:
        return self._wrapped.delete(names)

    def sync(self, names: Iterable[str]) -> None:
        self._wrapped.sync(names)

    def tidy(self) -> None:
        self._wrapped.tidy()

    def scan(self, prefix: str = "") -> Iterator[StoredObject]:
        return self._wrapped.scan(prefix)

    def listing(self, prefix: str) -> list[StoredObject]:
        return self._wrapped.listing(prefix)

    def location(self, name: str = "") -> Path | str:
        return self._wrapped.location(name)

    @property
    def copies(self) -> Store | None:
        return self._wrapped.copies

    def bare(self) -> Store:
        return self._around(self._wrapped.bare())

    def child(self, prefix: str) -> Self:
        return self._around(self._wrapped.child(prefix))

    def _around(self, store: Store) -> Self:
        """Return a copy of this one around another store."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__, _wrapped=store)
        return other

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._wrapped!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{type(self).__name__} is not pickled, since it may hold credentials: open its root again.")
