"""The names of the files in the folder of the packs."""

from __future__ import annotations

import contextlib
import hashlib
import re
import secrets
import struct

PACKS = "packs"
PACK, INDEX, DELETED = "tar", "index", "deleted"
_FILE = re.compile(rf"{PACKS}/(?P<id>[0-9a-f]{{32}})\.(?:{PACK}|{INDEX}|{DELETED})")
_KEY = struct.Struct("<Q8s")


def new_name(kind: str) -> str:
    """Return the name of a new pack, index or list of deleted entries."""
    return f"{PACKS}/{secrets.token_hex(16)}.{kind}"


def pack_name(pack: str) -> str:
    """Return the name of a pack's file."""
    return f"{PACKS}/{pack}.{PACK}"


def id_of(name: str, kind: str) -> str | None:
    """Return the digits in a file name; None for a file of another kind."""
    match = _FILE.fullmatch(name)
    return match["id"] if match and name.endswith(f".{kind}") else None


def is_pack_file(name: str) -> bool:
    """Return whether a name under the root is that of a pack, an index or a list of deleted entries."""
    return _FILE.fullmatch(name) is not None


def entry_key(name: str) -> bytes | None:
    """Return the 16 bytes by which an index knows an entry; None if the name is not that of an entry."""
    digits = name.rpartition("/")[2][:16]
    if len(digits) == 16 and name.endswith(".npz"):
        with contextlib.suppress(ValueError):  # not hexadecimal digits: another file
            return _KEY.pack(int(digits, 16), hashlib.sha256(name.encode()).digest()[:8])
    return None
