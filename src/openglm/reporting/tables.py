"""Markdown tables, for reports, model cards and results. Knows nothing about what is in them."""

from __future__ import annotations

from collections.abc import Sequence


def markdown_table(rows: Sequence[Sequence[str]], *, right: Sequence[int] = (), aligned: bool = False) -> str:
    """A Markdown table; the first row is its head.

    Args:
        rows: cells; bars in them are escaped, and ends of lines become spaces.
        right: columns that are aligned to the right.
        aligned: pad the cells, so that the table reads well as plain text too.

    Example:
        >>> print(markdown_table([["task", "%"], ["a|b", "7"]], right=(1,), aligned=True))
        | task |  % |
        |------|---:|
        | a\\|b |  7 |
    """
    cells = [[" ".join(cell.split()).replace("|", "\\|") for cell in row] for row in rows]
    if not aligned:
        lines = ["| " + " | ".join(row) + " |" for row in cells]
        rule = "| " + " | ".join("---:" if i in right else "---" for i in range(len(cells[0]))) + " |"
        return "\n".join([lines[0], rule, *lines[1:]])
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    adjusted = [[row[i].rjust(w) if i in right else row[i].ljust(w) for i, w in enumerate(widths)] for row in cells]
    lines = ["| " + " | ".join(row) + " |" for row in adjusted]
    rule = "|".join("-" * (width + 1) + ":" if i in right else "-" * (width + 2) for i, width in enumerate(widths))
    return "\n".join([lines[0], f"|{rule}|", *lines[1:]])
