"""11. A hundred million clips: what is measured here of each step, and what follows from it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import servers

from benchmarks import scale_upkeep
from benchmarks.clips import joined
from benchmarks.harness import Worker
from benchmarks.options import QUICK_PROCESSOR, Options
from benchmarks.report import Claim, Section, Spread
from benchmarks.scale_near_tables import near_tier_table, nodes_table, tried_tier_table
from benchmarks.scale_packs import packs_table
from benchmarks.scale_steps import Bench, Steps, steps
from benchmarks.scale_stores import PUBLISHED, S3, Plan
from benchmarks.scale_tables import (
    costs_table,
    dollars_table,
    fleets_table,
    plan_table,
    published_table,
    small_objects_table,
    upkeep_table,
    workers_table,
)
from benchmarks.scale_throughput import Site, Work, filling, predict, reading
from benchmarks.scale_workers import Speed, speeds

BUCKET = "scale"
CLIPS = 100_000_000
PROCESSOR = "whisper_tiny"
WORKERS = (1, 2, 4)
AT_MOST_OFF = 1.3
TRIED_SHARES = (0.25, 0.5)
_SMALL_OBJECTS = 4_000  # that are listed


def run(options: Options) -> Section:
    """Measure, hold the model against it, and say what a hundred million clips take."""
    processor_name = QUICK_PROCESSOR if options.is_quick else PROCESSOR
    encoded = joined(options.some(512 + max(WORKERS), quick=8), 10.0, rate=48_000, form="FLAC")
    section = Section(
        "11. A hundred million clips",
        [
            f"Clips of 10 s, FLAC at 48 kHz, for {processor_name}: features and a waveform at its rate are stored of "
            f"each. SeaweedFS on the same machine, which has {_cores()} cores for it and for all workers; no near "
            "tier; torch computes in one thread.",
        ],
    )
    folder = options.scratch / "scale_model"
    folder.mkdir(parents=True)
    with servers.seaweedfs(folder / "server") as server:
        found = measure(section, options, server, processor_name, encoded)
        per_name = scale_upkeep.memory_of_folder(lambda: _listed(server))
    add_plan(section, options, found, per_name, folder)
    return section


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def measure(
    section: Section, options: Options, server: servers.S3Server, processor_name: str, encoded: Sequence[bytes]
) -> Steps:
    """Measure each step and then whole workers, and add both and what the model says of the workers."""
    assert server.program.process is not None
    bench = Bench(processor_name, server.make_bucket(BUCKET), dict(server.storage_options), server.program.process.pid)
    with Worker(in_process=options.in_processes) as worker:
        found: Steps = worker.call(
            steps, bench, encoded[: options.some(128, quick=2)], options.some(_SMALL_OBJECTS, quick=40)
        )
    section.tables["What a step takes, for a clip"] = costs_table(found.costs)
    rounds: dict[int, list[list[Speed]]] = {workers: [] for workers in WORKERS}
    for number in range(options.at_most(3)):
        for workers, taken in rounds.items():
            taken.append(speeds(bench, f"{workers}-{number}", encoded, workers, in_processes=options.in_processes))
    _hold_against(section, found, rounds)
    return found


def _hold_against(section: Section, found: Steps, rounds: Mapping[int, Sequence[Sequence[Speed]]]) -> None:
    """Add what was measured of whole workers beside what follows from the steps."""
    site = Site(_cores(), has_server=True)
    works: dict[str, Work] = {"filling": filling(found.costs), "reading warm": reading(found.costs)}
    rows, off, cpu_off = [], [], []
    for phase, (what, work) in enumerate(works.items()):
        for workers, taken in rounds.items():
            predicted, limit = predict(work, workers, site)
            measured = Spread.of([each[phase].clips_per_second for each in taken])
            ratios = [each[phase].clips_per_second / predicted for each in taken]
            cpu = [each[phase].cpu for each in taken]
            cpu_off.append(
                [max(each / (work.cpu + work.server_cpu), (work.cpu + work.server_cpu) / each) for each in cpu]
            )
            off.append([max(ratio, 1 / ratio) for ratio in ratios])
            rows.append(
                {
                    "what": what,
                    "workers": workers,
                    "predicted, clips a second": f"{predicted:.0f}",
                    "limited by": limit,
                    "measured": f"{measured.median:.0f}",
                    "spread": measured.say(0),
                    "measured / predicted": f"{Spread.of(ratios).median:.2f}",
                    "processor ms a clip, predicted": f"{(work.cpu + work.server_cpu) * 1000:.2f}",
                    "measured, ms": f"{Spread.of(cpu).median * 1000:.2f}",
                    "cores that others took": f"{Spread.of([each[phase].others for each in taken]).median:.1f}",
                }
            )
    section.tables["Predicted and measured here"] = rows
    for what, each_off in (("clips a second", off), ("processor time", cpu_off)):
        farthest = [max(each) for each in zip(*each_off, strict=True)]
        section.claims.append(Claim(f"{what}: the prediction that is farthest off, by", farthest, at_most=AT_MOST_OFF))


def _listed(server: servers.S3Server) -> list[Any]:
    """Return the objects in the bucket as s3fs lists them."""
    import s3fs

    system = s3fs.S3FileSystem(**server.storage_options, use_listings_cache=False, skip_instance_cache=True)
    return list(system.find(BUCKET, detail=True).values())


def add_plan(section: Section, options: Options, found: Steps, per_name: float, folder: Path) -> None:
    """Add what follows for a hundred million clips."""
    plan = Plan(CLIPS, found.feature_bytes, found.waveform_bytes)
    counts = (20, 40) if options.is_quick else scale_upkeep.COUNTS
    with Worker(in_process=options.in_processes) as worker:
        memory = worker.call(scale_upkeep.memory_of_commands, folder / "commands", counts)
        near = worker.call(scale_upkeep.memory_of_near_tier, folder / "near", 5 * counts[1])
        record = worker.call(scale_upkeep.bytes_of_a_record, folder / "record")
        real = {
            share: worker.call(
                scale_upkeep.hits_of_near_tier,
                folder / f"tier-{share}",
                share,
                options.some(1_000, quick=20),
                options.some(3, quick=0) / 1000,
            )
            for share in TRIED_SHARES
        }
    memory["fsspec"] = per_name
    section.tables |= {
        "Published": published_table(PUBLISHED),
        "The plan": plan_table(plan),
        "Workers on a distant store": workers_table(found.costs),
        "Many cores": fleets_table(plan, found.costs, PUBLISHED),
        "Dollars": dollars_table(plan, PUBLISHED),
        "Hits of a near tier": near_tier_table(plan, options.some(20_000, quick=200)),
        "A near tier at work": tried_tier_table(real),
        "Near tiers of several nodes": nodes_table(),
        "Keeping it": upkeep_table(plan, found.costs, memory, near, record),
        "Small objects": small_objects_table(S3),
        "Packs": packs_table(plan, S3),
    }
