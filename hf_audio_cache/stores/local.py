"""A store in a directory of a local or network file system, without locks."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from ..errors import StoreError
from .base import Store, check_name

__all__ = ["LocalStore", "is_temporary"]

_TEMPORARY_SUFFIX = ".tmp"


def is_temporary(name: str) -> bool:
    """Return whether `name` is that of a file that a writer had not finished."""
    file_name = name.rpartition("/")[2]
    return file_name.startswith(".") and file_name.endswith(_TEMPORARY_SUFFIX)


class LocalStore(Store):
    """Objects as files under `root`.

    An object is written to a temporary file beside its final place and published by ``os.replace``, which is atomic
    on POSIX file systems, NFS and Lustre included. Modes are those of the umask (``mkstemp`` would give 0600, which
    colleagues who share the root could not read).
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self._root = os.path.abspath(root)

    def get_many(self, names: Sequence[str]) -> list[bytes | StoreError | None]:
        return [self._read(name) for name in names]

    def _read(self, name: str) -> bytes | StoreError | None:
        try:
            with open(self._path(name), "rb", buffering=0) as file:
                return file.read()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as exc:
            return self._error("read", name, exc)

    def put_many(self, objects: Mapping[str, bytes]) -> dict[str, StoreError]:
        failed = {}
        paths = {name: self._path(name) for name in objects}  # a bad name stops all of them before the first is written
        for name, content in objects.items():
            try:
                self._write(paths[name], content)
            except OSError as exc:
                failed[name] = self._error("write", name, exc)
        return failed

    @staticmethod
    def _write(path: str, content: bytes) -> None:
        folder, _, file_name = path.rpartition(os.sep)
        temporary = os.path.join(folder, f".{file_name}.{os.getpid()}-{secrets.token_hex(4)}{_TEMPORARY_SUFFIX}")
        if not os.path.isdir(folder):
            os.makedirs(folder, exist_ok=True)
        try:
            with open(temporary, "xb", buffering=0) as file:
                remaining = memoryview(content)
                while remaining:  # one write may take less than all of it: Linux stops at 2 GiB
                    remaining = remaining[file.write(remaining) :]
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise

    def exists_many(self, names: Sequence[str]) -> list[bool]:
        return [os.path.isfile(self._path(name)) for name in names]

    def delete(self, names: Iterable[str]) -> dict[str, StoreError]:
        failed = {}
        for name in names:
            try:
                os.unlink(self._path(name))
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as exc:
                failed[name] = self._error("delete", name, exc)
        return failed

    def names(self, prefix: str = "") -> Iterator[str]:
        """Yield the name of each file, symbolic links left out: what they point to is not in the root."""
        yield from self._walk(self._root, "", prefix)

    def _walk(self, folder: str, relative: str, prefix: str) -> Iterator[str]:
        try:
            with os.scandir(folder) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as exc:
            raise self._error("list", relative, exc) from exc
        for entry in found:
            name = relative + entry.name
            if entry.is_dir(follow_symlinks=False):
                if prefix.startswith(f"{name}/") or f"{name}/".startswith(prefix):
                    yield from self._walk(entry.path, f"{name}/", prefix)
            elif entry.is_file(follow_symlinks=False) and name.startswith(prefix):
                yield name

    def location(self, name: str = "") -> Path:
        return Path(self._path(name) if name else self._root)

    def child(self, prefix: str) -> LocalStore:
        return LocalStore(self._path(prefix))

    def _path(self, name: str) -> str:
        return f"{self._root}{os.sep}{check_name(name)}"

    def _error(self, action: str, name: str, exc: OSError) -> StoreError:
        where = f"{self._root}{os.sep}{name}"
        error = StoreError(f"could not {action} {where}: {exc.strerror or exc}", name=name, errno=exc.errno)
        error.__cause__ = exc
        return error
