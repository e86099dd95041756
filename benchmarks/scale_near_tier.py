"""How often a near tier hits that is smaller than what is read: a simulation, and the closed forms that it agrees with.

The items are of one size, each epoch reads each of them once, and a share of them has room near. A simulation of some
thousand items with the same share stands for a hundred million: the hit rates depend on the share alone.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

Epoch = npt.NDArray[np.int64]


class Policy(ABC):
    """What is kept near, of items that are read one after the other.

    Parameters
    ----------
    capacity
        How many items have room.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.kept: OrderedDict[int, None] = OrderedDict()  # the least recently read first

    @abstractmethod
    def read(self, item: int) -> bool:
        """Read an item; return whether it was near."""

    def begin_run(self) -> None:  # noqa: B027 - to most policies, a run is nothing
        """Begin another run, on what the last one left."""


class LeastRecentlyUsed(Policy):
    """What was not read for longest makes room for whatever is read."""

    def read(self, item: int) -> bool:
        if item in self.kept:
            self.kept.move_to_end(item)
            return True
        if self.capacity:
            if len(self.kept) == self.capacity:
                self.kept.popitem(last=False)
            self.kept[item] = None
        return False


class AdmitUntilFull(Policy):
    """What came first stays, and nothing makes room."""

    def read(self, item: int) -> bool:
        if item in self.kept:
            return True
        if len(self.kept) < self.capacity:
            self.kept[item] = None
        return False


class NearTierOfRuns(Policy):
    """The near tier of this package: what this run has read stays, and what former runs left makes room for it.

    Room is made for one item at each read. The package makes a tenth of the limit free at once, and only when it has
    looked at the directory, so that it keeps more of what former runs left.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._left: OrderedDict[int, None] = OrderedDict()  # by former runs, and not read in this one

    def begin_run(self) -> None:
        self._left = OrderedDict(self.kept)

    def read(self, item: int) -> bool:
        is_near = item in self.kept
        if is_near:
            self._left.pop(item, None)
            self.kept.move_to_end(item)
            return True
        if len(self.kept) == self.capacity and self._left:
            oldest, _ = self._left.popitem(last=False)
            del self.kept[oldest]
        if len(self.kept) < self.capacity:
            self.kept[item] = None
        return False


def hit_rates(policy: Policy, epochs: Iterable[Epoch]) -> list[float]:
    """Return the share of the items of each epoch that were near when they were read."""
    return [sum(map(policy.read, epoch.tolist())) / len(epoch) for epoch in epochs]


def shuffled(items: int, epochs: int, seed: int = 0) -> Sequence[Epoch]:
    """Return epochs in orders that have nothing to do with each other."""
    random = np.random.default_rng(seed)
    return [random.permutation(items) for _ in range(epochs)]


def sequential(items: int, epochs: int) -> Sequence[Epoch]:
    """Return epochs in one and the same order."""
    return [np.arange(items)] * epochs


def rate_of_lru(share: float) -> float:
    """Return the hit rate of LRU over shuffled epochs, for the share of the items that have room.

    An item at place ``x`` of one epoch and ``y`` of the next (both from 0 to 1) is near if fewer distinct items than
    have room were read in between: those of the rest ``1 - x``, and those of ``y`` that are not among them. So it is
    near where ``x (1 - y) > 1 - share``; of two uniform numbers, that is the case for this part.
    """
    return 1.0 if share >= 1 else share + (1 - share) * math.log1p(-share)


def rate_of_next_run(share: float) -> float:
    """Return the hit rate of the first shuffled epoch of a run, on a near tier that a former run has filled.

    Each read takes one item away from what that run left: it was near and is this run's now, or it was not and another
    one had to make room. After as many reads as have room, nothing of it is left. Up to then read ``n`` of ``N`` hits
    with the probability ``(share N - n) / (N - n)``, and the sum over these is the same expression as for LRU.
    """
    return rate_of_lru(share)


def rate_of_nodes(share: float, nodes: int, *, is_dealt_by_content: bool) -> float:
    """Return the hit rate of admit-until-full where several nodes, each with its own near tier, share an epoch.

    Parameters
    ----------
    share
        Of all items, how many have room on one node.
    nodes
        How many there are.
    is_dealt_by_content
        Whether a node reads the same items in each epoch; otherwise any of them.
    """
    return min(1.0, share * nodes) if is_dealt_by_content else min(1.0, share)
