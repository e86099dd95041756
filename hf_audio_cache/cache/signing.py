"""HMAC-SHA256 signatures: entries are signed when written and checked when read, so only holders of a key add any."""

from __future__ import annotations

import hmac
import os
import re
import stat
from collections.abc import Sequence
from typing import TypeAlias

from ..errors import SigningKeyError
from ..support.secrets import Secret

SIGNATURE_LENGTH = 64  # hexadecimal digits of an HMAC-SHA256
KEY_VARIABLE = "HF_AUDIO_CACHE_SIGNING_KEY"
FILE_VARIABLE = "HF_AUDIO_CACHE_SIGNING_KEY_FILE"

_MIN_KEY_BYTES = 16

SigningKey: TypeAlias = "str | bytes | os.PathLike[str] | Sequence[str | bytes]"


class SigningKeys:
    """The keys of a signed root: all are accepted for reading, the first one signs."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        if not keys or any(len(key) < _MIN_KEY_BYTES for key in keys):
            raise SigningKeyError(
                f"A signing key has at least {_MIN_KEY_BYTES} bytes; found "
                f"{', '.join(f'one of {len(key)}' for key in keys) or 'none'}. "
                "Make one with secrets.token_hex(32). Nothing was opened."
            )
        self._secret = Secret(tuple(keys), b"\0".join(keys))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SigningKeys) and other._secret == self._secret

    def __hash__(self) -> int:
        return hash(self._secret)

    def _keys(self) -> tuple[bytes, ...]:
        keys = self._secret.value
        if keys is None:  # unpickled where the keys are not known
            found = signing_keys(None)
            if found is None:
                raise SigningKeyError(
                    "This process does not have the signing key of the root: keys are never pickled. "
                    f"Set {KEY_VARIABLE} or {FILE_VARIABLE} where the workers run. Nothing was read or written."
                )
            keys = found._keys()
        return keys

    def sign(self, content: bytes | memoryview) -> bytes:
        """Return the signature of `content`: 64 hexadecimal digits."""
        return _signature(self._keys()[0], content)

    def accept(self, content: bytes | memoryview, signature: bytes | memoryview) -> bool:
        """Return whether one of the keys made `signature` for `content`."""
        given = bytes(signature)
        return any(hmac.compare_digest(_signature(key, content), given) for key in self._keys())


def _signature(key: bytes, content: bytes | memoryview) -> bytes:
    return hmac.digest(key, content, "sha256").hex().encode("ascii")


def signing_keys(signing_key: SigningKey | SigningKeys | None) -> SigningKeys | None:
    """Return the keys that `signing_key` stands for; for None those of the environment, if there are any.

    `signing_key` is a key, several of them, or (as `os.PathLike`) a file with one in a line.
    ``$HF_AUDIO_CACHE_SIGNING_KEY`` has them separated by blanks, ``$HF_AUDIO_CACHE_SIGNING_KEY_FILE`` names such a
    file. Raises SigningKeyError if a key is too short, or others than its owner can read the file.
    """
    if signing_key is None:
        text, path = os.environ.get(KEY_VARIABLE), os.environ.get(FILE_VARIABLE)
        if text and path:
            raise SigningKeyError(f"Both {KEY_VARIABLE} and {FILE_VARIABLE} are set: unset one. Nothing was opened.")
        if text:
            return SigningKeys([key.encode() for key in text.split()])
        return SigningKeys(_read_key_file(path)) if path else None
    if isinstance(signing_key, SigningKeys):
        return signing_key
    if isinstance(signing_key, os.PathLike):
        return SigningKeys(_read_key_file(os.fspath(signing_key)))
    keys = [signing_key] if isinstance(signing_key, (str, bytes)) else signing_key
    if not isinstance(keys, (list, tuple)) or not all(isinstance(key, (str, bytes)) for key in keys):
        raise SigningKeyError(
            f"signing_key is a {type(signing_key).__name__}. Pass text, bytes, a list of them, or the pathlib.Path "
            "of a file with keys. Nothing was opened."
        )
    return SigningKeys([key.encode() if isinstance(key, str) else bytes(key) for key in keys])


def _read_key_file(path: str) -> list[bytes]:
    try:
        with open(os.path.expanduser(path), "rb") as file:
            status = os.fstat(file.fileno())
            content = file.read()
    except OSError as exc:
        raise SigningKeyError(
            f"The file of signing keys {path} could not be read: {exc.strerror}. Nothing was opened.", path=path
        ) from exc
    if status.st_mode & 0o077 or status.st_uid not in (0, os.geteuid()):
        raise SigningKeyError(
            f"Others can read the signing keys in {path}: chmod 600 {path}. Nothing was opened. (It belongs to user "
            f"{status.st_uid}, with mode {stat.S_IMODE(status.st_mode):04o}.)",
            path=path,
        )
    return [line for line in re.split(rb"[\r\n]+", content) if line.strip()]
