"""Decide whether several clips are extracted at once: measured on the first clips of a process, for each processor."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from ..errors import AudioError
from ..processors.determinism import GeneratorWatch, difference
from ..support.library_threads import leaving_a_core, one_thread_each
from ..support.process_local import ProcessLocal
from ..support.threads import share_out

__all__ = ["ROUNDS", "is_faster_at_once", "refuse", "try_out"]

logger = logging.getLogger(__name__)

Outputs = dict[str, Any]
_Timed: TypeAlias = tuple[Outputs | AudioError, float]  # with its seconds

ROUNDS = 2  # the first one is a warm-up: each thread makes some things for itself

# By the processor's identity. Pipelines share it: it is a matter of the machine, too.
_decided: ProcessLocal[dict[str, bool]] = ProcessLocal()


def is_faster_at_once(processor_sha: str) -> bool | None:
    """Return whether several clips are extracted at once; None before it was tried."""
    return _decided.get(dict).get(processor_sha)


def refuse(processor_sha: str, name: str, reason: str) -> None:
    """Extract one clip at a time from here on."""
    _decided.get(dict)[processor_sha] = False
    logger.info("%s extracts one clip at a time in this process: %s", name, reason)


def try_out(
    processor_sha: str,
    name: str,
    n_threads: int,
    *,
    beside: Callable[[int], Outputs],
    alone: Callable[[int, bool], Outputs],
) -> list[_Timed]:
    """Extract ``2 * n_threads`` clips at once, then one at a time, and decide; return what the latter gave and took.

    Parameters
    ----------
    processor_sha, name
        The processor's identity and name.
    n_threads
        How many clips are extracted at once.
    beside
        Extracts the clip of this number, in one of several threads.
    alone
        Extracts it alone, once or twice.
    """
    watch = GeneratorWatch()
    found: dict[int, Outputs] = {}

    def extract(number: int) -> None:
        try:
            found[number] = beside(number)
        except Exception as exc:  # noqa: BLE001 - whatever it is: alone, the clip raises it again, or is not bad
            logger.debug("%s failed beside other clips: %s", name, exc)

    took: list[float] = []
    with one_thread_each():
        for start in range(0, ROUNDS * n_threads, n_threads):
            started = time.perf_counter()
            share_out(extract, range(start, start + n_threads), n_threads)
            took.append(time.perf_counter() - started)
    if watch.has_moved():
        watch.put_back()
    results: list[_Timed] = []
    is_safe = True
    for number in range(ROUNDS * n_threads):
        started = time.perf_counter()
        try:
            with leaving_a_core():
                outputs = alone(number, False)
            seconds = time.perf_counter() - started
            if number not in found or difference(found[number], outputs) is not None:
                is_safe = False
                with leaving_a_core():
                    outputs = alone(number, True)  # raises if it is random
        except AudioError as exc:
            results.append((exc, 0.0))
            is_safe = is_safe and number not in found
            continue
        results.append((outputs, seconds))
    if not is_safe:
        refuse(processor_sha, name, "beside other clips it gives other outputs")
        return results
    is_faster = [
        together < sum(seconds for _, seconds in alone)
        for together, alone in zip(took, _rounds(results, n_threads), strict=True)
        if not any(isinstance(result, AudioError) for result, _ in alone)
    ]
    if is_faster:  # else a later batch tells
        _decided.get(dict)[processor_sha] = any(is_faster)
        logger.info("%s is %s at once in this process", name, "faster" if any(is_faster) else "no faster")
    return results


def _rounds(results: list[_Timed], n_threads: int) -> Iterator[list[_Timed]]:
    for start in range(0, len(results), n_threads):
        yield results[start : start + n_threads]
