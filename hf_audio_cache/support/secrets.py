"""Secrets that stay in the processes they were given to: they are not pickled, shown or hashed."""

from __future__ import annotations

import hmac
import json
import multiprocessing
import sys
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

T = TypeVar("T")

# Secrets by token. They outlive the objects that hold them: a pickle that was made before a fork must find its secret
# in the child.
_KNOWN: dict[str, Any] = {}


class Secret(Generic[T]):
    """A secret; its pickle holds a token instead.

    In this process and in those forked from it the token finds the secret again. A spawned process gets the secret
    itself, through the pipe that starts it, as `multiprocessing` does with its own keys. Other processes, and files,
    get only the token. The token is a keyed hash of the bytes in `material`, so that equal secrets have equal pickles.
    """

    def __init__(self, value: T, material: bytes) -> None:
        self.token = hmac.digest(material, b"hf_audio_cache: token of a secret", "sha256").hex()
        # In a function, so that no dump of the attributes shows it. Each object keeps its own: two values with the same
        # material, such as file systems with the same options, may differ.
        self._own: Callable[[], T | None] = lambda: value
        _KNOWN[self.token] = value

    @property
    def value(self) -> T | None:
        """The secret; None in a process that does not have it."""
        own = self._own()
        return _KNOWN.get(self.token) if own is None else own

    def __repr__(self) -> str:
        return f"Secret({self.token[:8]})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other.token == self.token

    def __hash__(self) -> int:
        return hash(self.token)

    def __reduce__(self) -> tuple[Any, tuple[str, T | None]]:
        return _unpickle, (self.token, self.value if _is_spawning() else None)


def check_options(name: str, options: object) -> None:
    """Raise ValueError if storage options are no dict; they are not shown."""
    if options is not None and not isinstance(options, Mapping):
        raise ValueError(f"{name} must be a dict, not a {type(options).__name__}; nothing was opened.")


def secret_options(options: Mapping[str, Any] | None) -> Secret[Mapping[str, Any]] | None:
    """Return storage options as a secret; None if there are none."""
    check_options("audio_storage_options", options)
    if not options:
        return None
    return Secret(dict(options), json.dumps(options, sort_keys=True, default=repr).encode())


def learn_secret(token: str, value: Any) -> None:
    """Make a secret known in this process, which was sent it on purpose."""
    _KNOWN[token] = value


def _unpickle(token: str, value: Any) -> Secret[Any]:
    secret: Secret[Any] = Secret.__new__(Secret)
    secret.token, secret._own = token, lambda: None
    if value is not None:
        learn_secret(token, value)
    return secret


def _is_spawning() -> bool:
    """Return whether the pickle is sent to a process that is being spawned."""
    # `datasets` starts its workers with multiprocess, a fork of the standard library's module.
    contexts = [multiprocessing.context, getattr(sys.modules.get("multiprocess"), "context", None)]
    return any(context is not None and context.get_spawning_popen() is not None for context in contexts)
