"""What follows from costs and limits for a large cache, as rows of tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.scale_stores import (
    GB,
    NAMES_OF_A_RECORD,
    PREFIXES,
    SMALLEST_BILLED,
    Plan,
    Published,
    Requests,
    epoch,
    filling,
    listing,
    load,
    minutes_to_grow,
    months_to_outweigh_put,
)
from benchmarks.scale_throughput import Cost, farther
from benchmarks.scale_throughput import filling as filling_work
from benchmarks.scale_throughput import reading as reading_work

ROUND_TRIPS = (0.003, 0.03, 0.1)  # seconds of a request that its processor time does not explain
FAR = ROUND_TRIPS[-1]
FLEETS = (16, 128, 1024)  # cores
SIZES = (4_000, 50_000, 270_000, 800_000)  # of entries: tiny ones, Whisper's of prompts, of 10 s and of 30 s
FOLDERS_AT_ONCE = 32  # that fsspec lists
PRUNED = 0.1

Rows = list[dict[str, Any]]


def costs_table(costs: Mapping[str, Cost]) -> Rows:
    """Return what each step takes."""
    return [
        {
            "step": step,
            "ms": f"{cost.seconds * 1000:.3f}",
            "processor, worker, ms": f"{cost.cpu * 1000:.3f}",
            "processor, server, ms": f"{cost.server_cpu * 1000:.3f}",
        }
        for step, cost in costs.items()
    ]


def published_table(stores: Sequence[Published]) -> Rows:
    """Return what stores publish of themselves, and where."""
    return [
        {
            "store": store.name,
            "writes a second": f"{store.writes_per_second:,.0f}",
            "reads a second": f"{store.reads_per_second:,.0f}",
            "of": f"a bucket, twice that every {store.minutes_to_double:.0f} minutes"
            if store.minutes_to_double
            else "each partitioned prefix",
            "$ per 1,000 writes or listings": f"{store.put_1000:g}",
            "$ per 1,000 reads": f"{store.get_1000:g}",
            "$ a GB and month": f"{store.gb_month:g}",
            "$ a GB out of the region": f"{store.gb_out:g}",
            "sources": ", ".join(f"<{source}>" for source in store.sources),
        }
        for store in stores
    ]


def plan_table(plan: Plan) -> Rows:
    """Return how large the cache is."""
    return [
        {
            "clips": f"{plan.clips:,}",
            "entries": f"{plan.objects:,}",
            "bytes of features, of a waveform": f"{plan.feature_bytes:,.0f}, {plan.waveform_bytes:,.0f}",
            "TB of features": f"{plan.clips * plan.feature_bytes / 1e12:.1f}",
            "TB in all": f"{plan.n_bytes / 1e12:.1f}",
            "prefixes": f"{PREFIXES * plan.caches}",
            "entries of a prefix": f"{plan.clips / PREFIXES:,.0f}",
        }
    ]


def workers_table(costs: Mapping[str, Cost]) -> Rows:
    """Return what one worker does on a store at some distance, and how many of them keep a core busy."""
    rows = []
    for round_trip in ROUND_TRIPS:
        for what, work in (("filling", filling_work), ("reading warm", reading_work)):
            one = work(farther(costs, round_trip))
            rows.append(
                {
                    "a request takes": f"{round_trip * 1000:.0f} ms more",
                    "what": what,
                    "clips a second of a worker": f"{1 / max(one.seconds, one.cpu):.0f}",
                    "of a core": f"{1 / one.cpu:.0f}",
                    "workers to a core": math.ceil(one.seconds / one.cpu),
                }
            )
    return rows


def fleets_table(plan: Plan, costs: Mapping[str, Cost], stores: Sequence[Published]) -> Rows:
    """Return how fast many cores are, each with as many workers as it needs, and what they ask of a store."""
    rows = []
    for what, work, requests in (
        ("filling", filling_work(costs), filling(plan)),
        ("reading warm", reading_work(costs), epoch(plan)),
    ):
        for cores in FLEETS:
            speed = cores / work.cpu
            rate = requests.times(speed)
            moved = plan.feature_bytes + (plan.waveform_bytes if what == "filling" else 0)
            row: dict[str, Any] = {
                "what": what,
                "cores": f"{cores:,}",
                "clips a second": f"{speed:,.0f}",
                "hours for all": f"{plan.clips / speed / 3600:,.1f}",
                "writes a second": f"{rate.writes:,.0f}",
                "reads a second": f"{rate.reads:,.0f}",
                "GB a second": f"{speed * moved / GB:.2f}",
            }
            rows.append(row | {store.name: _demand(store, rate) for store in stores})
    return rows


def _demand(store: Published, rate: Requests) -> str:
    if store.minutes_to_double:
        minutes = minutes_to_grow(store, rate)
        return f"{minutes:.0f} minutes of growing" if minutes else "at once"
    return f"{math.ceil(load(store, rate))} partitioned prefixes"


def dollars_table(plan: Plan, stores: Sequence[Published]) -> Rows:
    """Return what the requests and the bytes cost."""
    fill, warm = filling(plan).times(plan.clips), epoch(plan).times(plan.clips)
    nearer = epoch(plan, near=0.5).times(plan.clips)
    return [
        {
            "store": store.name,
            "filling": _dollars(fill.dollars(store)),
            "a month of all entries": _dollars(plan.n_bytes / GB * store.gb_month),
            "of features alone": _dollars(plan.clips * plan.feature_bytes / GB * store.gb_month),
            "an epoch": _dollars(warm.dollars(store)),
            "an epoch, half of it near": _dollars(nearer.dollars(store)),
            "an epoch in another region": _dollars(warm.dollars(store, leaves_region=True)),
            "a listing": _dollars(listing(plan.objects) / 1000 * store.put_1000),
        }
        for store in stores
    ]


def _dollars(value: float) -> str:
    return f"${value:,.2f}" if value < 10 else f"${value:,.0f}"


def upkeep_table(
    plan: Plan, costs: Mapping[str, Cost], memory: Mapping[str, float], near: float, record: float
) -> Rows:
    """Return what it takes to list, to prune and to remember.

    Parameters
    ----------
    plan
        The cache.
    costs
        Of the steps.
    memory
        Bytes by which each command grows with an entry; of "a listing by fsspec", what a name takes.
    near
        Bytes that an entry in the near tier takes in a process that has used it.
    record
        Bytes of a record of use.
    """
    pages = listing(plan.objects)
    page = costs["list 1,000 names"].seconds
    records = plan.clips / NAMES_OF_A_RECORD
    in_folders = FOLDERS_AT_ONCE * plan.clips / PREFIXES
    pruned = PRUNED * plan.objects
    lines = {
        "requests of a listing": f"{pages:,.0f}",
        "hours, one after the other, as measured here": f"{pages * page / 3600:.1f}",
        f"hours, one after the other, at {FAR * 1000:.0f} ms more": f"{pages * (page + FAR) / 3600:.1f}",
        f"hours, {FOLDERS_AT_ONCE} folders at once, at {FAR * 1000:.0f} ms more": (
            f"{pages * (page + FAR) / FOLDERS_AT_ONCE / 3600:.1f}"
        ),
        f"GB of memory of {FOLDERS_AT_ONCE} folders that fsspec lists at once": (
            f"{in_folders * memory['fsspec'] / GB:.1f}"
        ),
        **{
            f"GB of memory of `{command}`": f"{plan.objects * memory[command] / GB:.1f}"
            for command in ("usage", "ls", "prune")
        },
        f"requests that delete {PRUNED:.0%}, a thousand by one": f"{pruned / 1000:,.0f}",
        f"requests that delete {PRUNED:.0%}, one by one": f"{pruned:,.0f}",
        "records of use of an epoch": f"{records:,.0f}",
        "GB of them": f"{records * record / GB:.1f}",
        "GB of memory of each process whose run has used a tenth of all features near": (
            f"{plan.clips * PRUNED * near / GB:.1f}"
        ),
    }
    return [{"what": what, "of the plan": figure} for what, figure in lines.items()]


def small_objects_table(store: Published) -> Rows:
    """Return how the price of requests and of bytes depend on the size of an entry."""
    return [
        {
            "bytes of an entry": f"{size:,}",
            "months of keeping it that its put pays": f"{months_to_outweigh_put(store, size):.1f}",
            "epochs whose reads pay a month": f"{size / GB * store.gb_month / (store.get_1000 / 1000):.1f}",
            "billed bytes in an infrequent-access class": f"{max(size, SMALLEST_BILLED):,}",
        }
        for size in SIZES
    ]
