"""The model of a large cache, where it can be checked by hand."""

from __future__ import annotations

import math
import os
import time
from dataclasses import replace

import numpy as np
import pack_tools
import pytest
from hypothesis import given
from hypothesis import strategies as st

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
from benchmarks.scale_packs import Packs
from benchmarks.scale_steps import machine_seconds, server_seconds
from benchmarks.scale_stores import (
    PUBLISHED,
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
from benchmarks.scale_throughput import Cost, Site, bounds, farther, predict, reading
from benchmarks.scale_throughput import filling as filling_work
from benchmarks.scale_workers import Ran, check_passes

ITEMS = 10_000


def orders(*items: list[int]) -> list[np.ndarray]:
    return [np.array(order) for order in items]


# The near tier -------------------------------------------------------------------------------------------------------


def test_lru_over_three_items_of_which_two_have_room() -> None:
    assert hit_rates(LeastRecentlyUsed(2), orders([0, 1, 2], [2, 1, 0])) == [0, 2 / 3]
    assert hit_rates(LeastRecentlyUsed(2), orders([0, 1, 2], [0, 1, 2], [2, 0, 1])) == [0, 0, 1 / 3]
    assert hit_rates(LeastRecentlyUsed(0), orders([0], [0])) == [0, 0]


def test_admit_until_full_keeps_the_first() -> None:
    policy = AdmitUntilFull(2)
    assert hit_rates(policy, orders([0, 1, 2], [2, 1, 0], [2, 0, 1])) == [0, 2 / 3, 2 / 3]
    assert list(policy.kept) == [0, 1]


def test_a_run_keeps_what_it_read_and_takes_room_from_the_last() -> None:
    policy = NearTierOfRuns(2)
    assert hit_rates(policy, orders([0, 1, 2, 3], [3, 2, 1, 0])) == [0, 1 / 2]
    assert set(policy.kept) == {0, 1}
    policy.begin_run()
    assert policy.read(1)
    assert not policy.read(2)  # 0 makes room, not 1
    assert set(policy.kept) == {1, 2}
    assert not policy.read(3)  # nothing is left of the last run
    assert set(policy.kept) == {1, 2}


@pytest.mark.parametrize("share", [0.05, 0.3, 0.7])
def test_the_closed_forms_are_what_the_simulation_gives(share: float) -> None:
    capacity = round(share * ITEMS)
    off = 0.02  # of 10,000 items
    assert hit_rates(LeastRecentlyUsed(capacity), shuffled(ITEMS, 2))[1] == pytest.approx(rate_of_lru(share), abs=off)
    assert hit_rates(LeastRecentlyUsed(capacity), sequential(ITEMS, 3)) == [0, 0, 0]
    for order in (shuffled(ITEMS, 3), sequential(ITEMS, 3)):
        assert hit_rates(AdmitUntilFull(capacity), order) == [0, capacity / ITEMS, capacity / ITEMS]

    tier = NearTierOfRuns(capacity)
    assert hit_rates(tier, shuffled(ITEMS, 2)) == [0, capacity / ITEMS]
    tier.begin_run()
    first, second = hit_rates(tier, shuffled(ITEMS, 2, seed=1))
    assert first == pytest.approx(rate_of_next_run(share), abs=off)
    assert second == capacity / ITEMS

    tier = NearTierOfRuns(capacity)
    hit_rates(tier, sequential(ITEMS, 1))
    tier.begin_run()
    assert hit_rates(tier, sequential(ITEMS, 1)) == [capacity / ITEMS]  # in the same order, nothing had to go


def test_closed_forms_at_their_ends() -> None:
    assert rate_of_lru(0.0) == 0.0
    assert rate_of_lru(1.0) == rate_of_lru(2.0) == 1.0
    assert rate_of_lru(0.5) == pytest.approx(0.5 - math.log(2) / 2)
    assert rate_of_nodes(0.1, 4, is_dealt_by_content=True) == 0.4
    assert rate_of_nodes(0.1, 40, is_dealt_by_content=True) == 1.0
    assert rate_of_nodes(0.1, 4, is_dealt_by_content=False) == 0.1


@given(st.lists(st.permutations(range(8)), min_size=2, max_size=4), st.integers(0, 9))
def test_no_policy_keeps_more_than_has_room_and_more_room_never_hurts_lru(order: list[list[int]], room: int) -> None:
    read = orders(*order)
    for kind in (LeastRecentlyUsed, AdmitUntilFull, NearTierOfRuns):
        policy = kind(room)
        rates = hit_rates(policy, read)
        policy.begin_run()
        rates += hit_rates(policy, read)
        assert len(policy.kept) <= room
        assert rates[0] == 0.0  # each item for the first time
        assert all(rate <= 1.0 for rate in rates)
        assert room < 8 or rates[1:] == [1.0] * (len(rates) - 1)
    less, more = (hit_rates(LeastRecentlyUsed(size), read) for size in (room, room + 1))
    assert all(few <= many for few, many in zip(less, more, strict=True))


# Requests ------------------------------------------------------------------------------------------------------------

STORE = Published("a store", 100, 400, 20, 0.005, 0.0004, 0.02, 0.1, 1, ())
PLAN = Plan(4096, feature_bytes=250_000, waveform_bytes=150_000)


def test_a_plan_of_two_entries_a_clip() -> None:
    assert (PLAN.caches, PLAN.objects, PLAN.n_bytes) == (2, 8192, 4096 * 400_000)
    without = Plan(4096, 250_000, 0)
    assert (without.caches, without.objects, without.n_bytes) == (1, 4096, 4096 * 250_000)


def test_filling_misses_and_puts_each_entry_and_records_its_use() -> None:
    # 8,192 entries: as many misses and puts; two records, each of two looks and a put.
    assert filling(PLAN).times(4096) == Requests(8192 + 4, 8192 + 2, 0)


def test_an_epoch_reads_features_that_are_not_near() -> None:
    assert epoch(PLAN).times(4096) == Requests(4096 + 2, 1, 4096 * 250_000)
    assert epoch(PLAN, near=0.75).times(4096) == Requests(1024 + 2, 1, 1024 * 250_000)


def test_dollars() -> None:
    requests = Requests(reads=10_000, writes=2_000, bytes_out=3e9)
    assert requests.dollars(STORE) == pytest.approx(10 * 0.0004 + 2 * 0.005)
    assert requests.dollars(STORE, leaves_region=True) == pytest.approx(10 * 0.0004 + 2 * 0.005 + 3 * 0.1)
    # A put costs what 250 kB cost in a month: 0.000005 and 0.00025 GB at 0.02.
    assert months_to_outweigh_put(STORE, 250_000) == pytest.approx(1.0)


def test_a_bucket_that_doubles() -> None:
    assert load(STORE, Requests(400, 50, 0)) == 1.0
    assert load(STORE, Requests(400, 800, 0)) == 8.0
    assert minutes_to_grow(STORE, Requests(400, 800, 0)) == 60.0  # three times 20
    assert minutes_to_grow(STORE, Requests(40, 10, 0)) == 0.0
    assert minutes_to_grow(STORE, Requests(0, 0, 0)) == 0.0


def test_a_listing_has_a_thousand_names_a_page() -> None:
    assert [listing(objects) for objects in (0, 1, 1000, 1001)] == [0, 1, 1, 2]


# Packs ---------------------------------------------------------------------------------------------------------------


def test_packs_of_a_plan() -> None:
    packs = Packs(1_000_000, 4_000)
    assert packs.n_bytes == 1_000_000 * (512 + 4096 + 60)  # a header, padding to 512, a line of contents
    assert packs.packs == 19
    assert packs.files == 20  # an index for all
    assert packs.index_bytes == pytest.approx(1_000_000 * 32.125, rel=1e-4)
    assert packs.memory == 125_000
    # Each entry is read; 1,000 names a page are listed, twice; the packs are put in parts of 5 MiB, and the index.
    assert packs.packing() == Requests(1_000_000, 2 * 1_000 + 19 * 49 + 7 + 19, 0)
    # 32 entries of a batch lie together: 150 kB, one request. Shuffled, each is one.
    assert packs.epoch(in_order=True).reads == 1_000_000 / 32
    assert packs.epoch(in_order=False).reads == 1_000_000
    assert Packs(1_000, 1_000_000).epoch(in_order=True).reads == pytest.approx(1_000 * 4 / 32)  # of 8 MiB at most


def test_packs_are_as_large_as_real_ones(tmp_path) -> None:
    names = [pack_tools.entry_name(number) for number in range(3000)]
    pack_tools.make_packed(tmp_path, dict.fromkeys(names, bytes(4000)), 2_000_000)
    pack_tools.open_packed(tmp_path).tidy()
    model = Packs(3000, 4000, pack_bytes=2_000_000)
    files = pack_tools.packs(tmp_path)
    assert sum(path.stat().st_size for path in files) == pytest.approx(model.n_bytes, rel=0.05)
    assert len(files) == pytest.approx(model.packs, abs=1)
    index_bytes = sum(path.stat().st_size for path in pack_tools.indexes(tmp_path))
    assert index_bytes == pytest.approx(model.index_bytes, rel=0.02)


@given(st.floats(0, 1), st.floats(0, 1))
def test_more_near_hits_never_cost_more(one: float, other: float) -> None:
    less, more = sorted((one, other))
    for store in PUBLISHED:
        costs = [epoch(PLAN, near).dollars(store, leaves_region=True) for near in (less, more)]
        assert costs[0] >= costs[1] >= 0


def test_what_is_published_has_sources() -> None:
    for store in PUBLISHED:
        assert all(source.startswith("https://") for source in store.sources)
        assert len(store.sources) >= 2
        assert 0 < store.get_1000 < store.put_1000 < store.gb_month < store.gb_out


# Throughput ----------------------------------------------------------------------------------------------------------

COSTS = {
    "identity": Cost(0.001, 0.001),
    "hash": Cost(0.001, 0.001),
    "miss": Cost(0.002, 0.001, 0.001),
    "decode": Cost(0.006, 0.006),
    "extract": Cost(0.010, 0.010),
    "encode features": Cost(0.002, 0.002),
    "put features": Cost(0.006, 0.001, 0.004),
    "encode waveform": Cost(0.002, 0.002),
    "put waveform": Cost(0.006, 0.001, 0.004),
    "get": Cost(0.004, 0.001, 0.002),
    "open": Cost(0.002, 0.002),
}


def test_a_fill_takes_what_its_slowest_part_takes() -> None:
    work = filling_work(COSTS)
    # Before: 1 + 1 + 2 * 2 ms. The extraction is the slowest: 10 ms, not 6 / 2 or 16 / 4. Then 16 / 32 for the last.
    assert work.seconds == pytest.approx(0.006 + 0.010 + 0.0005)
    assert work.cpu == pytest.approx(0.026)
    assert work.server_cpu == pytest.approx(0.010)
    assert (work.reads, work.writes) == (2, 2)
    # 100 ms farther away, storing is: 216 / 4 ms, and a miss has two round trips a batch.
    assert filling_work(farther(COSTS, 0.1)).seconds == pytest.approx(0.006 + 2 * 0.00625 + 0.054 + 0.216 / 32)


def test_a_read_takes_all_of_its_steps() -> None:
    work = reading(COSTS)
    assert (work.seconds, work.cpu, work.server_cpu) == pytest.approx((0.008, 0.005, 0.002))
    assert (work.reads, work.writes) == (1, 0)
    assert reading(farther(COSTS, 0.032)).seconds == pytest.approx(0.008 + 0.002)
    assert reading(farther(COSTS, 0.032)).cpu == work.cpu


def test_the_first_thing_to_run_out_is_the_limit() -> None:
    work = reading(COSTS)
    assert predict(work, 1, Site(2)) == (pytest.approx(125), "the workers")
    assert predict(work, 4, Site(2)) == (pytest.approx(400), "the cores")
    assert predict(work, 4, Site(2, has_server=True)) == (pytest.approx(2 / 0.007), "the cores")  # which it shares
    assert predict(work, 4, Site(2, reads_per_second=90)) == (90, "reads of the store")
    assert predict(filling_work(COSTS), 4, Site(8, writes_per_second=90)) == (45, "writes of the store")


@given(st.integers(1, 64), st.integers(1, 64), st.floats(0, 1))
def test_more_workers_never_make_it_slower_and_a_longer_way_never_faster(
    workers: int, cores: int, round_trip: float
) -> None:
    for work in (filling_work, reading):
        near, far = work(COSTS), work(farther(COSTS, round_trip))
        assert predict(near, workers + 1, Site(cores))[0] >= predict(near, workers, Site(cores))[0]
        assert predict(far, workers, Site(cores))[0] <= predict(near, workers, Site(cores))[0]
        assert bounds(near, workers, Site(cores))["the cores"] == pytest.approx(cores / near.cpu)


# Workers -------------------------------------------------------------------------------------------------------------


def test_passes_that_did_not_do_what_they_were_to_do_are_an_error() -> None:
    filled = [Ran(1.0, 0.5, computed=3, hits=0, failures=0, first="a"), Ran(2.0, 0.5, 2, 0, 0, "b")]
    read = [replace(ran, computed=0, hits=ran.computed) for ran in filled]
    check_passes(filled, read, 5)
    with pytest.raises(OSError, match=r"expected 6 clips .* found 5 computed, 5 read and 0 failures"):
        check_passes(filled, read, 6)
    with pytest.raises(OSError, match="found 4 computed"):
        check_passes([replace(filled[0], computed=2), filled[1]], read, 5)
    with pytest.raises(OSError, match="and 1 failures"):
        check_passes(filled, [read[0], replace(read[1], failures=1)], 5)
    with pytest.raises(OSError, match="read others"):
        check_passes(filled, [read[0], replace(read[1], first="c")], 5)


def test_the_processor_time_of_a_process_is_read_from_the_system() -> None:
    times = os.times()
    assert server_seconds(os.getpid()) == pytest.approx(times.user + times.system, abs=0.5)
    assert server_seconds(os.getpid()) < machine_seconds() <= time.monotonic() * (os.cpu_count() or 1) + 1
