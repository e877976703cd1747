"""Attention over pages by a kernel of our own, at the speed of the memory.

Where there is none, `paged_attention.py` does the same with operations of torch, in up to four
times the time.

Knows pages and pointers; nothing about how a token is chosen.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..layouts import Layout
from ..network.attention import tokens_seen
from ..network.native import KernelTexts, kernel, rows_of
from .pages import BlockTable, PagePool, page_numbers

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask


class _NativeCache:
    """A cache that hands each layer to the kernel."""

    kernel: str

    def __init__(
        self, pages: PagePool, tables: Sequence[BlockTable], starts: Sequence[int], lengths: Sequence[int]
    ) -> None:
        self.pages = pages
        self._numbers = page_numbers(tables)
        self._starts, self._lengths = np.array(starts, np.int32), np.array(lengths, np.int32)
        self._texts = KernelTexts(
            self._numbers.ctypes.data, self._lengths.ctypes.data, self._starts.ctypes.data, *self._numbers.shape,
            pages.heads, pages.head_size, torch.get_num_threads(),
        )  # fmt: skip
        self._attend = kernel(self.kernel, pages.dtype)
        self._more: tuple[Any, ...] = ()

    def attend(
        self, layer: int, q_BNSH: Tensor, k_BNSH: Tensor, v_BNSH: Tensor, mask: Tensor | BlockMask | None
    ) -> Tensor:
        """As `Cache`; the kernel is told who sees whom, `mask` is not looked at."""
        (q, _q), (k, _k), (v, _v) = rows_of(q_BNSH), rows_of(k_BNSH), rows_of(v_BNSH)
        B, N, S, H = q_BNSH.shape
        mixed_BSNH = torch.empty(B, S, N, H)
        self._attend(
            ctypes.byref(self._texts),
            ctypes.c_void_p(self.pages.keys[layer].data_ptr()),
            ctypes.c_void_p(self.pages.values[layer].data_ptr()),
            ctypes.byref(q), ctypes.byref(k), ctypes.byref(v),
            ctypes.c_void_p(mixed_BSNH.data_ptr()), *self._more,
        )  # fmt: skip
        return mixed_BSNH.transpose(1, 2).to(q_BNSH.dtype)

    def advance(self, tokens: int) -> None:
        """Nothing to count: `BlockTable` has the lengths."""


class NativePrefillCache(_NativeCache):
    """As `PrefillCache`."""

    kernel = "prefill"

    def __init__(self, pages: PagePool, tables: Sequence[BlockTable], layouts: Sequence[Layout]) -> None:
        lengths = [len(layout) for layout in layouts]
        super().__init__(pages, tables, [0] * len(tables), lengths)
        longest = max(lengths)
        self._seen = np.zeros((len(layouts), longest), np.int32)
        for row, layout in zip(self._seen, layouts, strict=True):
            row[: len(layout)] = tokens_seen(layout.separator, len(layout))
        self._more = (ctypes.c_void_p(self._seen.ctypes.data), ctypes.c_int64(longest))


class NativeDecodeCache(_NativeCache):
    """As `DecodeCache`."""

    kernel = "decode"

    def __init__(self, pages: PagePool, tables: Sequence[BlockTable]) -> None:
        for table in tables:
            pages.append_slot(table)
        lengths = [table.length for table in tables]
        super().__init__(pages, tables, lengths, [length + 1 for length in lengths])
