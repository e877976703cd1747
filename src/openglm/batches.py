"""Rows of a batch: layouts side by side, padded or packed.

    layouts -> collate -> Batch of numpy arrays -> tensors.to_tensors -> Batch of tensors -> model, loss

Knows nothing about what a layout means, only how long it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from .errors import InputError
from .layouts import Layout, Layouts, T, count_up, starts_of

Array = TypeVar("Array")  # what a batch is made of: numpy arrays, or tensors
Arrays = NDArray[Any]

NO_DOCUMENT = -1  # document number of padding


@dataclass(frozen=True)
class Batch(Generic[Array]):
    """Layouts side by side, B rows of S tokens of which M predict.

    Attributes:
        input_ids, targets: [B, S] int64; padding holds the padding id.
        loss_mask: [B, S] bool, True where a token predicts; False on padding.
        position_ids: [B, 2, S] int64, positions and block positions; 0 on padding.
        documents: [B, S] int64, the number of the layout within its row; `NO_DOCUMENT` on
            padding. Together with `in_part_a` it says who sees whom.
        chosen: [M] int64, the tokens that predict, counted row by row.
        groups: [M] int64, the group under which each of their losses is reported.
        counts: M of each group; known on the host, so that nobody waits for a GPU to count.
        tokens: positions that are not padding.
        placed: for each row, the indices of the layouts in it, in order.
    """

    input_ids: Array
    targets: Array
    loss_mask: Array
    position_ids: Array
    documents: Array
    chosen: Array
    groups: Array
    counts: tuple[int, ...]
    tokens: int
    placed: tuple[tuple[int, ...], ...] = field(default=())

    @property
    def in_part_a(self) -> Array:
        """[B, S] bool: what has no block position is Part A, unless it is padding."""
        position_ids, documents = self._any.position_ids, self._any.documents
        out: Array = (position_ids[:, 1] == 0) & (documents != NO_DOCUMENT)
        return out

    @property
    def used_mask(self) -> Array:
        """[B, S] bool, False on padding."""
        out: Array = self._any.documents != NO_DOCUMENT
        return out

    @property
    def chosen_targets(self) -> Array:
        """[M] int64, what the tokens that predict should predict."""
        out: Array = self._any.targets.reshape(-1)[self.chosen]
        return out

    @property
    def positions(self) -> int:
        """B S."""
        rows, length = self._any.input_ids.shape
        return int(rows) * int(length)

    @property
    def used(self) -> float:
        """Share of positions that are not padding."""
        return self.tokens / max(1, self.positions)

    @property
    def _any(self) -> Any:
        """The same, for what numpy and torch spell alike and types do not tell."""
        return self

    def map(self, change: Callable[[Array], Any]) -> Batch[Any]:
        """The batch with every array in it changed."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        plain = ("counts", "tokens", "placed")
        return Batch(**{name: value if name in plain else change(value) for name, value in values.items()})

    def to(self, device: Any) -> Batch[Any]:
        """A batch of tensors on another device; from pinned memory without waiting."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))  # type: ignore[attr-defined]

    def pin_memory(self) -> Batch[Any]:
        """A batch of tensors in memory from which a GPU copies on its own."""
        return self.map(lambda tensor: tensor.pin_memory())  # type: ignore[attr-defined]


def collate(
    layouts: Layouts | Sequence[Layout],
    rows: Sequence[Sequence[int]],
    length: int,
    pad_id: int,
    *,
    groups: Sequence[int] | Arrays | None = None,
    group_count: int = 1,
) -> Batch[Arrays]:
    """Layouts as rows: row r holds `layouts[i]` for i in `rows[r]`, end to end.

    Args:
        length: S.
        pad_id: the id on padding.
        groups: [L] the group of each layout (default: all in group 0).
        group_count: how many groups there are.

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
    # Where each token of the rows, read one after the other, stands among those of the layouts.
    source = slice(None) if in_order else np.repeat(starts_of(many.lengths)[order], lengths) + count_up(lengths)

    def rows_of(values: NDArray[T], padding: int) -> NDArray[T]:
        out = np.full(used.shape, padding, values.dtype)
        out[used] = values[source]
        return out

    documents = np.full(used.shape, NO_DOCUMENT, np.int64)
    documents[used] = np.repeat(count_up(counts), lengths)
    loss_mask = rows_of(many.loss_mask, 0)
    group_of = np.zeros(len(many), np.int64) if groups is None else np.asarray(groups, np.int64)
    group_of_target = np.repeat(group_of[order], lengths)[many.loss_mask[source]]
    return Batch(
        input_ids=rows_of(many.input_ids, pad_id),
        targets=rows_of(many.targets, pad_id),
        loss_mask=loss_mask,
        position_ids=np.stack([rows_of(many.position_ids, 0), rows_of(many.block_position_ids, 0)], axis=1),
        documents=documents,
        chosen=np.flatnonzero(loss_mask),
        groups=group_of_target,
        counts=tuple(np.bincount(group_of_target, minlength=group_count).tolist()),
        tokens=int(needed.sum()),
        placed=tuple(tuple(row) for row in rows),
    )


def split_groups(batch: Batch[Arrays], apart: Sequence[int]) -> Batch[Arrays]:
    """The batch with the targets among `apart` in groups of their own, one more per group, behind the others."""
    known = len(batch.counts)
    groups = batch.groups + known * np.isin(batch.chosen_targets, apart)
    counts = tuple(np.bincount(groups, minlength=2 * known).tolist())
    return dataclasses.replace(batch, groups=groups, counts=counts)


def pad(layouts: Sequence[Layout], pad_id: int, *, length: int | None = None) -> Batch[Arrays]:
    """One layout per row, padded on the right to the longest (or to `length`)."""
    longest = max((len(layout) for layout in layouts), default=0)
    return collate(layouts, [[i] for i in range(len(layouts))], longest if length is None else length, pad_id)


def pack(layouts: Sequence[Layout], length: int, pad_id: int) -> Batch[Arrays]:
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
    return collate(layouts, rows, length, pad_id)


def group_by_length(lengths: Sequence[int] | Sequence[tuple[int, ...]], token_budget: int) -> Iterator[list[int]]:
    """Indices of items of similar length that may share a batch, the shortest first.

    A batch is as long as its longest item, and rows times length stays within `token_budget`; an
    item that is larger than that has a batch of its own.

    Args:
        lengths: of each item in tokens. Of items with several parts that are padded one by one
            (Part A and a tree of answers), the length of each part.
    """
    parts = [(each,) if isinstance(each, int) else each for each in lengths]
    group: list[int] = []
    widest: tuple[int, ...] = ()
    for i in sorted(range(len(parts)), key=lambda i: sum(parts[i])):
        wider = tuple(map(max, widest, parts[i])) if group else parts[i]
        if group and sum(wider) * (len(group) + 1) > token_budget:
            yield group
            group, wider = [], parts[i]
        group.append(i)
        widest = wider
    if group:
        yield group
