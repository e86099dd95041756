"""Tell `datasets` how to hash our objects, when it looks for results that it kept."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable
from typing import Any, TypeVar

from ..errors import UnfingerprintableProcessorError
from ..processors.identity import class_sha256

logger = logging.getLogger(__name__)

OwnT = TypeVar("OwnT")


def hash_by(own_class: type[OwnT], state: Callable[[OwnT], Any]) -> bool:
    """Make `datasets`' hasher see ``state(obj)`` in the place of an object; return whether it could be told.

    Without the hook, it hashes the object's pickle, and so what the result does not depend on: the root, the
    processor's bookkeeping. Of a derived class its code counts too. The hook is private to `datasets` (as of 5.2), so
    a release may come without it.
    """
    try:
        from datasets.utils._dill import pklregister
    except ImportError:
        return False

    # Without the path of our own module: a module that moves must not make kept results miss.
    module = own_class.__module__
    is_derived = not module.startswith("hf_audio_cache.")
    name = f"{module if is_derived else 'hf_audio_cache'}.{own_class.__qualname__}"

    def save(pickler: Any, obj: OwnT) -> None:
        code = [_code_of(own_class)] if is_derived else []
        pickler.save_reduce(list, ([name, state(obj), *code],))

    pklregister(own_class)(save)
    return True


def _code_of(own_class: type) -> str:
    """Return a digest of the code of a class; another one each time where it cannot be told."""
    try:
        return class_sha256(own_class)
    except UnfingerprintableProcessorError as exc:
        logger.warning("Results of %s are not found again: %s", own_class.__qualname__, exc)
        return uuid.uuid4().hex
