"""A store that is never written to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ..errors import StoreError
from .wrapper import WrappingStore


class ReadOnlyStore(WrappingStore):
    """Another store, for reading; puts and deletions are refused by a `StoreError` of the kind "read-only"."""

    def ends_many(self, names: Sequence[str], n_bytes: int) -> list[bytes | StoreError | None]:
        return self._wrapped.ends_many(names, n_bytes)

    def put_many(self, objects: Mapping[str, bytes]) -> dict[str, StoreError]:
        return self.refuse_puts(objects)

    def refuse_puts(self, names: Iterable[str]) -> dict[str, StoreError]:
        why = "was left as it is: the root is only read"
        return {name: StoreError(f"{self.location(name)} {why}", name=name, kind="read-only") for name in names}

    def tidy(self) -> None:
        pass

    def delete(self, names: Iterable[str]) -> dict[str, StoreError]:
        return self.refuse_puts(names)
