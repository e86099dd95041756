"""What packs make of a large cache: files, requests, dollars and memory, as plain arithmetic."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from benchmarks.scale_stores import GB, PREFIXES, Plan, Published, Requests, listing

CLIPS = (1_000_000, 10_000_000, 100_000_000)
SMALL = 4_000  # bytes of an entry of an embedding or of codes
BATCH = 32
_BLOCK = 512  # tar pads to it, and a header has it
_LINE = 60  # bytes of an entry in the gzipped list of contents
_ROW, _BLOCK_ROWS, _TABLES = 32, 128, 16  # bytes of a row of an index, rows of a block, bytes of the block's tables
_MOST_ROWS = 1 << 23  # of an index
_PART = 5 << 20  # bytes of a part of a multipart put, as obstore makes it; each is billed as a put
_SPAN = 8 << 20  # bytes that are read by one request


@dataclass(frozen=True)
class Packs:
    """Entries of one size in packs."""

    entries: int
    entry_bytes: float
    pack_bytes: int = 256_000_000

    @property
    def n_bytes(self) -> float:
        """What the packs take."""
        return self.entries * (_BLOCK + math.ceil(self.entry_bytes / _BLOCK) * _BLOCK + _LINE)

    @property
    def packs(self) -> int:
        """How many packs there are."""
        return math.ceil(self.n_bytes / self.pack_bytes)

    @property
    def files(self) -> int:
        """How many files: packs, and indexes after they were merged."""
        return self.packs + math.ceil(self.entries / _MOST_ROWS)

    @property
    def index_bytes(self) -> float:
        """What the indexes take on a disk."""
        return self.entries * (_ROW + _TABLES / _BLOCK_ROWS)

    @property
    def memory(self) -> float:
        """What a process holds of them."""
        return self.entries * _TABLES / _BLOCK_ROWS

    def packing(self) -> Requests:
        """Return the requests that it takes to pack them: deleting the single ones costs nothing."""
        parts = self.packs * math.ceil(self.pack_bytes / _PART) + math.ceil(self.index_bytes / _PART)
        return Requests(self.entries, 2 * listing(self.entries) + parts + self.packs, 0.0)

    def epoch(self, *, in_order: bool) -> Requests:
        """Return the requests of an epoch in batches, in the order of writing or shuffled."""
        a_batch = math.ceil(BATCH * self.entry_bytes / _SPAN) if in_order else BATCH
        return Requests(self.entries / BATCH * a_batch, 0.0, self.entries * self.entry_bytes)


def packs_table(plan: Plan, store: Published) -> list[dict[str, Any]]:
    """Return what packs change for caches of some sizes: of the plan's features, and of small entries."""
    rows = []
    for clips in CLIPS:
        for size in (SMALL, plan.feature_bytes):
            packs = Packs(clips, size)
            puts = Requests(0, clips, 0).dollars(store)
            single = Requests(clips, 0, 0).dollars(store)
            in_order, shuffled = (packs.epoch(in_order=each).dollars(store) for each in (True, False))
            rows.append(
                {
                    "clips": f"{clips:,}",
                    "bytes of an entry": f"{size:,.0f}",
                    "inodes: single, packed": f"{clips + PREFIXES:,}, {packs.files:,}",
                    "requests of a listing": f"{listing(clips):,.0f}, {listing(packs.files):,.0f}",
                    "$ of the puts of a fill": f"{puts:,.2f}",
                    "$ of packing": f"{packs.packing().dollars(store):,.2f}",
                    "$ of an epoch: single": f"{single:,.2f}",
                    "packed, in order": f"{in_order:,.2f}",
                    "packed, shuffled": f"{shuffled:,.2f}",
                    "GB of indexes": f"{packs.index_bytes / GB:,.2f}",
                    "MB of them in a process": f"{packs.memory / 1e6:,.1f}",
                }
            )
    return rows
