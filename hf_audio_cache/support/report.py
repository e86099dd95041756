"""What a result looks like as a table: text in a console, HTML in a notebook, plain values for a program."""

from __future__ import annotations

import html
import itertools
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

_NARROWEST = 12  # characters of a column


@dataclass(frozen=True)
class Table:
    """Rows under column names."""

    title: str  # may be empty
    columns: Sequence[str]  # empty for a table of names and values
    rows: Sequence[Sequence[str]]

    def to_text(self, width: int | None = None) -> str:
        """Return the table as aligned text, with numbers to the right.

        In a `width`, wide columns are wrapped between words; a word that is too long loses its end.
        """
        lines = [*([self.columns] if self.columns else []), *self.rows]
        widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))] if lines else []
        right = [
            column > 0 and all(row[column][:1].isdigit() or not row[column] for row in self.rows)
            for column in range(len(widths))
        ]
        if width is not None:
            for _ in range(sum(widths) + 2 * len(widths) - width):
                widest = widths.index(max(widths))
                widths[widest] -= widths[widest] > _NARROWEST
        text = [
            "  ".join(
                cell.rjust(size) if is_right else cell.ljust(size)
                for cell, size, is_right in zip(part, widths, right, strict=True)
            ).rstrip()
            for line in lines
            for part in itertools.zip_longest(*map(_wrapped, line, widths), fillvalue="")
        ]
        title = self.title
        if width is not None and len(title) > width:  # of names both ends matter
            title = f"{title[: width // 2]}…{title[-(width - width // 2 - 1) :]}"
        return "\n".join([*([title] if title else []), *(f"  {line}" for line in text)])

    def to_html(self) -> str:
        """Return the table as HTML, with the cells escaped."""

        def line(cells: Sequence[str], tag: str) -> str:
            return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

        head = f"<thead>{line(self.columns, 'th')}</thead>" if self.columns else ""
        body = "".join(line(row, "td") for row in self.rows)
        return f"<table><caption>{html.escape(self.title)}</caption>{head}<tbody>{body}</tbody></table>"


def _wrapped(cell: str, width: int) -> list[str]:
    """Return a cell in lines of at most this width."""
    lines = textwrap.wrap(cell, width, break_long_words=False, break_on_hyphens=False) if len(cell) > width else [cell]
    return [line if len(line) <= width else f"{line[: width - 1]}…" for line in lines]


class Report:
    """A dataclass that shows itself as tables."""

    def to_dict(self) -> dict[str, Any]:
        """Return the report as a dict of JSON values."""
        return asdict(self)  # type: ignore[call-overload, no-any-return]  # every subclass is a dataclass

    def tables(self) -> list[Table]:
        """Return the report as tables, for people to read."""
        raise NotImplementedError

    def to_text(self, width: int | None = None) -> str:
        """Return the tables as text, of at most this width."""
        return "\n".join(table.to_text(width) for table in self.tables())

    def __repr__(self) -> str:
        return self.to_text()

    def _repr_html_(self) -> str:
        return "".join(table.to_html() for table in self.tables())
