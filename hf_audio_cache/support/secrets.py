"""Secrets that stay in the processes that were given them: they are not pickled, shown or hashed."""

from __future__ import annotations

import hmac
import multiprocessing
import sys
from typing import Any, Generic, TypeVar

__all__ = ["Sealed", "tell"]

T = TypeVar("T")

# By token; what a fork inherits. The one state of the package that outlives its objects: a pickle of a secret that was
# made before a fork has to find it after it.
_KNOWN: dict[str, Any] = {}


class Sealed(Generic[T]):
    """A secret, in the place of which a pickle holds a token.

    The token finds the secret again in this process and in those forked from it. A process that is spawned gets the
    secret itself, through the pipe that starts it (as `multiprocessing` does with its own keys). Any other process, and
    any file, gets the token alone.

    Parameters
    ----------
    value
        The secret.
    material
        Its bytes. The token is made of them by a one-way function, so that equal secrets have equal pickles.
    """

    def __init__(self, value: T, material: bytes) -> None:
        self.token = hmac.digest(material, b"hf_audio_cache: token of a secret", "sha256").hex()
        self._own: T | None = value
        _KNOWN[self.token] = value

    @property
    def value(self) -> T | None:
        """The secret; None in a process that never had it."""
        return _KNOWN.get(self.token) if self._own is None else self._own

    def __repr__(self) -> str:
        return f"Sealed({self.token[:8]})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sealed) and other.token == self.token

    def __hash__(self) -> int:
        return hash(self.token)

    def __reduce__(self) -> tuple[Any, tuple[str, T | None]]:
        return _unseal, (self.token, self.value if _is_spawning() else None)


def tell(token: str, value: Any) -> None:
    """Let this process know a secret that it was sent on purpose."""
    _KNOWN[token] = value


def _unseal(token: str, value: Any) -> Sealed[Any]:
    sealed: Sealed[Any] = Sealed.__new__(Sealed)
    sealed.token, sealed._own = token, None
    if value is not None:
        tell(token, value)
    return sealed


def _is_spawning() -> bool:
    """Return whether what is pickled goes straight to a process that is being started."""
    # `datasets` starts its workers by multiprocess, a copy of the standard library's module.
    contexts = [multiprocessing.context, getattr(sys.modules.get("multiprocess"), "context", None)]
    return any(context is not None and context.get_spawning_popen() is not None for context in contexts)
