"""Keys and values of many texts on a CPU, in pages that texts share.

A text holds a list of pages of `WIDTH` tokens each. A fork, such as a beam, holds the same
pages; the page that one of them writes to next is copied first. Freed pages are used again.

Attention of one new token per text is two weighted sums of rows, which is what
`embedding_bag` computes, straight from the pages and at the speed of the memory:

    scores[w] = sum over h of q[h] K[h, w]         keys lie as  [page, head, H, WIDTH]
    mixed[h]  = sum over w of p[w] V[w, h]         values lie as [page, head, WIDTH, H]

Each sum is over one text's own rows in their order, so a text gets the same numbers alone
and among others, up to how the matrix products around it are rounded.

Knows pages and shapes; nothing about who sees whom, or how a token is chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..blanks import Layout
from ..network.attention import attend
from ..network.config import GLMConfig

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

WIDTH = 64  # tokens of a page: narrow pages waste little, wide ones make longer rows to read
KEPT_BYTES = 128 * 2**20  # pages that stay when no text is held; more are given back to the system
NOTHING = 0  # the page that stands where a text has none


@dataclass
class Held:
    """Pages of one text and how many tokens they hold."""

    pages: list[int] = field(default_factory=list)
    length: int = 0


class Pages:
    """The pages of all texts, layer by layer.

    Args:
        config: of the model.
        dtype: of what is kept; float32, or float16 for a model that computes in less.
    """

    def __init__(self, config: GLMConfig, dtype: torch.dtype) -> None:
        self.heads, self.head_size = config.num_attention_heads, config.hidden_size // config.num_attention_heads
        self.layers, self.dtype = config.num_layers, dtype
        self._begin()

    def _begin(self) -> None:
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self._uses = np.zeros(0, np.int32)
        self._free: list[int] = []
        self._grow(16)
        self._uses[NOTHING] = 1
        self._free.remove(NOTHING)

    @property
    def in_use(self) -> int:
        """Pages that some text holds."""
        return len(self._uses) - len(self._free) - 1

    @staticmethod
    def bytes_per_token(config: GLMConfig, dtype: torch.dtype) -> int:
        """What one token takes, in all layers."""
        return 2 * config.num_layers * config.hidden_size * torch.empty(0, dtype=dtype).element_size()

    def _grow(self, count: int) -> None:
        before = len(self._uses)
        for layer in range(self.layers):
            for kept, shape in ((self.keys, (self.head_size, WIDTH)), (self.values, (WIDTH, self.head_size))):
                # Zeros, not whatever was there: a weight of 0 would not silence an infinity.
                grown = torch.zeros((count, self.heads, *shape), dtype=self.dtype)
                if before:
                    grown[:before] = kept[layer]
                    kept[layer] = grown
                else:
                    kept.append(grown)
        self._uses = np.concatenate([self._uses, np.zeros(count - before, np.int32)])
        self._free += range(count - 1, before - 1, -1)

    def _take(self) -> int:
        if not self._free:
            self._grow(2 * len(self._uses))
        page = self._free.pop()
        self._uses[page] = 1
        return page

    def _give_back(self, page: int) -> None:
        self._uses[page] -= 1
        if not self._uses[page]:
            self._free.append(page)

    def hold(self, tokens: int) -> Held:
        """Room for a text of so many tokens."""
        return Held([self._take() for _ in range(-(-tokens // WIDTH))], tokens)

    def fork(self, held: Held) -> Held:
        """Another text that begins with all of this one."""
        for page in held.pages:
            self._uses[page] += 1
        return Held(list(held.pages), held.length)

    def free(self, held: Held) -> None:
        """Give the text's pages back."""
        for page in held.pages:
            self._give_back(page)
        held.pages.clear()
        if not self.in_use and sum(each.nbytes for each in (*self.keys, *self.values)) > KEPT_BYTES:
            self._begin()

    def extend(self, held: Held) -> tuple[int, int]:
        """Room for one more token: its page and the place in it."""
        number, place = divmod(held.length, WIDTH)
        if number == len(held.pages):
            held.pages.append(self._take())
        elif self._uses[held.pages[number]] > 1:
            self._part(held, number)
        held.length += 1
        return held.pages[number], place

    def _part(self, held: Held, number: int) -> None:
        """Give this text a page of its own in place of one it shares."""
        shared, own = held.pages[number], self._take()
        for buffers in (self.keys, self.values):
            for buffer in buffers:
                buffer[own] = buffer[shared]
        self._give_back(shared)
        held.pages[number] = own

    def narrowed(self, values: Tensor) -> Tensor:
        """As kept: in the pages' type, without what that type cannot hold."""
        if values.dtype == self.dtype:
            return values
        if self.dtype == torch.float16:
            values = values.clamp(-65504.0, 65504.0)
        return values.to(self.dtype)


class Fresh:
    """The cache of a pass that reads whole texts: attends among them and files them in pages.

    Args:
        held: of each text.
        layouts: of each text; shorter ones are padded at their ends.
    """

    def __init__(self, pages: Pages, held: Sequence[Held], layouts: Sequence[Layout]) -> None:
        self.pages = pages
        self._spare = -max(len(layout) for layout in layouts) % WIDTH
        places = np.arange(WIDTH)
        self._page = torch.tensor([page for each in held for page in each.pages])
        column = np.concatenate([np.arange(len(each.pages)) for each in held])
        self._row = torch.from_numpy(np.repeat(np.arange(len(held)), [len(each.pages) for each in held]))
        self._column = torch.from_numpy(column[:, None] * WIDTH + places)

    def attend(
        self, layer: int, q_BNSH: Tensor, k_BNSH: Tensor, v_BNSH: Tensor, mask: Tensor | BlockMask | None
    ) -> Tensor:
        """As `Cache`; nothing was read before."""
        mixed = attend(q_BNSH, k_BNSH, v_BNSH, mask)
        # [B, N, S, H] -> one [N, WIDTH, H] for each page of each text
        k, v = (F.pad(self.pages.narrowed(x), (0, 0, 0, self._spare)) for x in (k_BNSH, v_BNSH))
        index = (self._row[:, None], slice(None), self._column)
        self.pages.values[layer][self._page] = v[index].transpose(1, 2)
        self.pages.keys[layer][self._page] = k[index].permute(0, 2, 3, 1)
        return mixed

    def advance(self, tokens: int) -> None:
        """Nothing to count: `Held` has the lengths."""


class Step:
    """The cache of a pass that reads one token of each text.

    Args:
        held: of each text; each is made one token longer.
    """

    def __init__(self, pages: Pages, held: Sequence[Held]) -> None:
        self.pages = pages
        where = torch.tensor([pages.extend(each) for each in held], dtype=torch.int64)
        R, N, H = len(held), pages.heads, pages.head_size
        # Where the new keys and values go, as numbers of elements and of rows.
        heads = (where[:, :1] * N + torch.arange(N)).view(-1, 1)
        place = where[:, 1].repeat_interleave(N)
        self._new_keys = ((heads * H + torch.arange(H)) * WIDTH + place[:, None]).view(-1)
        self._new_values = heads[:, 0] * WIDTH + place
        table = table_of(held)
        columns = table.shape[1]
        # Which rows each weighted sum adds up: [R, N, pages, H] rows of keys, [R, N, longest] of values.
        page_and_head = (
            torch.from_numpy(table)[:, None, :, None] * N + torch.arange(N, dtype=torch.int32)[:, None, None]
        )
        self._key_rows = (page_and_head * H + torch.arange(H, dtype=torch.int32)).view(-1)
        lengths = [each.length for each in held]
        self._longest = max(lengths)
        value_rows = (page_and_head * WIDTH + torch.arange(WIDTH, dtype=torch.int32)).view(R, N, -1)
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
        """As `Cache`, with S = 1; every text sees all of its own tokens, `mask` is not looked at."""
        keys, values = self.pages.keys[layer], self.pages.values[layer]
        R, N, _, H = q_BNSH.shape
        keys.put_(self._new_keys, self.pages.narrowed(k_BNSH))
        values.view(-1, H).index_copy_(0, self._new_values, self.pages.narrowed(v_BNSH).reshape(-1, H))
        queries = torch.mul(q_BNSH.detach().expand_as(self._queries), H**-0.5, out=self._queries)
        scores = sums_of_rows(keys.view(-1, WIDTH), self._key_rows, self._key_sums, queries)
        scores = scores.view(R, N, -1)[:, :, : self._longest]
        if self._hidden is not None:
            scores = scores + self._hidden
        mixed = sums_of_rows(values.view(-1, H), self._value_rows, self._value_sums, scores.softmax(-1))
        return mixed.view(R, N, 1, H).to(q_BNSH.dtype)

    def advance(self, tokens: int) -> None:
        """Nothing to count: `Held` has the lengths."""


def table_of(held: Sequence[Held]) -> np.ndarray:
    """The pages of each text, [texts, columns] int32; `NOTHING` where one has fewer than others."""
    table = np.full((len(held), max(len(each.pages) for each in held)), NOTHING, np.int32)
    for row, each in enumerate(held):
        table[row, : len(each.pages)] = each.pages
    return table


def sums_of_rows(table: Tensor, rows: Tensor, starts: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of rows of a table, [rows, W] -> [sums, W].

    Args:
        rows: of all sums, one sum after the other.
        starts: where each sum begins in `rows`.
        weights: as many as `rows`, in the type of `table`.
    """
    # What F.embedding_bag calls, with starts that need not be made anew each time.
    return torch.embedding_bag(table, rows, starts, False, 0, False, weights.view(-1))[0]
