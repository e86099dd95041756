"""A store that is never written to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from ..errors import StoreError
from .base import Store, StoredObject

__all__ = ["ReadOnlyStore"]


class ReadOnlyStore(Store):
    """Another store, as it is for reading; puts and deletions are refused by a `StoreError` of the kind "read-only"."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @property
    def is_local(self) -> bool:  # type: ignore[override]  # an attribute of the class elsewhere
        return self._store.is_local

    def get_many(self, names: Sequence[str]) -> list[bytes | StoreError | None]:
        return self._store.get_many(names)

    def put_many(self, objects: Mapping[str, bytes]) -> dict[str, StoreError]:
        return self.refuse_puts(objects)

    def refuse_puts(self, names: Iterable[str]) -> dict[str, StoreError]:
        why = "was left as it is: the root is only read"
        return {name: StoreError(f"{self.location(name)} {why}", name=name, kind="read-only") for name in names}

    def exists_many(self, names: Sequence[str]) -> list[bool]:
        return self._store.exists_many(names)

    def delete(self, names: Iterable[str]) -> dict[str, StoreError]:
        return self.refuse_puts(names)

    def scan(self, prefix: str = "") -> Iterator[StoredObject]:
        return self._store.scan(prefix)

    def location(self, name: str = "") -> Path | str:
        return self._store.location(name)

    def bare(self) -> ReadOnlyStore:
        return ReadOnlyStore(self._store.bare())

    def child(self, prefix: str) -> ReadOnlyStore:
        return ReadOnlyStore(self._store.child(prefix))
