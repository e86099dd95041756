"""What every store promises."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ..errors import InvalidNameError, StoreError

__all__ = ["Store", "StoredObject", "check_name"]

_NAME = re.compile(r"[A-Za-z0-9_.\-]+(/[A-Za-z0-9_.\-]+)*")


def check_name(name: str) -> str:
    """Return `name` if it is a relative path of plain segments that cannot leave a root.

    Raises
    ------
    InvalidNameError
        If it is anything else.
    """
    if _NAME.fullmatch(name) and not any(segment in (".", "..") for segment in name.split("/")):
        return name
    raise InvalidNameError(
        f"a stored object's name must be a relative path of letters, digits, '.', '_' and '-', not {name!r}; "
        "nothing was read or written.",
        name=name,
    )


@dataclass(frozen=True)
class StoredObject:
    """One line of a listing.

    Attributes
    ----------
    name
        Its name under the root.
    n_bytes
        Its size.
    modified
        When it was last put, in seconds since 1970.
    """

    name: str
    n_bytes: int
    modified: float


class Store(ABC):
    """Bytes by name, under one root.

    What is guaranteed, whoever else reads and writes the same root:

    - a reader gets a whole object as some writer put it, or none; never a part, never a mixture;
    - a put of a name that exists replaces it or leaves it, and does no harm;
    - names are checked: none can stand for something outside the root;
    - making a store creates nothing; the first put does.

    What is not: that a put survives a power cut (entries carry their own checksum), that a listing shows what was
    written a moment ago, or any order between writers.

    Failures come back as values, one for each name, since a batch must not be lost for one of its objects.

    Attributes
    ----------
    is_local
        Whether a call costs no round trip.
    """

    is_local: ClassVar[bool] = False

    @abstractmethod
    def get_many(self, names: Sequence[str]) -> list[bytes | StoreError | None]:
        """Return, for each name, the object's bytes, None where there is none, or why it could not be read."""

    @abstractmethod
    def put_many(self, objects: Mapping[str, bytes]) -> dict[str, StoreError]:
        """Store each object whole under its name; return those that could not be, and why."""

    def refuse_puts(self, names: Iterable[str]) -> dict[str, StoreError]:
        """Return what `put_many` would answer for these names now, whatever the content; nothing where it would try.

        For callers whose objects take time to make.
        """
        return {}

    def get_again(self, names: Sequence[str]) -> list[bytes | StoreError | None]:
        """Return objects whose content turned out to be bad, read in another way; None where there is no other.

        A store behind a network reads them once more. One that keeps copies drops these, and reads the objects
        themselves.
        """
        return [None for _ in names]

    @abstractmethod
    def exists_many(self, names: Sequence[str]) -> list[bool]:
        """Return, for each name, whether an object is there; False where that cannot be told."""

    @abstractmethod
    def delete(self, names: Iterable[str]) -> dict[str, StoreError]:
        """Delete these objects, present or not; return those that could not be, and why."""

    @abstractmethod
    def scan(self, prefix: str = "") -> Iterator[StoredObject]:
        """Yield each object whose name starts with `prefix`.

        Raises
        ------
        StoreError
            If the root cannot be listed. A root that is not there is an empty one.
        """

    @abstractmethod
    def location(self, name: str = "") -> Path | str:
        """Return where `name` is, or the root: a path on a local disk, else the full URL."""

    @abstractmethod
    def child(self, prefix: str) -> Store:
        """Return the store of the objects under ``prefix/``."""

    def bare(self) -> Store:
        """Return this store without copies nearer by, retries and rests: for what may as well be lost."""
        return self

    def names(self, prefix: str = "") -> Iterator[str]:
        """Yield the name of each object whose name starts with `prefix`, as `scan` does."""
        return (found.name for found in self.scan(prefix))

    def get(self, name: str) -> bytes | None:
        """Return the bytes of the object `name`, or None.

        Raises
        ------
        StoreError
            If it could not be read.
        """
        [found] = self.get_many([name])
        if isinstance(found, StoreError):
            raise found
        return found

    def put(self, name: str, content: bytes) -> None:
        """Store an object.

        Raises
        ------
        StoreError
            If it could not be stored.
        """
        for error in self.put_many({name: content}).values():
            raise error

    def exists(self, name: str) -> bool:
        """Return whether there is an object of this name."""
        return self.exists_many([name])[0]
