"""The model of a large cache, where it can be checked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
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
from hypothesis import given
from hypothesis import strategies as st

ITEMS = 10_000


def epochs(*orders: list[int]) -> list[np.ndarray]:
    return [np.array(order) for order in orders]


# The near tier -------------------------------------------------------------------------------------------------------


def test_lru_over_three_items_of_which_two_have_room() -> None:
    assert hit_rates(LeastRecentlyUsed(2), epochs([0, 1, 2], [2, 1, 0])) == [0, 2 / 3]
    assert hit_rates(LeastRecentlyUsed(2), epochs([0, 1, 2], [0, 1, 2], [2, 0, 1])) == [0, 0, 1 / 3]
    assert hit_rates(LeastRecentlyUsed(0), epochs([0], [0])) == [0, 0]


def test_admit_until_full_keeps_the_first() -> None:
    policy = AdmitUntilFull(2)
    assert hit_rates(policy, epochs([0, 1, 2], [2, 1, 0], [2, 0, 1])) == [0, 2 / 3, 2 / 3]
    assert list(policy.kept) == [0, 1]


def test_a_run_keeps_what_it_read_and_takes_room_from_the_last() -> None:
    policy = NearTierOfRuns(2)
    assert hit_rates(policy, epochs([0, 1, 2, 3], [3, 2, 1, 0])) == [0, 1 / 2]
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
def test_no_policy_keeps_more_than_has_room_and_more_room_never_hurts_lru(orders: list[list[int]], room: int) -> None:
    read = epochs(*orders)
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
