"""Part A and Part B: the one place that knows GLM's layout.

    text      x1 x2 [blank] x4 [blank]            (two blanks, to be filled by s and t)
    tokens    [CLS] x1 x2 [MASK] x4 [MASK] <eos> | <sop> s1 s2 s3    | <sop> t1
    targets   (none)                             | s1    s2 s3 <eop> | t1    <eop>
    position    0   1  2    3    4    5      6   |   3   3  3  3     |   5   5
    block pos   0   0  0    0    0    0      0   |   1   2  3  4     |   1   2

Pretraining lays out spans it has cut from a text, fine-tuning and scoring lay out answers
they were given, decoding lays out what it has written so far; all of them through
`_part_b` and `_join`. Which position a token has is decided here alone. `openglm.batches`
puts layouts side by side. (Paper, section 2.1; published checkpoints, section 6.4 of their
format description.)

Works on numpy integers; knows nothing about tokenizers, models or torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from .blanks import Flags, Ids, Markers, PartA
from .errors import InputError

T = TypeVar("T", bound=np.generic)


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
    def part_a(self) -> PartA:
        """Part A, with the blanks that have a fill."""
        blanks = self.position_ids[self.separator :][self.block_position_ids[self.separator :] == 1]
        return PartA(self.input_ids[: self.separator], np.unique(blanks))

    @property
    def spans(self) -> list[slice]:
        """Where each span lies within Part B, in order, its end token included."""
        block = self.block_position_ids[self.separator :]
        return [slice(int(a), int(b)) for a, b in pairwise([*np.flatnonzero(block == 1), len(block)])]


@dataclass(frozen=True)
class Layouts:
    """Many layouts end to end, T tokens in all; `layouts[i]` is one of them.

    Attributes:
        input_ids, targets, loss_mask, position_ids, block_position_ids: [T], as in `Layout`.
        lengths: [L] tokens of each layout.
        separators: [L] length of each Part A.
        ends_with_eop: [L] bool, as in `Layout`.
    """

    input_ids: Ids
    targets: Ids
    loss_mask: Flags
    position_ids: Ids
    block_position_ids: Ids
    lengths: Ids
    separators: Ids
    ends_with_eop: Flags

    @classmethod
    def of(cls, layouts: Sequence[Layout]) -> Layouts:
        """Join single layouts."""

        def joined(name: str, kind: type[T]) -> NDArray[T]:
            return np.concatenate([np.empty(0, kind), *(getattr(layout, name) for layout in layouts)])

        return cls(
            input_ids=joined("input_ids", np.int64),
            targets=joined("targets", np.int64),
            loss_mask=joined("loss_mask", np.bool_),
            position_ids=joined("position_ids", np.int64),
            block_position_ids=joined("block_position_ids", np.int64),
            lengths=np.array([len(layout) for layout in layouts], np.int64),
            separators=np.array([layout.separator for layout in layouts], np.int64),
            ends_with_eop=np.array([layout.ends_with_eop for layout in layouts], np.bool_),
        )

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, i: int) -> Layout:
        i = range(len(self))[i]
        start = int(self.lengths[:i].sum())
        here = slice(start, start + int(self.lengths[i]))
        return Layout(
            input_ids=self.input_ids[here],
            targets=self.targets[here],
            loss_mask=self.loss_mask[here],
            position_ids=self.position_ids[here],
            block_position_ids=self.block_position_ids[here],
            separator=int(self.separators[i]),
            ends_with_eop=bool(self.ends_with_eop[i]),
        )

    def __iter__(self) -> Iterator[Layout]:
        return (self[i] for i in range(len(self)))


def starts_of(lengths: Ids) -> Ids:
    """Where each of several pieces begins when they stand end to end."""
    return np.cumsum(lengths) - lengths


def count_up(lengths: Ids) -> Ids:
    """0, 1, ..., n - 1 for each length n, end to end."""
    return np.arange(int(lengths.sum())) - np.repeat(starts_of(lengths), lengths)


def _part_b(source: Ids, starts: Ids, lengths: Ids, closed: Flags, markers: Markers) -> tuple[Ids, Ids, Ids]:
    """Inputs, targets and block positions of spans of `source`, end to end.

    Without arrays it would read

        for start, length, is_closed in zip(starts, lengths, closed):
            span = source[start : start + length]
            own = [*span, eop] if is_closed else span
            targets += own
            inputs += [sop, *own[:-1]]
            blocks += range(1, len(own) + 1)
    """
    sizes = lengths + closed
    blocks = count_up(sizes) + 1
    # A closed span reads one token too many, behind the source at the worst; `eop` takes its place.
    targets = np.append(source, markers.eop)[np.repeat(starts, sizes) + blocks - 1]
    targets[(np.cumsum(sizes) - 1)[closed]] = markers.eop
    inputs = np.empty_like(targets)
    inputs[1:] = targets[:-1]
    inputs[blocks == 1] = markers.sop
    return inputs, targets, blocks


def _join(
    part_a: Ids, a_sizes: Ids, part_b: tuple[Ids, Ids, Ids], b_positions: Ids, b_sizes: Ids, ends_with_eop: Flags
) -> Layouts:
    """L layouts from the Part A of all of them and the Part B of all of them.

    Without arrays it would read

        for own_a, (own_inputs, own_targets, own_blocks), own_positions in zip(...):
            input_ids += own_a + own_inputs
            targets += own_a + own_targets
            loss_mask += [False] * len(own_a) + [True] * len(own_inputs)
            position_ids += [*range(len(own_a)), *own_positions]
            block_position_ids += [0] * len(own_a) + own_blocks
    """
    inputs, targets, blocks = part_b
    in_b = np.repeat(np.tile([False, True], len(a_sizes)), np.stack([a_sizes, b_sizes], 1).ravel())
    in_a = ~in_b

    def merged(of_a: Ids | int, of_b: Ids) -> Ids:
        out = np.empty(len(in_b), np.int64)
        out[in_a], out[in_b] = of_a, of_b
        return out

    return Layouts(
        input_ids=merged(part_a, inputs),
        targets=merged(part_a, targets),
        loss_mask=in_b,
        position_ids=merged(count_up(a_sizes), b_positions),
        block_position_ids=merged(0, blocks),
        lengths=a_sizes + b_sizes,
        separators=a_sizes,
        ends_with_eop=ends_with_eop,
    )


def lay_out(
    part_a: PartA,
    fills: Sequence[Sequence[int] | Ids],
    markers: Markers,
    *,
    blanks: Sequence[int] | Ids | None = None,
    ends_with_eop: bool = True,
) -> Layout:
    """Part A followed by its fills, in the order given.

    Args:
        fills: token ids of each fill, without markers; may be empty.
        markers: ids of `sop` and `eop`.
        blanks: for each fill, the index of the blank it belongs to (default: one for each
            blank, in order). Fills may come in any order (pretraining shuffles them) and a
            blank may have none; `[]` gives Part A alone.
        ends_with_eop: close each fill with `eop`. If False the last token of the fill is
            itself the last target (the end of a document, closed by its own end token).

    Raises:
        InputError: fills and blanks differ in number, a blank that Part A does not have, or an
            empty fill that is not closed by `eop`.
    """
    count = len(part_a.blank_positions)
    of_fills = np.arange(count) if blanks is None else np.asarray(blanks, np.int64)
    if len(fills) != len(of_fills):
        raise InputError(f"{len(fills)} fills for {len(of_fills)} blanks")
    if len(fills) and (of_fills.min() < 0 or of_fills.max() >= count):
        raise InputError(f"Part A has {count} blanks; a fill belongs to one of them")
    lengths = np.array([len(fill) for fill in fills], dtype=np.int64)
    if not ends_with_eop and len(lengths) and not lengths.min():
        raise InputError("an empty fill must be closed by eop")
    tokens = np.concatenate([np.empty(0, np.int64), *(np.asarray(fill, np.int64) for fill in fills)])
    closed = np.full(len(fills), ends_with_eop)
    part_b = _part_b(tokens, starts_of(lengths), lengths, closed, markers)
    positions = np.repeat(part_a.blank_positions[of_fills], lengths + closed)
    return _join(
        part_a.ids, np.array([len(part_a)]), part_b, positions, np.array([len(positions)]), np.array([ends_with_eop])
    )[0]


def remove_spans(tokens: Ids, starts: Ids, ends: Ids, blank_ids: Ids | int) -> PartA:
    """Replace spans by blank tokens.

    Args:
        tokens: [n] token ids.
        starts, ends: [k] bounds of the spans, `tokens[start:end]`, in text order, not
            empty and not overlapping (they may touch).
        blank_ids: the id that stands for every span, or one per span.

    Returns:
        Part A of n - removed + k tokens; its blanks are the spans.

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
    return PartA(marked[keep], starts - starts_of(lengths - 1))


def blank_out_many(
    texts: Ids,
    text_lengths: Ids,
    starts: Ids,
    ends: Ids,
    blank_ids: Ids | int,
    markers: Markers,
    *,
    order: Ids | None = None,
    ends_with_eop: Flags | None = None,
) -> Layouts:
    """Cut spans from many texts at once and lay each text out: pretraining samples.

    Args:
        texts: token ids of all texts, end to end.
        text_lengths: [L] tokens of each text.
        starts, ends, blank_ids: spans of all texts as in `remove_spans`, counted from the
            start of `texts`; none reaches over the end of its text.
        markers: ids of `sop` and `eop`.
        order: permutation of the spans in which Part B holds them, text by text (default:
            text order).
        ends_with_eop: [L] bool, as in `lay_out` (default: all).

    Raises:
        InputError: as in `remove_spans`.
    """
    part_a = remove_spans(texts, starts, ends, blank_ids)
    owner = np.searchsorted(starts_of(text_lengths), starts, side="right") - 1
    lengths = ends - starts
    removed = np.bincount(owner, weights=lengths - 1, minlength=len(text_lengths)).astype(np.int64)
    a_sizes = text_lengths - removed
    positions = part_a.blank_positions - starts_of(a_sizes)[owner]  # counted from the start of its own text
    closes = np.ones(len(text_lengths), np.bool_) if ends_with_eop is None else ends_with_eop
    if order is not None:
        owner, starts, lengths, positions = owner[order], starts[order], lengths[order], positions[order]
    closed = closes[owner]
    sizes = lengths + closed
    b_sizes = np.bincount(owner, weights=sizes, minlength=len(text_lengths)).astype(np.int64)
    part_b = _part_b(texts, starts, lengths, closed, markers)
    return _join(part_a.ids, a_sizes, part_b, np.repeat(positions, sizes), b_sizes, closes)


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
    """Cut spans from one text and lay it out; see `blank_out_many`."""
    size, closes = np.array([len(tokens)]), np.array([ends_with_eop])
    starts, ends = np.asarray(starts, np.int64), np.asarray(ends, np.int64)
    return blank_out_many(tokens, size, starts, ends, blank_ids, markers, order=order, ends_with_eop=closes)[0]


@dataclass
class PartBState:
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
