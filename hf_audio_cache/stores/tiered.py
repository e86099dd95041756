"""A local directory before a far store."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NoReturn

from ..errors import StoreError
from .base import Store, StoredObject
from .eviction import NearTier
from .local import LocalStore
from .read_only import ReadOnlyStore

__all__ = ["TieredStore"]


class TieredStore(Store):
    """A far store, and a local directory of what was read from it or written to it.

    Reads look near first, ask the far store for all that is missing at once, and keep what it had. The far store is
    what counts: a failure of the near tier is warned of once and otherwise as if there were none. A listing has what
    either holds.

    Parameters
    ----------
    near
        The local directory. Of its files only entries are ever deleted to make room; nothing is looked at now.
    far
        The store behind it.
    write
        Where puts and deletions go. ``"both"``: a put has failed if the far store failed, though the near tier may have
        it. ``"near"``: the far store is only read. ``"none"``: a put is refused, with a `StoreError` of the kind
        "read-only" for each name; what is read from far is still kept near, and a deletion removes that only.
    near_max_bytes
        How many bytes the entries in the near tier may take, about; processes that share it find each other's files
        a little late. Those that were not used for longest make room; those that this run has read or written never
        do: when nothing else is left, nothing more is kept.
    """

    def __init__(
        self,
        near: LocalStore,
        far: Store,
        *,
        write: Literal["both", "near", "none"] = "both",
        near_max_bytes: int | None = None,
    ) -> None:
        if write not in ("both", "near", "none"):
            raise ValueError(f'write must be "both", "near" or "none", not {write!r}; no store was opened.')
        if near_max_bytes is not None and near_max_bytes <= 0:
            raise ValueError(f"near_max_bytes must be positive or None, not {near_max_bytes}; no store was opened.")
        self._near = near
        self._far = far
        self._write = write
        self._tier = NearTier(near, near_max_bytes)
        self._inside = ""

    def __reduce__(self) -> NoReturn:
        raise TypeError("a TieredStore is not pickled, since it may hold credentials: open its root again instead")

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
            found.update(zip(missing, self._read_far(missing), strict=True))
        return [found[name] for name in names]

    def _read_far(self, names: Sequence[str]) -> list[bytes | StoreError | None]:
        answers = self._far.get_many(names)
        self._keep({name: answer for name, answer in zip(names, answers, strict=True) if isinstance(answer, bytes)})
        return answers

    def _keep(self, objects: Mapping[str, bytes]) -> dict[str, StoreError]:
        """Put objects near; return those that are not there."""
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
        full = "the near tier is full of what this run uses, and its limit allows no more"
        for name in objects.keys() - admitted.keys():
            message = f"could not write {self._near.location(name)}: {full}"
            failed[name] = StoreError(message, name=name, errno=errno.ENOSPC)
        return failed

    def put_many(self, objects: Mapping[str, bytes]) -> dict[str, StoreError]:
        if self._write == "none":
            return self.refuse_puts(objects)
        if self._write == "near":
            return self._keep(objects)
        # Far first: were it the other way round, what a killed process had put near would never get there.
        failed = self._far.put_many(objects)
        lost = self._keep(objects)
        for error in self._near.delete(lost).values():  # an older object of that name would stand for the new one
            self._tier.report(error)
        return failed

    def refuse_puts(self, names: Iterable[str]) -> dict[str, StoreError]:
        if self._write != "none":  # the near tier takes what the far store does not
            return {}
        said = "was not written: this root is only read"
        return {name: StoreError(f"{self.location(name)} {said}", name=name, kind="read-only") for name in names}

    def get_again(self, names: Sequence[str]) -> list[bytes | StoreError | None]:
        """Drop the near copies of objects whose content turned out to be bad; return what the far store has of them.

        A bad object is then bad in the far store too, and `delete` is right, or there is a good one.
        """
        for error in self._near.delete(names).values():
            self._tier.report(error)
        return self._read_far(names)

    def exists_many(self, names: Sequence[str]) -> list[bool]:
        distinct = list(dict.fromkeys(names))
        known = dict(zip(distinct, self._near.exists_many(distinct), strict=True))
        missing = [name for name, is_there in known.items() if not is_there]
        if missing:
            known.update(zip(missing, self._far.exists_many(missing), strict=True))
        return [known[name] for name in names]

    def delete(self, names: Iterable[str]) -> dict[str, StoreError]:
        names = list(names)
        failed = self._near.delete(names)
        return failed | self._far.delete(names) if self._write == "both" else failed

    def scan(self, prefix: str = "") -> Iterator[StoredObject]:
        seen: set[int] = set()
        for found in self._far.scan(prefix):
            seen.add(hash(found.name))
            yield found
        yield from (found for found in self._near.scan(prefix) if hash(found.name) not in seen)

    def location(self, name: str = "") -> Path | str:
        return self._far.location(name)

    def bare(self) -> Store:
        return self._far.bare() if self._write == "both" else ReadOnlyStore(self._far.bare())

    def child(self, prefix: str) -> TieredStore:
        child = TieredStore(self._near.child(prefix), self._far.child(prefix), write=self._write)
        child._tier = self._tier
        child._inside = f"{self._inside}{prefix}/"
        return child
