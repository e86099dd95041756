"""Whether something that failed is asked again now, or left alone for a while."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

__all__ = ["Breaker", "Rest"]

_FIRST_REST, _LONGEST_REST = 30.0, 300.0


@dataclass(frozen=True)
class Rest:
    """A time in which nothing is asked.

    Attributes
    ----------
    reason
        What was found before it began.
    seconds
        How long it is.
    since, until
        When it began, and when one may ask again.
    trials
        Numbers those who then want to.
    """

    reason: str
    seconds: float
    since: float
    until: float
    trials: Iterator[int] = field(default_factory=itertools.count)


class Breaker:
    """Counts failures, and says who may ask; the state of one process.

    It has no lock, which a fork could find held: a change is one assignment, or one step of an iterator. What two
    threads note at the same moment may count once.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._failures = 0
        self._rest: Rest | None = None

    def refusal(self) -> Rest | None:
        """Return the rest that is being taken, or None to whoever may ask: after a rest that is one alone."""
        rest = self._rest
        if rest is None:
            return None
        now = self._clock()
        if now < rest.until or next(rest.trials):
            return rest
        # Should the trial never end, as in a child that was forked meanwhile, another one comes after this time.
        self._rest = replace(rest, until=now + rest.seconds, trials=itertools.count())
        return None

    @property
    def rest(self) -> Rest | None:
        """The rest in which nobody may ask now; None where somebody may."""
        rest = self._rest
        return rest if rest is not None and self._clock() < rest.until else None

    @property
    def is_in_doubt(self) -> bool:
        """Whether the last that was heard is a failure."""
        return self._failures > 0 or self._rest is not None

    def failed(self, reason: str, started: float, most: int) -> Rest | None:
        """Count a failure of what was asked at `started`; return the rest that begins with it.

        That is the failure number `most` in a row, and any that follows a rest; each rest is twice as long as the last.
        """
        rest = self._rest
        if rest is not None and started < rest.since:
            return None  # asked before the rest began, so it says nothing new
        self._failures += 1
        if rest is None and self._failures < most:
            return None
        seconds = min(2 * rest.seconds, _LONGEST_REST) if rest else _FIRST_REST
        now = self._clock()
        begun = self._rest = Rest(reason, seconds, now, now + seconds)
        return begun

    def succeeded(self, started: float) -> bool:
        """Note an answer to what was asked at `started`; return whether it ends a rest."""
        rest = self._rest
        if rest is not None and started < rest.since:
            return False
        self._failures = 0
        self._rest = None
        return rest is not None
