"""13. Packs on an object store: epochs over loose and packed entries, in stored order and shuffled."""

from __future__ import annotations

import random
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import servers

from benchmarks.harness import Worker
from benchmarks.options import Options
from benchmarks.packs import BATCH, LOOSE, PACKED, fill, key_of
from benchmarks.report import Claim, Section

COUNT = 20_000  # entries of 34 kB
READ = 6_000  # of them, in an epoch of a round
BUCKET = "packs"
_TARGETS = {"stored order": 3.0, "shuffled": 1.0}


def run(options: Options) -> Section:
    """Compare epochs over a bucket before and after it is packed."""
    count = options.some(COUNT, quick=100)
    n_read = min(READ, count)
    section = Section(
        "13. Packs on an object store",
        [
            f"SeaweedFS on the same machine; {count:,} entries of 34 kB, read by obstore in batches of {BATCH} without "
            f"a near tier. Each epoch reads {n_read:,} of them in a new process: loose, and then the same root packed.",
        ],
    )
    folder = options.scratch / "packs_remote"
    folder.mkdir(parents=True)
    with servers.seaweedfs(folder) as server:
        measure(section, options, server)
    return section


def measure(section: Section, options: Options, server: servers.S3Server) -> None:
    """Fill a root, and measure epochs before and after it is packed."""
    count = options.some(COUNT, quick=100)
    n_read = min(READ, count)
    server.make_bucket(BUCKET)
    root = {"url": server.url(BUCKET, "root"), "storage_options": dict(server.storage_options)}
    rates: dict[tuple[str, str], list[float]] = {}
    rows: list[dict[str, str]] = []

    def call(function: Callable[..., Any], *arguments: Any) -> Any:
        with Worker(in_process=options.in_processes) as worker:
            return worker.call(function, root, count, *arguments)

    call(make)
    for kind in (LOOSE, PACKED):
        if kind == PACKED:
            rows.append({"epoch": "packing", **call(pack_all)})
        for order in _TARGETS:
            for _ in range(options.at_most(3)):
                took, requests = call(epoch, n_read, order == "stored order")
                rates.setdefault((kind, order), []).append(n_read / took)
            rows.append(
                {
                    "epoch": f"{kind}, {order}",
                    "entries a second": f"{statistics.median(rates[kind, order]):,.0f}",
                    "requests": _in_words(requests),
                }
            )
    section.tables["Epochs"] = rows
    for order, target in _TARGETS.items():
        ratios = [packed / loose for packed, loose in zip(rates[PACKED, order], rates[LOOSE, order], strict=True)]
        section.claims.append(Claim(f"{order}: entries a second, packed / loose", ratios, at_least=target))


def _in_words(requests: Mapping[str, int]) -> str:
    return ", ".join(f"{number:,} {what}" for what, number in sorted(requests.items()))


def _at(root: Mapping[str, Any], folder: str = "") -> Any:
    from hf_audio_cache import CacheRoot

    return CacheRoot(
        root["url"] + folder,
        storage_options=root["storage_options"],
        near=None,
        compression=None,
        strict=True,
        timeouts=(5.0, 60.0),
    )


def make(root: Mapping[str, Any], count: int) -> None:
    """Store the entries."""
    from hf_audio_cache.cache.open_root import OpenRoot

    opened = OpenRoot(_at(root))
    fill(opened.audio_cache, count)
    opened.access_log.finish()


def pack_all(root: Mapping[str, Any], count: int) -> dict[str, str]:
    """Pack the root; return what that took."""
    from hf_audio_cache import pack

    requests = _counted()
    started = time.perf_counter()
    report = pack(_at(root))
    took = time.perf_counter() - started
    if report.n_packed != count:
        raise OSError(f"expected to pack {count} entries, and packed {report}")
    return {
        "entries a second": f"{count / took:,.0f}",
        "requests": _in_words(requests),
    }


def _counted() -> Counter[str]:
    """Return a counter of the requests that obstore is asked for from now on."""
    from hf_audio_cache.stores.remote.obstore_store import ObstoreStore

    requests: Counter[str] = Counter()

    def count(method: str) -> None:
        inner = getattr(ObstoreStore, method)

        def counted(self: Any, asked: Any) -> Any:
            asked = asked if isinstance(asked, dict) else list(asked)
            requests[method.removesuffix("_many")] += len(asked)
            return inner(self, asked)

        setattr(ObstoreStore, method, counted)

    for method in ("get_many", "get_ranges", "put_many", "exists_many"):
        count(method)
    return requests


def epoch(root: Mapping[str, Any], count: int, n_read: int, in_order: bool) -> tuple[float, dict[str, int]]:
    """Return the seconds of an epoch, and its requests."""
    from hf_audio_cache import AudioCache

    order = random.Random(0)
    first = order.randrange(count - n_read + 1)
    numbers = list(range(first, first + n_read)) if in_order else order.sample(range(count), n_read)
    cache = AudioCache(_at(root, "/features"))
    cache.get(key_of(0))
    requests = _counted()
    started = time.perf_counter()
    for start in range(0, n_read, BATCH):
        found = cache.get_all_many([key_of(number) for number in numbers[start : start + BATCH]])
        for number, outputs in zip(numbers[start : start + BATCH], found, strict=True):
            if outputs is None or outputs["input_features"][0] != number:
                raise ValueError(f"expected the entry {number}, and found another or none")
    return time.perf_counter() - started, dict(requests)
