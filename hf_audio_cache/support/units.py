"""Parsing and formatting of sizes, times and shares."""

from __future__ import annotations

import re

_SIZES = {"": 1, "B": 1}
_SIZES |= {f"{prefix}{unit}": 1000**power for power, prefix in enumerate("KMGTP", 1) for unit in ("", "B")}
_SIZES |= {f"{prefix}{unit}": 1024**power for power, prefix in enumerate("KMGTP", 1) for unit in ("I", "IB")}
_TIMES = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400, "y": 365 * 86_400}
_NUMBER = re.compile(r"([0-9]{1,30}(?:\.[0-9]+)?)\s*([A-Za-z]*)", re.ASCII)


def parse_size(text: str) -> int:
    """Return a size such as ``100GB``, ``1.5 GiB`` or ``4096`` in bytes; ValueError if `text` is not in this form."""
    found = _NUMBER.fullmatch(text.strip())
    if found is None or found[2].upper() not in _SIZES:
        raise ValueError(f"{text!r} is not a size. Pass one such as 100GB, 1.5GiB or 4096.")
    return int(float(found[1]) * _SIZES[found[2].upper()])


def parse_seconds(text: str) -> float:
    """Return a time such as ``30d``, ``12h`` or ``90s`` in seconds; ValueError if `text` is not in this form."""
    found = _NUMBER.fullmatch(text.strip())
    if found is None or found[2].lower() not in _TIMES:
        raise ValueError(f"{text!r} is not a time. Pass one such as 30d, 12h, 90s or 2w.")
    return float(found[1]) * _TIMES[found[2].lower()]


def parse_share(text: str) -> float:
    """Return a share such as ``10%`` as a number between 0 and 1; ValueError if `text` is not in this form."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*%", text.strip(), re.ASCII)
    if found is None or float(found[1]) > 100:
        raise ValueError(f"{text!r} is not a share. Pass one such as 10%.")
    return float(found[1]) / 100


def format_size(n_bytes: float) -> str:
    """Return a size in bytes as a person reads it, such as ``1.2 GB``."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(n_bytes) < 999.5:
            return f"{n_bytes:.0f} {unit}" if unit == "B" or abs(n_bytes) >= 99.95 else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:,.1f} PB"


def format_seconds(seconds: float) -> str:
    """Return a time in seconds as a person reads it, such as ``3.5 min``."""
    for limit, factor, unit in ((0.9995, 1000, "ms"), (99.5, 1, "s"), (5970, 1 / 60, "min"), (172_800, 1 / 3600, "h")):
        if abs(seconds) < limit:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds / 86_400:,.1f} d"
