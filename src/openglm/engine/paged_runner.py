"""Runs a model on a CPU, with the keys and values of its sequences in pages."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..layouts import Layout
from ..network.cache import Cache
from ..network.model import GLMModel
from ..network.native import kernel_for, pages_dtype
from . import native
from .model_runner import HiddenStates, Input, decode_logits, in_groups, prefill_logits
from .paged_attention import DecodeCache, PrefillCache
from .pages import BlockTable, PagePool


class PagedRunner:
    """A `ModelRunner` whose handles are block tables.

    Args:
        model: the network.
        pad_id: fills up shorter rows; nobody attends to it.
        compile: run the network as a compiled graph. Making its graphs takes up to two minutes,
            on first use; torch keeps their kernels on disk for the next time.

    Attributes:
        kernel: the instructions that the kernel for attention uses; None where torch computes it.

    Raises:
        OptionError: compile, and no C++ compiler; a kernel asked for that this machine has not.
    """

    def __init__(self, model: GLMModel, pad_id: int, *, compile: bool = False) -> None:
        self.model, self.pad_id = model, pad_id
        self._hidden_states: HiddenStates = model.hidden_states
        if compile:
            from .compiled import CompiledStates

            self._hidden_states = CompiledStates(model)
        self.kernel = kernel_for(model.config)
        self._prefill_cache: Callable[..., Cache] = native.NativePrefillCache if self.kernel else PrefillCache
        self._decode_cache: Callable[..., Cache] = native.NativeDecodeCache if self.kernel else DecodeCache
        self.pages = PagePool(model.config, pages_dtype(model))
        self.num_held = 0

    @property
    def device(self) -> torch.device:
        """Where logits are."""
        return torch.device("cpu")

    def bytes_per_token(self) -> int:
        """What one token of a sequence takes."""
        return PagePool.bytes_per_token(self.model.config, self.pages.dtype)

    def allocate(self, tokens: int) -> BlockTable:
        """As `ModelRunner`."""
        self.num_held += 1
        return self.pages.allocate(tokens)

    def prefill(self, handles: Sequence[BlockTable], layouts: Sequence[Layout]) -> Tensor:
        """As `ModelRunner`."""
        return in_groups(handles, layouts, self._prefill)

    def _prefill(self, tables: Sequence[BlockTable], layouts: Sequence[Layout]) -> Tensor:
        cache = self._prefill_cache(self.pages, tables, layouts)
        return prefill_logits(self.model, layouts, self.pad_id, cache, self._hidden_states)

    def decode(self, handles: Sequence[BlockTable], inputs: Sequence[Input]) -> Tensor:
        """As `ModelRunner`."""
        cache = self._decode_cache(self.pages, handles)
        return decode_logits(self.model, torch.tensor(inputs), cache, self._hidden_states)

    def append(self, handles: Sequence[BlockTable]) -> None:
        """As `ModelRunner`."""
        for table in handles:
            table.length += 1

    def fork(self, handle: BlockTable) -> BlockTable:
        """As `ModelRunner`."""
        self.num_held += 1
        return self.pages.fork(handle)

    def free(self, handle: BlockTable) -> None:
        """As `ModelRunner`."""
        self.num_held -= 1
        self.pages.free(handle)
