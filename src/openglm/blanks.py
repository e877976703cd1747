"""Text with blanks <-> Part A and Part B: the one place that knows GLM's layout.

    text      x1 x2 [blank] x4 [blank]            (two blanks, to be filled by s and t)
    tokens    [CLS] x1 x2 [MASK] x4 [MASK] <eos> | <sop> s1 s2 s3    | <sop> t1
    targets   (none)                             | s1    s2 s3 <eop> | t1    <eop>
    position    0   1  2    3    4    5      6   |   3   3  3  3     |   5   5
    block pos   0   0  0    0    0    0      0   |   1   2  3  4     |   1   2

Pretraining lays out spans it has cut from a text, fine-tuning and scoring lay out answers
they were given, decoding lays out what it has written so far; all of them through
`lay_out`. `pad` and `pack` put layouts side by side in a batch. (Paper, section 2.1;
published checkpoints, section 6.4 of their format description.)

Works on numpy integers; knows nothing about tokenizers, models or torch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from .errors import InputError

Ids = NDArray[np.int64]
Flags = NDArray[np.bool_]

NO_DOCUMENT = -1  # document number of padding


class BlankKind(str, Enum):
    """The three kinds of blank, by the text that stands for them."""

    MASK = "[MASK]"  # a short span
    SMASK = "[sMASK]"  # one or more whole sentences
    GMASK = "[gMASK]"  # the rest of a document

    def __str__(self) -> str:
        return self.value


_BLANK = re.compile("|".join(re.escape(kind.value) for kind in BlankKind))


@dataclass(frozen=True)
class BlankedText:
    """A text cut at its blanks: literal, blank, literal, blank, ..., literal.

    Attributes:
        literals: the text between the blanks, one more than there are blanks; any of them
            may be empty. Their wording is never read as a blank or special token, so text
            from elsewhere is safe here.
        kinds: the kind of each blank.
    """

    literals: tuple[str, ...]
    kinds: tuple[BlankKind, ...]

    def __post_init__(self) -> None:
        if len(self.literals) != len(self.kinds) + 1:
            raise InputError(f"{len(self.kinds)} blanks need {len(self.kinds) + 1} literals, not {len(self.literals)}")

    @classmethod
    def parse(cls, text: str) -> BlankedText:
        """Cut `text` at every literal `[MASK]`, `[sMASK]` and `[gMASK]`."""
        return cls(tuple(_BLANK.split(text)), tuple(BlankKind(found) for found in _BLANK.findall(text)))

    def __str__(self) -> str:
        return self.substitute([kind.value for kind in self.kinds])[0]

    def substitute(self, fills: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
        """The text with its blanks replaced, and where each fill stands in it (start, end)."""
        if len(fills) != len(self.kinds):
            raise InputError(f"{len(fills)} fills for a text with {len(self.kinds)} blanks")
        parts, spans, end = [self.literals[0]], [], len(self.literals[0])
        for fill, literal in zip(fills, self.literals[1:], strict=True):
            spans.append((end, end + len(fill)))
            parts += [fill, literal]
            end += len(fill) + len(literal)
        return "".join(parts), spans


@dataclass(frozen=True)
class Markers:
    """The two token ids that frame Part B: `sop` opens every span, `eop` is its last target."""

    sop: int
    eop: int


@dataclass(frozen=True)
class Layout:
    """One text laid out, S tokens long.

    Attributes:
        input_ids: [S] Part A, then for each span `sop` and its tokens.
        targets: [S] what each token should predict; equal to the input over Part A, where
            nothing is predicted.
        loss_mask: [S] bool, True where the prediction counts (Part B).
        position_ids: [S] position in Part A; Part B repeats the position of its blank.
        block_position_ids: [S] 0 over Part A, then 1, 2, ... inside each span.
        separator: length of Part A.
        ends_with_eop: whether each span is closed by `eop` (the rest of a document is not).
    """

    input_ids: Ids
    targets: Ids
    loss_mask: Flags
    position_ids: Ids
    block_position_ids: Ids
    separator: int
    ends_with_eop: bool = True

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def spans(self) -> list[slice]:
        """Where each span lies within Part B, in order, its end token included."""
        block = self.block_position_ids[self.separator :]
        return [slice(int(a), int(b)) for a, b in pairwise([*np.flatnonzero(block == 1), len(block)])]


def build_part_a(
    literals: Sequence[Sequence[int]], kinds: Sequence[BlankKind], blank_ids: Sequence[int], *, cls: int, eos: int
) -> tuple[Ids, Ids]:
    """Part A of a text with blanks: `[CLS] ids blank ids ... <eos>`.

    The end token is left out when the text ends with `[gMASK]`: what follows is the rest
    of the document, which brings its own end.

    Args:
        literals: token ids between the blanks, one list more than there are blanks.
        kinds, blank_ids: kind and token id of each blank.

    Returns:
        Part A, [n], and the position of each blank in it, [k].
    """
    ids, positions = [cls, *literals[0]], []
    for blank_id, literal in zip(blank_ids, literals[1:], strict=True):
        positions.append(len(ids))
        ids += [blank_id, *literal]
    if not (kinds and kinds[-1] is BlankKind.GMASK and not len(literals[-1])):
        ids.append(eos)
    return np.array(ids, np.int64), np.array(positions, np.int64)


def lay_out(
    part_a: Ids,
    blank_positions: Sequence[int] | Ids,
    fills: Sequence[Sequence[int] | Ids],
    markers: Markers,
    *,
    ends_with_eop: bool = True,
) -> Layout:
    """Part A followed by its fills, in the order given.

    Args:
        part_a: token ids with one blank token per blank.
        blank_positions: for each fill, the index in `part_a` of the blank it belongs to.
            Fills may come in any order (pretraining shuffles them) and a blank may have none.
        fills: token ids of each fill, without markers; may be empty.
        markers: ids of `sop` and `eop`.
        ends_with_eop: close each fill with `eop`. If False the last token of the fill is
            itself the last target (the end of a document, closed by its own end token).

    Raises:
        InputError: fills and positions differ in number, a position outside Part A, or an
            empty fill that is not closed by `eop`.
    """
    if len(fills) != len(blank_positions):
        raise InputError(f"{len(fills)} fills for {len(blank_positions)} blank positions")
    if len(fills) and (np.min(blank_positions) < 0 or np.max(blank_positions) >= len(part_a)):
        raise InputError(f"a blank position lies outside Part A of {len(part_a)} tokens")
    fill_lengths = np.array([len(fill) for fill in fills], dtype=np.int64)
    lengths = fill_lengths + (1 if ends_with_eop else 0)
    if len(lengths) and lengths.min() < 1:
        raise InputError("an empty fill must be closed by eop")
    total = int(lengths.sum())
    first = np.cumsum(lengths) - lengths  # where each span starts in Part B
    block = np.arange(1, total + 1) - np.repeat(first, lengths)
    tokens = np.concatenate([np.empty(0, np.int64), *(np.asarray(fill, np.int64) for fill in fills)])
    b_targets = np.full(total, markers.eop, dtype=np.int64)
    is_fill = block <= np.repeat(fill_lengths, lengths)
    b_targets[is_fill] = tokens
    b_inputs = np.full(total, markers.sop, dtype=np.int64)
    b_inputs[1:] = b_targets[:-1]
    b_inputs[first] = markers.sop
    n = len(part_a)
    return Layout(
        input_ids=np.concatenate([part_a, b_inputs]),
        targets=np.concatenate([part_a, b_targets]),
        loss_mask=np.concatenate([np.zeros(n, np.bool_), np.ones(total, np.bool_)]),
        position_ids=np.concatenate([np.arange(n), np.repeat(np.asarray(blank_positions, np.int64), lengths)]),
        block_position_ids=np.concatenate([np.zeros(n, np.int64), block]),
        separator=n,
        ends_with_eop=ends_with_eop,
    )


def remove_spans(tokens: Ids, starts: Ids, ends: Ids, blank_ids: Ids | int) -> tuple[Ids, Ids]:
    """Replace spans by blank tokens.

    Args:
        tokens: [n] token ids.
        starts, ends: [k] bounds of the spans, `tokens[start:end]`, in text order, not
            empty and not overlapping (they may touch).
        blank_ids: the id that stands for every span, or one per span.

    Returns:
        Part A, [n - removed + k], and the position of each blank in it, [k].

    Raises:
        InputError: empty, overlapping or unordered spans, or not as many ends as starts.
    """
    starts, ends = np.asarray(starts, np.int64), np.asarray(ends, np.int64)
    if len(starts) != len(ends):
        raise InputError(f"{len(starts)} starts of spans, but {len(ends)} ends")
    if len(starts) and (
        np.any(ends <= starts) or np.any(starts[1:] < ends[:-1]) or starts[0] < 0 or ends[-1] > len(tokens)
    ):
        raise InputError("spans must lie inside the text, in order, not empty and not overlapping")
    change = np.zeros(len(tokens) + 1, np.int64)
    change[starts] += 1
    change[ends] -= 1
    keep = np.cumsum(change[:-1]) == 0
    keep[starts] = True
    marked = np.array(tokens, np.int64)
    marked[starts] = blank_ids
    lengths = ends - starts
    return marked[keep], starts - (np.cumsum(lengths - 1) - (lengths - 1))


def blank_out(
    tokens: Ids,
    starts: Ids,
    ends: Ids,
    blank_ids: Ids | int,
    markers: Markers,
    *,
    order: Ids | None = None,
    ends_with_eop: bool = True,
) -> Layout:
    """Cut spans from a text and lay them out as Part B: one pretraining sample.

    Args are those of `remove_spans` and `lay_out`; `order` is the permutation in which the
    spans are written in Part B (default: text order).
    """
    part_a, positions = remove_spans(tokens, starts, ends, blank_ids)
    chosen = np.arange(len(positions)) if order is None else order
    fills = [tokens[starts[k] : ends[k]] for k in chosen]
    return lay_out(part_a, positions[chosen], fills, markers, ends_with_eop=ends_with_eop)


@dataclass
class Writer:
    """Part B of one text while it is being written, blank after blank in text order.

    Says which token the model reads next, and where; feeding it step by step gives the
    Part B that `lay_out` gives at once.

    Attributes:
        blank_positions: position in Part A of each blank.
        fills: token ids written so far, a list per blank begun.
    """

    blank_positions: Sequence[int]
    markers: Markers
    fills: list[list[int]] = field(default_factory=lambda: [[]])

    @property
    def blank(self) -> int:
        """Index of the blank being written."""
        return len(self.fills) - 1

    @property
    def is_last(self) -> bool:
        """Whether no blank follows."""
        return len(self.fills) == len(self.blank_positions)

    def next_input(self) -> tuple[int, int, int]:
        """Token id, position and block position of the next input."""
        written = self.fills[-1]
        token = written[-1] if written else self.markers.sop
        return token, int(self.blank_positions[self.blank]), len(written) + 1

    def write(self, token: int) -> None:
        """Append a token to the current fill."""
        self.fills[-1].append(token)

    def next_blank(self) -> None:
        """Close the current fill (its `eop` is a target, never an input) and go to the next blank."""
        self.fills.append([])


def fills_of(layout: Layout) -> list[tuple[int, Ids]]:
    """The (blank position, token ids) of each span of Part B, in Part B order, `eop` left out."""
    targets = layout.targets[layout.separator :]
    positions = layout.position_ids[layout.separator :]
    close = 1 if layout.ends_with_eop else 0
    return [(int(positions[span.start]), targets[span.start : span.stop - close]) for span in layout.spans]


def put_back(layout: Layout) -> Ids:
    """The text before its spans were removed: the inverse of `blank_out`."""
    part_a = layout.input_ids[: layout.separator]
    pieces, done = [], 0
    for position, fill in sorted(fills_of(layout), key=lambda item: item[0]):
        pieces += [part_a[done:position], fill]
        done = position + 1
    return np.concatenate([*pieces, part_a[done:]])


@dataclass(frozen=True)
class Batch:
    """Layouts side by side, B rows of S tokens.

    Attributes:
        input_ids, targets: [B, S] int64; padding holds the padding id.
        loss_mask: [B, S] bool, False on padding.
        position_ids: [B, 2, S] int64, positions and block positions; 0 on padding.
        documents: [B, S] int64, the number of the layout within its row; `NO_DOCUMENT` on
            padding. Together with `in_part_a` it says who sees whom.
        in_part_a: [B, S] bool.
        placed: for each row, the indices of the layouts in it, in order.
    """

    input_ids: Ids
    targets: Ids
    loss_mask: Flags
    position_ids: Ids
    documents: Ids
    in_part_a: Flags
    placed: tuple[tuple[int, ...], ...] = field(default=())

    @property
    def used(self) -> float:
        """Share of positions that are not padding."""
        return float((self.documents != NO_DOCUMENT).mean())


def place(layouts: Sequence[Layout], rows: Sequence[Sequence[int]], length: int, pad_id: int) -> Batch:
    """Write the layouts into rows: row r holds `layouts[i]` for i in `rows[r]`, end to end.

    Raises:
        InputError: a row needs more than `length` tokens.
    """
    shape = (len(rows), length)
    ids, targets = np.full(shape, pad_id, np.int64), np.full(shape, pad_id, np.int64)
    loss, part_a = np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)
    positions = np.zeros((len(rows), 2, length), np.int64)
    documents = np.full(shape, NO_DOCUMENT, np.int64)
    for r, row in enumerate(rows):
        start = 0
        for number, i in enumerate(row):
            layout = layouts[i]
            end = start + len(layout)
            if end > length:
                raise InputError(f"a row of {length} tokens cannot hold {end}")
            ids[r, start:end] = layout.input_ids
            targets[r, start:end] = layout.targets
            loss[r, start:end] = layout.loss_mask
            positions[r, 0, start:end] = layout.position_ids
            positions[r, 1, start:end] = layout.block_position_ids
            documents[r, start:end] = number
            part_a[r, start : start + layout.separator] = True
            start = end
    return Batch(ids, targets, loss, positions, documents, part_a, tuple(tuple(row) for row in rows))


def pad(layouts: Sequence[Layout], pad_id: int, *, length: int | None = None) -> Batch:
    """One layout per row, padded on the right to the longest (or to `length`)."""
    longest = max((len(layout) for layout in layouts), default=0)
    return place(layouts, [[i] for i in range(len(layouts))], longest if length is None else length, pad_id)


def pack(layouts: Sequence[Layout], length: int, pad_id: int) -> Batch:
    """As many layouts per row of `length` tokens as fit (first fit, longest first).

    Raises:
        InputError: a single layout is longer than `length`.
    """
    free: list[int] = []
    rows: list[list[int]] = []
    for i in sorted(range(len(layouts)), key=lambda i: -len(layouts[i])):
        need = len(layouts[i])
        if need > length:
            raise InputError(f"a layout of {need} tokens does not fit a row of {length}")
        row = next((r for r, space in enumerate(free) if space >= need), None)
        if row is None:
            row = len(rows)
            rows.append([])
            free.append(length)
        rows[row].append(i)
        free[row] -= need
    return place(layouts, rows, length, pad_id)
