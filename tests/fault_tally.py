"""What the fault suite tried and what came of it, for the table that ends a run."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Line:
    """One kind of fault in one test."""

    fault: str
    test: str
    tried: int
    wrong_values: int
    exceptions: int
    bytes_lost: int


LINES: list[Line] = []


@dataclass(frozen=True)
class Faults:
    """The tally of one test."""

    test: str
    is_long: bool
    lines: list[Line] = field(default_factory=lambda: LINES)

    def times(self, bounded: int, long: int) -> int:
        """Return how often to try: `bounded` in `make test`, `long` in `make test-all`."""
        return long if self.is_long else bounded

    def survived(
        self, fault: str, tried: int, *, wrong_values: int = 0, exceptions: int = 0, bytes_lost: int = 0
    ) -> None:
        """Enter a line into the table, and fail if anything was wrong, lost or raised.

        Parameters
        ----------
        fault
            What was done to the cache, in a few words.
        tried
            How often.
        wrong_values
            Arrays that were given out and are not what the processor computes.
        exceptions
            Exceptions that left the cache for the fault's sake.
        bytes_lost
            Bytes of entries that were stored, untouched by the fault, and are gone.
        """
        self.lines.append(Line(fault, self.test, tried, wrong_values, exceptions, bytes_lost))
        assert tried > 0
        assert (wrong_values, exceptions, bytes_lost) == (0, 0, 0), fault


def table() -> list[str]:
    """Return the table of all lines so far, with a sum; nothing where there is none."""
    if not LINES:
        return []
    total = Line(
        "all",
        "",
        sum(line.tried for line in LINES),
        sum(line.wrong_values for line in LINES),
        sum(line.exceptions for line in LINES),
        sum(line.bytes_lost for line in LINES),
    )
    head = f"{'fault':58} {'tried':>9} {'survived':>9} {'wrong':>6} {'raised':>6} {'bytes lost':>10}  test"
    return [head, *(_row(line) for line in [*LINES, total])]


def _row(line: Line) -> str:
    survived = line.tried - line.wrong_values - line.exceptions
    return (
        f"{line.fault[:58]:58} {line.tried:9,} {survived:9,} {line.wrong_values:6} {line.exceptions:6} "
        f"{line.bytes_lost:10,}  {line.test.rpartition('/')[2]}"
    )
