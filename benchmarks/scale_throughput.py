"""How many clips a second a number of workers get through: what each clip takes, and the first thing to run out.

A worker takes its batches one after the other. Within a fill it decodes, extracts and stores at once, so that the
slowest of the three is what a clip takes; the other steps come before. Workers do not wait for each other: `n` of them
are `n` times as fast, until the cores or the store's requests are used up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

BATCH = 32
REQUESTS_AT_ONCE = 16  # of a batch, by obstore
WRITERS = 4  # threads that encode and put
DECODERS = 2  # clips that are decoded beside the extraction of one

BATCH_REQUESTS = ("miss", "get")  # steps that ask for all entries of a batch
PUTS = ("put features", "put waveform")


@dataclass(frozen=True)
class Cost:
    """What a step takes, for a clip (of a listing: for a thousand names).

    Attributes
    ----------
    seconds
        In one worker, while there is nothing else.
    cpu
        Seconds of processor time in the worker.
    server_cpu
        Seconds of processor time in the store's process.
    """

    seconds: float
    cpu: float
    server_cpu: float = 0.0


@dataclass(frozen=True)
class Work:
    """What a clip takes in all; see `Cost`, and how many requests it is."""

    seconds: float
    cpu: float
    server_cpu: float
    reads: int
    writes: int


@dataclass(frozen=True)
class Site:
    """What workers share.

    Attributes
    ----------
    cores
        That they run on.
    has_server
        Whether the store runs on these cores too.
    reads_per_second, writes_per_second
        What the store serves.
    """

    cores: int
    has_server: bool = False
    reads_per_second: float = math.inf
    writes_per_second: float = math.inf


def filling(costs: Mapping[str, Cost]) -> Work:
    """Return what a clip takes that is in neither cache."""
    storing = sum(costs[f"encode {what}"].seconds + costs[f"put {what}"].seconds for what in ("features", "waveform"))
    slowest = max(costs["decode"].seconds / DECODERS, costs["extract"].seconds, storing / WRITERS)
    before = costs["identity"].seconds + costs["hash"].seconds + 2 * costs["miss"].seconds
    seconds = before + slowest + storing / BATCH  # the last clip of a batch is stored with nothing beside it
    steps = ("identity", "hash", "miss", "miss", "decode", "extract", *PUTS, "encode features", "encode waveform")
    return _work(seconds, costs, steps, reads=2, writes=2)


def reading(costs: Mapping[str, Cost]) -> Work:
    """Return what a clip takes whose features are in the store."""
    steps = ("identity", "hash", "get", "open")
    return _work(sum(costs[step].seconds for step in steps), costs, steps, reads=1, writes=0)


def _work(seconds: float, costs: Mapping[str, Cost], steps: tuple[str, ...], *, reads: int, writes: int) -> Work:
    cpu = sum(costs[step].cpu for step in steps)
    return Work(seconds, cpu, sum(costs[step].server_cpu for step in steps), reads, writes)


def farther(costs: Mapping[str, Cost], round_trip: float) -> dict[str, Cost]:
    """Return the costs where each request takes `round_trip` seconds longer, and the processor nothing more."""
    trips = dict.fromkeys(PUTS, 1.0) | dict.fromkeys(BATCH_REQUESTS, math.ceil(BATCH / REQUESTS_AT_ONCE) / BATCH)
    return {
        step: replace(cost, seconds=cost.seconds + trips.get(step, 0.0) * round_trip) for step, cost in costs.items()
    }


def bounds(work: Work, workers: int, site: Site) -> dict[str, float]:
    """Return how many clips a second each of the things that may run out allows."""
    cpu = work.cpu + (work.server_cpu if site.has_server else 0.0)
    return {
        "the workers": workers / work.seconds,
        "the cores": site.cores / cpu,
        "reads of the store": site.reads_per_second / work.reads if work.reads else math.inf,
        "writes of the store": site.writes_per_second / work.writes if work.writes else math.inf,
    }


def predict(work: Work, workers: int, site: Site) -> tuple[float, str]:
    """Return how many clips a second it will be, and what allows no more."""
    found = bounds(work, workers, site)
    least = min(found, key=lambda what: found[what])
    return found[least], least
