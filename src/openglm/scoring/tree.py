"""The Part B of many alternative answers as one tree: what they have in common stands in it once.

    text      x1 [MASK] x2
    answers   s t   |   s u   |   v
    tree      <sop> --> s            inputs; the last token of an answer is an input only
                   \\                if something is read behind it (its end, the next blank)
                    --> v

A node is an input token of Part B. It sees Part A, itself and its ancestors, exactly what it
would see in the layout of its answer alone, so hidden states are the same. Which inputs,
targets and positions an answer has is `blanks.lay_out`'s business: every path of the tree is
one of its layouts. Knows nothing about models, batches or text.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..blanks import Flags, Ids, Markers, PartA
from ..errors import InputError
from ..layouts import Layout, lay_out
from .question import Candidate

CACHED = 256  # trees kept: the candidates of a task are the same for every text


@dataclass(frozen=True)
class Tree:
    """T nodes, parents before children, and R reads: predictions that count.

    Attributes:
        input_ids: [T] token ids.
        blanks: [T] index of the blank a node belongs to; its position is that of the blank.
        block_position_ids: [T] 1 for `<sop>`, then 2, 3, ... along a fill.
        sees: [T, T] bool, True where the column is the row itself or one of its ancestors.
        read_at: [R] node at which a target is predicted.
        targets: [R] token ids.
        lengths: [C] reads of each candidate; their reads stand end to end, in order.
    """

    input_ids: Ids
    blanks: Ids
    block_position_ids: Ids
    sees: Flags
    read_at: Ids
    targets: Ids
    lengths: Ids

    def __len__(self) -> int:
        return len(self.input_ids)


@functools.lru_cache(maxsize=CACHED)
def tree_of(candidates: tuple[Candidate, ...], markers: Markers, ends: bool = True) -> Tree:
    """The tree of C answers to the same k blanks.

    Args:
        candidates: token ids of each answer, for every blank.
        markers: ids of `sop` and `eop`.
        ends: read the `eop` that closes each fill; if False only the tokens themselves.

    Raises:
        InputError: no candidates, unequal numbers of blanks, or an empty answer without `ends`,
            of which nothing would be read.
    """
    if not candidates:
        raise InputError("a question needs at least one candidate")
    blanks = len(candidates[0])
    known: dict[tuple[int, int, int, int], int] = {}
    read_at: list[int] = []
    targets: list[int] = []
    lengths: list[int] = []
    for fills in candidates:
        if len(fills) != blanks:
            raise InputError(f"candidates for {blanks} and for {len(fills)} blanks cannot share a text")
        # Part A is one token per blank here, so a position is the number of a blank.
        layout = lay_out(PartA(np.zeros(blanks, np.int64), np.arange(blanks)), fills, markers)
        node, before = -1, len(read_at)
        for key, target, counts in zip(_inputs(layout), layout.targets[blanks:], _counts(layout, ends), strict=True):
            node = known.setdefault((node, *key), len(known))
            if counts:
                read_at.append(node)
                targets.append(int(target))
        lengths.append(len(read_at) - before)
        if not lengths[-1]:
            raise InputError("an empty answer can be scored by its end only; score the ends")
    return _needed(list(known), np.array(read_at), np.array(targets), np.array(lengths))


def _inputs(layout: Layout) -> list[tuple[int, int, int]]:
    part_b = slice(layout.separator, None)
    columns = (layout.input_ids[part_b], layout.position_ids[part_b], layout.block_position_ids[part_b])
    return list(zip(*(column.tolist() for column in columns), strict=True))


def _counts(layout: Layout, ends: bool) -> Flags:
    counts = np.ones(len(layout) - layout.separator, np.bool_)
    if not ends:
        counts[[span.stop - 1 for span in layout.spans]] = False
    return counts


def _needed(nodes: Sequence[tuple[int, int, int, int]], read_at: Ids, targets: Ids, lengths: Ids) -> Tree:
    """The tree without the nodes behind which nothing is read."""
    parents, tokens, blanks, blocks = np.array(nodes, np.int64).T
    needed = np.zeros(len(nodes), np.bool_)
    needed[read_at] = True
    for node in range(len(nodes) - 1, 0, -1):
        needed[parents[node]] |= needed[node]
    sees = np.eye(len(nodes), dtype=np.bool_)
    for node in range(1, len(nodes)):
        sees[node] |= sees[parents[node]]
    number = np.cumsum(needed) - 1
    return Tree(
        tokens[needed], blanks[needed], blocks[needed], sees[needed][:, needed], number[read_at], targets, lengths
    )
