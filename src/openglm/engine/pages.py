"""Pages for the keys and values of many sequences on a CPU.

A sequence holds a block table: a list of pages of `PAGE_SIZE` tokens each. A fork, such as a
beam, holds the same pages; the page that one of them writes to next is copied first. Freed
pages are used again. How keys and values lie in a page is told in `paged_attention.py`.

Knows pages and their numbers; nothing about texts or attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..network.config import GLMConfig

PAGE_SIZE = 64  # tokens of a page: small pages waste little, large ones make longer rows to read
KEPT_BYTES = 128 * 2**20  # pages that stay when no sequence is held; more are given back to the system
NULL_PAGE = 0  # the page that stands where a sequence has none


@dataclass
class BlockTable:
    """The pages of one sequence, in the order of its tokens, and how many tokens they hold."""

    pages: list[int] = field(default_factory=list)
    length: int = 0


class PagePool:
    """The pages of all sequences, layer by layer.

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
        self._uses[NULL_PAGE] = 1
        self._free.remove(NULL_PAGE)

    @property
    def in_use(self) -> int:
        """Pages that some sequence holds."""
        return len(self._uses) - len(self._free) - 1

    @staticmethod
    def bytes_per_token(config: GLMConfig, dtype: torch.dtype) -> int:
        """What one token takes, in all layers."""
        return 2 * config.num_layers * config.hidden_size * torch.empty(0, dtype=dtype).element_size()

    def _grow(self, count: int) -> None:
        before = len(self._uses)
        for layer in range(self.layers):
            for kept, shape in ((self.keys, (self.head_size, PAGE_SIZE)), (self.values, (PAGE_SIZE, self.head_size))):
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

    def allocate(self, tokens: int) -> BlockTable:
        """A block table for so many tokens."""
        return BlockTable([self._take() for _ in range(-(-tokens // PAGE_SIZE))], tokens)

    def fork(self, table: BlockTable) -> BlockTable:
        """Another block table that begins with all of this one."""
        for page in table.pages:
            self._uses[page] += 1
        return BlockTable(list(table.pages), table.length)

    def free(self, table: BlockTable) -> None:
        """Give its pages back."""
        for page in table.pages:
            self._give_back(page)
        table.pages.clear()
        if not self.in_use and sum(each.nbytes for each in (*self.keys, *self.values)) > KEPT_BYTES:
            self._begin()

    def append_slot(self, table: BlockTable) -> tuple[int, int]:
        """Room for one more token, which does not count in its length yet: its page and the place in it."""
        number, place = divmod(table.length, PAGE_SIZE)
        if number == len(table.pages):
            table.pages.append(self._take())
        elif self._uses[table.pages[number]] > 1:
            self._copy_on_write(table, number)
        return table.pages[number], place

    def _copy_on_write(self, table: BlockTable, number: int) -> None:
        """Give it a page of its own in place of one it shares."""
        shared, own = table.pages[number], self._take()
        for buffers in (self.keys, self.values):
            for buffer in buffers:
                buffer[own] = buffer[shared]
        self._give_back(shared)
        table.pages[number] = own

    def narrowed(self, values: Tensor) -> Tensor:
        """As kept: in the pages' type, without what that type cannot hold."""
        if values.dtype == self.dtype:
            return values
        if self.dtype == torch.float16:
            values = values.clamp(-65504.0, 65504.0)
        return values.to(self.dtype)


def page_numbers(tables: Sequence[BlockTable]) -> np.ndarray:
    """The pages of each sequence, [R, columns] int32; `NULL_PAGE` where one has fewer than others."""
    numbers = np.full((len(tables), max(len(table.pages) for table in tables)), NULL_PAGE, np.int32)
    for row, table in zip(numbers, tables, strict=True):
        row[: len(table.pages)] = table.pages
    return numbers
