"""Layouts side by side: rows of a batch, padded or packed.

Knows nothing about what a layout means, only how long it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .blanks import Flags, Ids, Layout, Layouts, T, starts_of
from .errors import InputError

NO_DOCUMENT = -1  # document number of padding


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
    def used_mask(self) -> Flags:
        """[B, S] bool, False on padding."""
        return np.asarray(self.documents != NO_DOCUMENT)

    @property
    def used(self) -> float:
        """Share of positions that are not padding."""
        return float(self.used_mask.mean())


def place(layouts: Layouts | Sequence[Layout], rows: Sequence[Sequence[int]], length: int, pad_id: int) -> Batch:
    """Write the layouts into rows: row r holds `layouts[i]` for i in `rows[r]`, end to end.

    Raises:
        InputError: a row needs more than `length` tokens.
    """
    many = layouts if isinstance(layouts, Layouts) else Layouts.of(layouts)
    order = np.array([i for row in rows for i in row], np.int64)
    counts = np.array([len(row) for row in rows], np.int64)
    lengths = many.lengths[order]
    row_of = np.repeat(np.arange(len(rows)), counts)
    needed = np.bincount(row_of, weights=lengths, minlength=len(rows)).astype(np.int64)
    if len(needed) and needed.max() > length:
        raise InputError(f"a row of {length} tokens cannot hold {needed.max()}")
    used = np.arange(length) < needed[:, None]
    in_order = np.array_equal(order, np.arange(len(many)))
    if not in_order:
        moved = np.repeat(starts_of(many.lengths)[order] - starts_of(lengths), lengths) + np.arange(int(lengths.sum()))

    def rows_of(values: NDArray[T], padding: int) -> NDArray[T]:
        out = np.full(used.shape, padding, values.dtype)
        out[used] = values if in_order else values[moved]
        return out

    number = np.arange(len(order)) - np.repeat(starts_of(counts), counts)
    documents = np.full(used.shape, NO_DOCUMENT, np.int64)
    documents[used] = np.repeat(number, lengths)
    in_part_b = rows_of(many.loss_mask, 0)
    return Batch(
        input_ids=rows_of(many.input_ids, pad_id),
        targets=rows_of(many.targets, pad_id),
        loss_mask=in_part_b,
        position_ids=np.stack([rows_of(many.position_ids, 0), rows_of(many.block_position_ids, 0)], axis=1),
        documents=documents,
        in_part_a=used & ~in_part_b,
        placed=tuple(tuple(row) for row in rows),
    )


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
