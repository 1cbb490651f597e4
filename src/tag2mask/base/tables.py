"""Tables of text: aligned columns for a terminal, and Markdown. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence

Rows = Sequence[Sequence[str]]
"""Cells of a table, its head first; all rows are equally long."""


def text_table(rows: Rows, *, right: bool = True, least: int = 0) -> list[str]:
    """Lines of aligned columns, two blanks apart.

    Every column but the first is at least `least` wide, and ends at the `right`, as numbers should.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    widths[1:] = [max(least, width) for width in widths[1:]]
    lines = []
    for first, *others in rows:
        cells = (cell.rjust(w) if right else cell.ljust(w) for cell, w in zip(others, widths[1:], strict=True))
        lines.append("  ".join([first.ljust(widths[0]), *cells]).rstrip())
    return lines


def markdown_table(rows: Rows) -> list[str]:
    """Lines of a Markdown table."""
    head, *others = [f"| {' | '.join(row)} |" for row in rows]
    return [head, "|" + "---|" * len(rows[0]), *others]
