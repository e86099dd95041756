"""The interface of a store, and what every store guarantees."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NoReturn, TypeAlias

from ..errors import InvalidNameError, StoreError

Range: TypeAlias = "tuple[str, int, int]"  # name, start, number of bytes

_SEGMENT = r"(?!\.\.?(?:/|\Z))[A-Za-z0-9_.\-]+"  # neither "." nor ".."
_NAME = re.compile(rf"{_SEGMENT}(?:/{_SEGMENT})*")


def check_name(name: str) -> str:
    """Return `name` if it is a relative path that cannot leave a root; InvalidNameError if it is not."""
    if _NAME.fullmatch(name):
        return name
    raise InvalidNameError(
        f"a stored object's name must be a relative path of letters, digits, '.', '_' and '-', not {name!r}; "
        "nothing was read or written.",
        name=name,
    )


@dataclass(frozen=True)
class StoredObject:
    """An object in a listing."""

    name: str  # under the root
    n_bytes: int
    modified: float  # time of the last put, in seconds since 1970


class Store(ABC):
    """Bytes by name, under one root.

    Guaranteed, whoever else reads and writes the same root:

    - A reader gets a whole object as some writer put it, or none: never a part, never a mixture.
    - A put of a name that exists replaces the object or leaves it.
    - Names are checked: none can stand for something outside the root.
    - Making a store creates nothing; the first put does.

    Not guaranteed: that a put survives a power cut (entries carry a checksum), that a listing shows what was written a
    moment ago, or any order between writers.

    Failures are returned, one for each name, and not raised: one bad object must not lose a whole batch.
    """

    is_local: ClassVar[bool] = False  # whether calls need no network

    @abstractmethod
    def get_many(self, names: Sequence[str]) -> list[bytes | StoreError | None]:
        """Return, for each name, the object's bytes; None if there is no such object; an error if it cannot be read."""

    def ends_many(self, names: Sequence[str], n_bytes: int) -> list[bytes | StoreError | None]:
        """Return, for each name, the last bytes of what `get_many` returns."""
        found = self.get_many(names)
        return [content[-n_bytes:] if isinstance(content, bytes) else content for content in found]

    def get_ranges(self, ranges: Sequence[Range]) -> list[bytes | StoreError | None]:
        """Return, for each name, start and length, those bytes of an object as `get_many` does; fewer at its end.

        It is for objects that are never replaced: a store may keep them open.
        """
        found = dict(zip(names := {name for name, _, _ in ranges}, self.get_many(list(names)), strict=True))
        return [
            content[start : start + n_bytes] if isinstance(content := found[name], bytes) else content
            for name, start, n_bytes in ranges
        ]

    @abstractmethod
    def put_many(self, objects: Mapping[str, bytes]) -> dict[str, StoreError]:
        """Store each object under its name; return an error for each that could not be stored."""

    def put_copies(self, objects: Mapping[str, bytes]) -> dict[str, StoreError]:
        """Do as `put_many` for objects that the near tier has already, which stay there as they are."""
        return self.put_many(objects)

    def refuse_puts(self, names: Iterable[str]) -> dict[str, StoreError]:
        """Return the errors that `put_many` would return for these names without trying.

        A caller asks before it spends time on making the objects.
        """
        return {}

    def get_again(self, names: Sequence[str]) -> list[bytes | StoreError | None]:
        """Read objects whose content turned out to be bad once more; None for each if that can make no difference.

        A remote store asks again. One that keeps copies deletes these, and reads the objects themselves.
        """
        return [None for _ in names]

    @abstractmethod
    def exists_many(self, names: Sequence[str]) -> list[bool]:
        """Return, for each name, whether the root has such an object; False if it cannot be asked.

        The root itself is asked: a copy in a near tier tells nothing to other machines. Raises StoreError if nothing
        was answered, by a remote store that nothing is around.
        """

    def renew(self) -> bool:
        """Have the next request made by a new client, with the credentials that there are then.

        Returns False if that can make no difference: there is no client, or it was made by the user.
        """
        return False

    @abstractmethod
    def delete(self, names: Iterable[str]) -> dict[str, StoreError]:
        """Delete these objects, whether they exist or not; return an error for each that could not be deleted."""

    def delete_unchanged(self, objects: Iterable[StoredObject]) -> dict[str, StoreError]:
        """Do as `delete`, and leave what was replaced since it was listed, where a store can tell."""
        return self.delete(one.name for one in objects)

    def sync(self, names: Iterable[str]) -> None:  # noqa: B027 - not all have to do anything
        """Wait until a power cut can no longer take these objects; what an object store has taken is there.

        Raises StoreError if one is not there, or cannot be written to the disk.
        """

    def tidy(self) -> None:  # noqa: B027
        """Give back the room of deleted objects that lay in packs; StoreError if the root cannot be read or written."""

    @abstractmethod
    def scan(self, prefix: str = "") -> Iterator[StoredObject]:
        """Yield each object whose name starts with `prefix`.

        A root that does not exist is empty. Raises StoreError if the root cannot be listed.
        """

    def listing(self, prefix: str) -> list[StoredObject]:
        """Return what `scan` yields for a folder of few objects, as ``folder/``; with retries where a get has them."""
        return list(self.scan(prefix))

    @abstractmethod
    def location(self, name: str = "") -> Path | str:
        """Return the path or the URL of an object, or of the root."""

    @abstractmethod
    def child(self, prefix: str) -> Store:
        """Return the store of the objects under ``prefix/``."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.location())!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"a store is not pickled: {self!r} may hold credentials; open its root again.")

    @property
    def copies(self) -> Store | None:
        """The near tier, whose copies do not count as being in the root; None without one."""
        return None

    def bare(self) -> Store:
        """Return the underlying store, without near tier, retries or circuit breaker. For best-effort writes."""
        return self

    def names(self, prefix: str = "") -> Iterator[str]:
        """Yield the name of each object whose name starts with `prefix`, as `scan` does."""
        return (found.name for found in self.scan(prefix))

    def get(self, name: str) -> bytes | None:
        """Return an object's bytes; None if there is no such object; StoreError if it cannot be read."""
        [found] = self.get_many([name])
        if isinstance(found, StoreError):
            raise found
        return found

    def put(self, name: str, content: bytes) -> None:
        """Store an object; StoreError if it cannot be stored."""
        for error in self.put_many({name: content}).values():
            raise error

    def exists(self, name: str) -> bool:
        """Return whether there is an object of this name."""
        return self.exists_many([name])[0]
