"""The near tier: a local directory in front of a remote store."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

from ..errors import StoreError
from .base import Range, Store, StoredObject
from .eviction import NearTier
from .local import LocalStore
from .packs.names import is_pack_file
from .read_only import ReadOnlyStore
from .wrapper import WrappingStore


class TieredStore(WrappingStore):
    """A remote store, with a near tier: a directory of what was read from the store or written to it.

    Reads look in the near tier first, ask the remote store for all that is missing at once, and keep what it had. The
    remote store is what counts: a failure of the near tier is warned of once, and otherwise changes nothing. A listing
    has what either holds.

    `write` says where puts and deletions go. ``"both"``: a put fails if the remote store fails, though the near tier
    may have it. ``"near"``: the remote store is only read. ``"none"``: a put is refused by a `StoreError` of the kind
    "read-only"; what is read is still kept in the near tier, and a deletion removes it only there. `near_max_bytes` is
    what `NearTier` keeps to.
    """

    is_local = False

    def __init__(
        self,
        near: LocalStore,
        remote: Store,
        *,
        write: Literal["both", "near", "none"] = "both",
        near_max_bytes: int | None = None,
    ) -> None:
        super().__init__(remote)
        self._near = near
        self._write = write
        self._tier = NearTier(near, near_max_bytes)
        self._inside = ""

    def get_many(self, names: Sequence[str]) -> list[bytes | StoreError | None]:
        distinct = list(dict.fromkeys(names))
        found = dict(zip(distinct, self._near.get_many(distinct), strict=True))
        for name, answer in found.items():
            if isinstance(answer, bytes):
                self._tier.use(self._inside + name)
            elif answer is not None:
                self._tier.report(answer)
        missing = [name for name, answer in found.items() if not isinstance(answer, bytes)]
        if missing:
            found.update(zip(missing, self._read_remote(missing), strict=True))
        return [found[name] for name in names]

    def get_ranges(self, ranges: Sequence[Range]) -> list[bytes | StoreError | None]:
        return Store.get_ranges(self, ranges)  # of whole objects, which are kept

    def _read_remote(self, names: Sequence[str]) -> list[bytes | StoreError | None]:
        answers = self._wrapped.get_many(names)
        self._keep({name: answer for name, answer in zip(names, answers, strict=True) if isinstance(answer, bytes)})
        return answers

    def _keep(self, objects: Mapping[str, bytes]) -> dict[str, StoreError]:
        """Put objects into the near tier; return those that are not there."""
        admitted = {
            name: content
            for name, content in objects.items()
            if self._tier.admits(len(content)) or self._near.exists(name)  # which only replaces it
        }
        failed = self._near.put_many(admitted)
        for name in admitted:
            if name in failed:
                self._tier.report(failed[name])
            else:
                self._tier.use(self._inside + name)
        full = "the near tier is full of what this run uses, and near_max_bytes allows no more"
        for name in objects.keys() - admitted.keys():
            message = f"could not write {self._near.location(name)}: {full}"
            failed[name] = StoreError(message, name=name, errno=errno.ENOSPC)
        return failed

    def put_many(self, objects: Mapping[str, bytes]) -> dict[str, StoreError]:
        if self._write == "none":
            return self.refuse_puts(objects)
        if self._write == "near":
            return self._keep(objects)
        # The remote store first: what a killed process had put into the near tier alone would never get there.
        failed = self._wrapped.put_many(objects)
        lost = self._keep(objects)
        for error in self._near.delete(lost).values():  # an older object of that name would stand for the new one
            self._tier.report(error)
        return failed

    def put_copies(self, objects: Mapping[str, bytes]) -> dict[str, StoreError]:
        return self._wrapped.put_many(objects) if self._write == "both" else self.put_many(objects)

    def refuse_puts(self, names: Iterable[str]) -> dict[str, StoreError]:
        if self._write != "none":  # the near tier takes what the remote store does not
            return {}
        said = "was not written: this root is only read"
        return {name: StoreError(f"{self.location(name)} {said}", name=name, kind="read-only") for name in names}

    def get_again(self, names: Sequence[str]) -> list[bytes | StoreError | None]:
        """Delete the local copies of objects whose content turned out to be bad; return the remote store's.

        If that is bad too, `delete` is right.
        """
        for error in self._near.delete(names).values():
            self._tier.report(error)
        return self._read_remote(names)

    def exists_many(self, names: Sequence[str]) -> list[bool]:
        distinct = list(dict.fromkeys(names))
        known: dict[str, bool] = {}
        if self._write == "near":  # where new objects go there, the near tier is as good as the root
            known.update(zip(distinct, self._near.exists_many(distinct), strict=True))
        asked = [name for name in distinct if not known.get(name)]
        if asked:
            known.update(zip(asked, self._wrapped.exists_many(asked), strict=True))
        return [known[name] for name in names]

    @property
    def copies(self) -> Store | None:
        return None if self._write == "near" else self._near

    def delete(self, names: Iterable[str]) -> dict[str, StoreError]:
        names = list(names)
        failed = self._near.delete(names)
        return failed | self._wrapped.delete(names) if self._write == "both" else failed

    def scan(self, prefix: str = "") -> Iterator[StoredObject]:
        seen: set[int] = set()
        for found in self._wrapped.scan(prefix):
            seen.add(hash(found.name))
            yield found
        for found in self._near.scan(prefix):
            if hash(found.name) not in seen and not is_pack_file(self._inside + found.name):  # copies of indexes
                yield found

    def bare(self) -> Store:
        return self._wrapped.bare() if self._write == "both" else ReadOnlyStore(self._wrapped.bare())

    def child(self, prefix: str) -> TieredStore:
        child = super().child(prefix)
        child._near = self._near.child(prefix)
        child._inside = f"{self._inside}{prefix}/"
        return child
