"""Second step for a URL, after `location`: its store by obstore's client where it can be used, else by fsspec's."""

from __future__ import annotations

import functools
import importlib.util
import logging
from collections.abc import Mapping
from typing import Any

from ..base import Store
from .fsspec_store import FsspecStore
from .obstore_options import NoEquivalentError, translate
from .obstore_store import ObstoreStore

logger = logging.getLogger(__name__)


def open_remote(
    root: str,
    storage_options: Mapping[str, Any] | None = None,
    filesystem: Any = None,
    timeouts: tuple[float, float] = (2.0, 5.0),
) -> Store:
    """Return the store at a URL, or at a path in `filesystem`; nothing is contacted or created.

    Parameters are those of `FsspecStore`. Raises InvalidRootError if no store can be there, or its driver is not
    installed.
    """
    plain = FsspecStore(root, storage_options, filesystem=filesystem, timeouts=timeouts)
    if filesystem is not None:
        return plain
    try:
        target = translate(root, storage_options)
    except NoEquivalentError as exc:
        _say_once(str(plain.location()), str(exc))
        return plain
    if importlib.util.find_spec("obstore") is None:
        _say_once(str(plain.location()), "obstore would be faster, but is not installed")
        return plain
    if target.kind == "GCSStore" and target.client_options.get("allow_http"):
        _say_once(str(plain.location()), "emulators of GCS do not take obstore's uploads")
        return plain
    return ObstoreStore(plain, functools.partial(translate, root, storage_options))


@functools.cache
def _say_once(location: str, reason: str) -> None:
    logger.info("%s is reached through fsspec: %s", location, reason)
