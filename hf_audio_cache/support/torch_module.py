"""torch, where the process has imported it: this package never imports it by itself."""

from __future__ import annotations

import sys
from typing import Any


def loaded_torch() -> Any | None:
    """Return the module torch; None if it is not imported, or another thread is importing it just now."""
    torch = sys.modules.get("torch")
    is_loading = getattr(getattr(torch, "__spec__", None), "_initializing", False)  # as importlib itself asks
    return None if is_loading else torch
