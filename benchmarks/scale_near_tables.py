"""What a near tier hits, as rows of tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.scale_near_tier import (
    AdmitUntilFull,
    LeastRecentlyUsed,
    NearTierOfRuns,
    hit_rates,
    rate_of_lru,
    rate_of_next_run,
    rate_of_nodes,
    sequential,
    shuffled,
)
from benchmarks.scale_stores import Plan
from benchmarks.scale_tables import Rows

SHARES = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9)  # of all features, that have room near
NODES = (1, 8, 64)


def near_tier_table(plan: Plan, items: int) -> Rows:
    """Return the hit rates of ways to keep entries near, simulated and in closed form."""
    rows = []
    for share in SHARES:
        room = round(items * share)
        tier = NearTierOfRuns(room)
        hit_rates(tier, shuffled(items, 1))
        tier.begin_run()
        first, later = hit_rates(tier, shuffled(items, 2, seed=1))
        lru = hit_rates(LeastRecentlyUsed(room), shuffled(items, 3))[-1]
        in_order = [hit_rates(kind(room), sequential(items, 2))[-1] for kind in (LeastRecentlyUsed, AdmitUntilFull)]
        rows.append(
            {
                "room near, of all features": f"{share:.0%}, {share * plan.clips * plan.feature_bytes / 1e12:.1f} TB",
                "LRU, one order": f"{in_order[0]:.1%}",
                "LRU, shuffled": f"{lru:.1%} (closed form {rate_of_lru(share):.1%})",
                "admit until full, either": f"{in_order[1]:.1%}",
                "ours, shuffled": f"{later:.1%}",
                "ours, the first epoch of the next run": f"{first:.1%} (closed form {rate_of_next_run(share):.1%})",
            }
        )
    return rows


def tried_tier_table(real: Mapping[float, Sequence[float]]) -> Rows:
    """Return what a near tier hit in two epochs of a run and two of the next, by the share that has room."""
    return [
        {
            "room near": f"{share:.0%}",
            "first epoch": f"{rates[0]:.1%}",
            "second": f"{rates[1]:.1%}",
            "first of the next run": f"{rates[2]:.1%}",
            "second of it": f"{rates[3]:.1%}",
        }
        for share, rates in real.items()
    ]


def nodes_table() -> Rows:
    """Return the hit rates of nodes that have room for a fiftieth of all features each."""
    share = 1 / 50
    return [
        {
            "nodes, each with room for 2 %": nodes,
            "any clip on any node": f"{rate_of_nodes(share, nodes, is_dealt_by_content=False):.0%}",
            "a clip always on the same node": f"{rate_of_nodes(share, nodes, is_dealt_by_content=True):.0%}",
        }
        for nodes in NODES
    ]
