"""The circuit breaker by itself: counts failures, and says for how long a store is not asked; `resilient` uses it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

_FIRST_PAUSE, _LONGEST_PAUSE = 30.0, 300.0


@dataclass(frozen=True)
class OpenCircuit:
    """A pause in which nothing is asked."""

    reason: str  # the failure that opened the circuit
    seconds: float
    since: float  # by the breaker's clock
    until: float
    # Lets only the first caller through when the pause ends.
    trials: Iterator[int] = field(default_factory=itertools.count)


class CircuitBreaker:
    """Counts failures, and says who may ask; the state of one process.

    It has no lock, which a fork could find held: a change is one assignment, or one step of an iterator. What two
    threads note at the same moment may count once.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._failures = 0
        self._open: OpenCircuit | None = None

    def refusal(self) -> OpenCircuit | None:
        """Return None to a caller that may ask, else the open circuit; after a pause a single caller may ask."""
        circuit = self._open
        if circuit is None:
            return None
        now = self._clock()
        if now < circuit.until or next(circuit.trials):
            return circuit
        # Should the trial never end, as in a child that was forked meanwhile, another one comes after this time.
        self._open = replace(circuit, until=now + circuit.seconds, trials=itertools.count())
        return None

    @property
    def open_circuit(self) -> OpenCircuit | None:
        """The pause that goes on now; None if there is none, or it has ended."""
        circuit = self._open
        return circuit if circuit is not None and self._clock() < circuit.until else None

    @property
    def is_in_doubt(self) -> bool:
        """Whether the last answer was a failure."""
        return self._failures > 0 or self._open is not None

    def failed(self, reason: str, started: float, most: int) -> OpenCircuit | None:
        """Count a failure of a request made at `started`; return the circuit if this opens it.

        The failure number `most` in a row does, and so does a failed trial; each pause is twice as long as the last.
        """
        circuit = self._open
        if circuit is not None and started < circuit.since:
            return None  # asked before the circuit opened, so it says nothing new
        self._failures += 1
        if circuit is None and self._failures < most:
            return None
        seconds = min(2 * circuit.seconds, _LONGEST_PAUSE) if circuit else _FIRST_PAUSE
        now = self._clock()
        opened = self._open = OpenCircuit(reason, seconds, now, now + seconds)
        return opened

    def succeeded(self, started: float) -> bool:
        """Count an answer to a request made at `started`; return whether it closes the circuit."""
        circuit = self._open
        if circuit is not None and started < circuit.since:
            return False
        self._failures = 0
        self._open = None
        return circuit is not None
