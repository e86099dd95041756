"""Results as tables: text in a console, HTML in a notebook, plain values for a program."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Report", "Table"]


@dataclass(frozen=True)
class Table:
    """Rows under column names.

    Attributes
    ----------
    title
        Heading; may be empty.
    columns
        Names of the columns; empty for a table of names and values.
    rows
        Cells, as text.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def to_text(self) -> str:
        """Return the table as aligned text, with numbers to the right."""
        lines = [*([self.columns] if self.columns else []), *self.rows]
        widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))] if lines else []
        right = [
            column > 0 and all(row[column][:1].isdigit() or not row[column] for row in self.rows)
            for column in range(len(widths))
        ]
        text = [
            "  ".join(
                cell.rjust(width) if is_right else cell.ljust(width)
                for cell, width, is_right in zip(line, widths, right, strict=True)
            ).rstrip()
            for line in lines
        ]
        return "\n".join([*([self.title] if self.title else []), *(f"  {line}" for line in text)])

    def to_html(self) -> str:
        """Return the table as HTML, with the cells escaped."""

        def line(cells: Sequence[str], tag: str) -> str:
            return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

        head = f"<thead>{line(self.columns, 'th')}</thead>" if self.columns else ""
        body = "".join(line(row, "td") for row in self.rows)
        return f"<table><caption>{html.escape(self.title)}</caption>{head}<tbody>{body}</tbody></table>"


class Report:
    """A dataclass that shows itself as tables."""

    def to_dict(self) -> dict[str, Any]:
        """Return the report as a dict of JSON values."""
        return asdict(self)  # type: ignore[call-overload, no-any-return]  # every subclass is a dataclass

    def tables(self) -> list[Table]:
        """Return the report as tables, for people to read."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return "\n".join(table.to_text() for table in self.tables())

    def _repr_html_(self) -> str:
        return "".join(table.to_html() for table in self.tables())
