"""Training samples as people can read them: what is blanked out, Part A, Part B, positions.

Knows how to show a layout, not how it was made.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from ..blanks import Ids
from ..layouts import Layout, fills_of, put_back
from ..tokenizer import Tokenizer

COLOURS = ("\033[1;32m", "\033[1;36m", "\033[1;35m", "\033[1;33m", "\033[1;34m", "\033[1;31m")
RESET = "\033[0m"


def show_sample(layout: Layout, objective: str, tokenizer: Tokenizer, *, colours: bool = False) -> str:
    """Several lines: the whole text with its spans marked, Part A, and a table per span.

    Args:
        colours: colour each span (ANSI); without colours spans stand in 【 】.
    """
    spans = fills_of(layout)
    part_b = len(layout) - layout.separator
    head = (
        f"{objective}: {len(layout)} tokens = Part A {layout.separator} + Part B {part_b}, "
        f"{len(spans)} span{'s' if len(spans) != 1 else ''}"
    )
    lines = [head, "", "text    " + _marked_text(layout, spans, tokenizer, colours)]
    lines.append("part A  " + visible(tokenizer.decode(layout.input_ids[: layout.separator].tolist())))
    for number, ((position, _), span) in enumerate(zip(spans, layout.spans, strict=True)):
        rows = slice(layout.separator + span.start, layout.separator + span.stop)
        lines += ["", f"part B  span {number + 1} of {len(spans)}, for the blank at position {position}"]
        lines += _table(layout, rows, tokenizer, _colour(number, colours))
    return "\n".join(lines) + "\n"


def _colour(number: int, colours: bool) -> str:
    return COLOURS[number % len(COLOURS)] if colours else ""


def _marked_text(layout: Layout, spans: Sequence[tuple[int, Ids]], tokenizer: Tokenizer, colours: bool) -> str:
    original = put_back(layout)
    parts, done, shift = [], 0, 0
    for k, (position, fill) in sorted(enumerate(spans), key=lambda item: item[1][0]):
        start = position + shift
        parts.append(visible(tokenizer.decode(original[done:start].tolist())))
        text = visible(tokenizer.decode(fill.tolist()))
        parts.append(f"{_colour(k, True)}{text}{RESET}" if colours else f"【{text}】")
        done = start + len(fill)
        shift += len(fill) - 1
    parts.append(visible(tokenizer.decode(original[done:].tolist())))
    return "".join(parts)


def _table(layout: Layout, rows: slice, tokenizer: Tokenizer, colour: str) -> list[str]:
    columns = [
        [tokenizer.token_text(int(t)) for t in layout.input_ids[rows]],
        [tokenizer.token_text(int(t)) for t in layout.targets[rows]],
        [str(p) for p in layout.position_ids[rows]],
        [str(p) for p in layout.block_position_ids[rows]],
    ]
    cells = [[visible(cell) for cell in row] for row in columns]
    widths = [max(_width(row[i]) for row in cells) for i in range(len(cells[0]))]
    names = ("input", "target", "position", "block")
    out = []
    for name, row in zip(names, cells, strict=True):
        padded = (cell + " " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True))
        text = " | ".join(padded).rstrip()
        out.append(f"        {name:9} " + (f"{colour}{text}{RESET}" if colour and name == "target" else text))
    return out


def visible(text: str) -> str:
    """Newlines and other control characters by a sign, so that a sample stays on its line."""
    return "".join("⏎" if c == "\n" else "·" if unicodedata.category(c) == "Cc" else c for c in text)


def _width(text: str) -> int:
    """Columns a terminal needs: two for East Asian wide characters."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 0 if unicodedata.combining(c) else 1 for c in text)
