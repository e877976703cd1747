"""Markdown that reports, model cards and tables of results are made of. Knows text only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def markdown_table(
    headings: Sequence[Any], rows: Sequence[Sequence[Any]], *, right: Sequence[int] | None = None
) -> str:
    """A table; what stands in a cell keeps to one line, and its bars are escaped.

    Args:
        right: columns that are aligned to the right. Given, if only as (), all columns are padded
            to one width, for readers of the plain text.
    """
    lines = [[" ".join(str(cell).split()).replace("|", "\\|") for cell in line] for line in [headings, *rows]]
    if right is None:
        return "\n".join(map(_line, [lines[0], ["---"] * len(headings), *lines[1:]]))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    pad = [str.rjust if i in right else str.ljust for i in range(len(widths))]
    padded = [[fill(cell, width) for fill, cell, width in zip(pad, line, widths, strict=True)] for line in lines]
    rule = "|".join("-" * (width + 1) + ":" if i in right else "-" * (width + 2) for i, width in enumerate(widths))
    return "\n".join([_line(padded[0]), f"|{rule}|", *map(_line, padded[1:])])


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
