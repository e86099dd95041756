"""Decide how missing clips are computed, one by one, several at once or overlapping: measured for each processor."""

from __future__ import annotations

import enum
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ..processors.determinism import GeneratorWatch, difference
from ..support.library_threads import leaving_a_core, share_out_on_one_core_each
from ..support.process_local import ProcessLocal
from ..support.threads import share_out

__all__ = ["ROUNDS", "Tried", "Way", "refuse", "try_out", "way_of"]

logger = logging.getLogger(__name__)

Outputs = dict[str, Any]

ROUNDS = 3  # of which the last two are timed


class Way(enum.Enum):
    """How the clips of a batch are computed."""

    IN_TURN = "one at a time"
    AT_ONCE = "several at once"
    OVERLAPPING = "one at a time, while others are decoded and stored"


# By the processor's identity. Pipelines share it: it is a matter of the machine, too.
_decided: ProcessLocal[dict[str, Way]] = ProcessLocal()


def way_of(processor_sha: str) -> Way | None:
    """Return how clips are computed; None before it was tried."""
    return _decided.get(dict).get(processor_sha)


def refuse(processor_sha: str, name: str, reason: str) -> None:
    """Compute one clip at a time from here on."""
    if way_of(processor_sha) is not Way.IN_TURN:
        logger.info("%s extracts one clip at a time in this process: %s", name, reason)
    _decided.get(dict)[processor_sha] = Way.IN_TURN


@dataclass(frozen=True)
class Tried:
    """What a clip gave alone, None if nothing; the seconds of its extraction, and those of the rest of its steps."""

    outputs: Outputs | None = None
    seconds: float = 0.0
    other_seconds: float = 0.0


def try_out(
    processor_sha: str,
    name: str,
    n_threads: int,
    *,
    alone: Callable[[int], Tried],
    beside: Callable[[int], Outputs],
    again: Callable[[int], Outputs | None],
) -> list[Tried]:
    """Take ``ROUNDS * n_threads`` clips alone, extract them in each way, and decide; return what they gave alone.

    Parameters
    ----------
    processor_sha, name
        The processor's identity and name.
    n_threads
        How many clips are extracted at once.
    alone
        Takes the clip of this number through all steps.
    beside
        Extracts it, in one of several threads.
    again
        Extracts it alone twice; returns None if the results differ.
    """
    tried = [alone(number) for number in range(ROUNDS * n_threads)]
    watch = GeneratorWatch()
    found: dict[int, Outputs] = {}

    def extract(number: int) -> None:
        try:
            found[number] = beside(number)
        except Exception as exc:  # noqa: BLE001 - whatever it is: alone, the clip raised it too, or is not bad
            logger.debug("%s failed beside other clips: %s", name, exc)

    kept = {number: one.outputs for number, one in enumerate(tried) if one.outputs is not None}
    first, timed = list(kept)[:n_threads], list(kept)[n_threads:]
    share_out_on_one_core_each(extract, first, n_threads)  # each thread makes some things for itself
    at_once = _seconds(lambda: share_out_on_one_core_each(extract, timed, n_threads))
    together = {number: found.pop(number) for number in timed if number in found}
    with leaving_a_core():
        overlapping = _seconds(lambda: share_out(extract, timed, 1))
    if watch.has_moved():
        watch.put_back()
    doubtful = [
        number
        for number, outputs in kept.items()
        for others in ((together, found) if number in timed else (found,))
        if number not in others or difference(others[number], outputs) is not None
    ]
    for number in dict.fromkeys(doubtful):
        tried[number] = replace(tried[number], outputs=again(number))
    if doubtful:
        refuse(processor_sha, name, "beside other clips it gives other outputs")
    elif timed:  # else a later batch tells
        others = sum(tried[number].other_seconds for number in timed)  # which threads share without loss
        seconds = {
            Way.IN_TURN: sum(tried[number].seconds for number in timed) + others,
            Way.AT_ONCE: at_once + others / n_threads,
            Way.OVERLAPPING: max(overlapping, others),
        }
        way = _decided.get(dict)[processor_sha] = min(seconds, key=seconds.__getitem__)
        logger.info("%s computes %s in this process", name, way.value)
    return tried


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started
