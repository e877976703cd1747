"""Attention over keys and values in pages, by operations of torch.

Attention of one new token per sequence is two weighted sums of rows, which is what
`embedding_bag` computes, straight from the pages and at the speed of the memory:

    scores[w] = sum over h of q[h] K[h, w]         keys lie as  [page, head, H, PAGE_SIZE]
    mixed[h]  = sum over w of p[w] V[w, h]         values lie as [page, head, PAGE_SIZE, H]

Each sum is over one sequence's own rows in their order, so a sequence gets the same numbers
alone and among others, up to how the matrix products around it are rounded.

Knows pages and shapes; nothing about who sees whom, or how a token is chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..layouts import Layout
from ..network.attention import attend
from .pages import PAGE_SIZE, BlockTable, PagePool, page_numbers

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask


class PrefillCache:
    """The cache of a pass that reads whole texts: attends among them and files them in pages.

    Args:
        tables: of each text.
        layouts: of each text; shorter ones are padded at their ends.
    """

    def __init__(self, pages: PagePool, tables: Sequence[BlockTable], layouts: Sequence[Layout]) -> None:
        self.pages = pages
        self._spare = -max(len(layout) for layout in layouts) % PAGE_SIZE
        places = np.arange(PAGE_SIZE)
        self._page = torch.tensor([page for table in tables for page in table.pages])
        column = np.concatenate([np.arange(len(table.pages)) for table in tables])
        self._row = torch.from_numpy(np.repeat(np.arange(len(tables)), [len(table.pages) for table in tables]))
        self._column = torch.from_numpy(column[:, None] * PAGE_SIZE + places)

    def attend(
        self, layer: int, q_BNSH: Tensor, k_BNSH: Tensor, v_BNSH: Tensor, mask: Tensor | BlockMask | None
    ) -> Tensor:
        """As `Cache`; nothing was read before."""
        mixed = attend(q_BNSH, k_BNSH, v_BNSH, mask)
        # [B, N, S, H] -> one [N, PAGE_SIZE, H] for each page of each text
        k, v = (F.pad(self.pages.narrowed(x), (0, 0, 0, self._spare)) for x in (k_BNSH, v_BNSH))
        index = (self._row[:, None], slice(None), self._column)
        self.pages.values[layer][self._page] = v[index].transpose(1, 2)
        self.pages.keys[layer][self._page] = k[index].permute(0, 2, 3, 1)
        return mixed

    def advance(self, tokens: int) -> None:
        """Nothing to count: `BlockTable` has the lengths."""


class DecodeCache:
    """The cache of a pass that reads one token of each sequence.

    Args:
        tables: of each sequence; the token comes behind what they hold.
    """

    def __init__(self, pages: PagePool, tables: Sequence[BlockTable]) -> None:
        self.pages = pages
        where = torch.tensor([pages.append_slot(table) for table in tables], dtype=torch.int64)
        R, N, H = len(tables), pages.heads, pages.head_size
        # Where the new keys and values go, as numbers of elements and of rows.
        heads = (where[:, :1] * N + torch.arange(N)).view(-1, 1)
        place = where[:, 1].repeat_interleave(N)
        self._new_keys = ((heads * H + torch.arange(H)) * PAGE_SIZE + place[:, None]).view(-1)
        self._new_values = heads[:, 0] * PAGE_SIZE + place
        numbers = page_numbers(tables)
        columns = numbers.shape[1]
        # Which rows each weighted sum adds up: [R, N, pages, H] rows of keys, [R, N, longest] of values.
        page_and_head = (
            torch.from_numpy(numbers)[:, None, :, None] * N + torch.arange(N, dtype=torch.int32)[:, None, None]
        )
        self._key_rows = (page_and_head * H + torch.arange(H, dtype=torch.int32)).view(-1)
        lengths = [table.length + 1 for table in tables]
        self._longest = max(lengths)
        value_rows = (page_and_head * PAGE_SIZE + torch.arange(PAGE_SIZE, dtype=torch.int32)).view(R, N, -1)
        self._value_rows = value_rows[:, :, : self._longest].reshape(-1)
        self._key_sums = torch.arange(0, len(self._key_rows), H, dtype=torch.int32)
        self._value_sums = torch.arange(0, len(self._value_rows), self._longest, dtype=torch.int32)
        self._queries = torch.empty((R, N, columns, H), dtype=pages.dtype)  # a copy for each page
        self._hidden: Tensor | None = None
        if min(lengths) < self._longest:
            hidden = torch.arange(self._longest) >= torch.tensor(lengths)[:, None]
            self._hidden = torch.zeros(hidden.shape, dtype=pages.dtype).masked_fill_(hidden, -torch.inf)[:, None]

    def attend(
        self, layer: int, q_BNSH: Tensor, k_BNSH: Tensor, v_BNSH: Tensor, mask: Tensor | BlockMask | None
    ) -> Tensor:
        """As `Cache`, with S = 1; every sequence sees all of its own tokens, `mask` is not looked at."""
        keys, values = self.pages.keys[layer], self.pages.values[layer]
        R, N, _, H = q_BNSH.shape
        keys.put_(self._new_keys, self.pages.narrowed(k_BNSH))
        values.view(-1, H).index_copy_(0, self._new_values, self.pages.narrowed(v_BNSH).reshape(-1, H))
        queries = torch.mul(q_BNSH.detach().expand_as(self._queries), H**-0.5, out=self._queries)
        scores = sums_of_rows(keys.view(-1, PAGE_SIZE), self._key_rows, self._key_sums, queries)
        scores = scores.view(R, N, -1)[:, :, : self._longest]
        if self._hidden is not None:
            scores = scores + self._hidden
        mixed = sums_of_rows(values.view(-1, H), self._value_rows, self._value_sums, scores.softmax(-1))
        return mixed.view(R, N, 1, H).to(q_BNSH.dtype)

    def advance(self, tokens: int) -> None:
        """Nothing to count: `BlockTable` has the lengths."""


def sums_of_rows(table: Tensor, rows: Tensor, starts: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of rows of a table, [rows, W] -> [sums, W].

    Args:
        rows: of all sums, one sum after the other.
        starts: where each sum begins in `rows`.
        weights: as many as `rows`, in the type of `table`.
    """
    # What F.embedding_bag calls, with starts that need not be made anew each time.
    return torch.embedding_bag(table, rows, starts, False, 0, False, weights.view(-1))[0]
