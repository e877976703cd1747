"""The model with the texts it has read: whole texts in, then one token of each at a time.

`memory_for` chooses how keys and values are kept: on a CPU in pages (`pages.py`), elsewhere
in slots (`slots.py`). Texts come and go one by one, and one text may be continued in several
ways: a fork shares what was read.

Knows layouts, positions and masks; nothing about how the next token is chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from ..batches import NO_DOCUMENT, pad
from ..blanks import Layout
from ..network.attention import dense_mask
from ..network.cache import Cache
from ..network.model import GLMModel
from ..tensors import BatchTensors

Input = tuple[int, int, int]  # token id, position, block position

# Positions, padding included, that one forward pass reads: enough to keep the matrix
# products busy, few enough for what lies between them to stay in the cache of a CPU.
READ_AT_ONCE = 1024
# Texts go into one pass while the longest is at most this much longer than the shortest.
UNEVEN = 1.25


class HiddenStates(Protocol):
    """`GLMModel.hidden_states`, or what computes the same."""

    def __call__(self, input_ids: Tensor, position_ids: Tensor, attention_mask: Any = None, *, cache: Cache) -> Tensor:
        """[B, S] ids and [B, 2, S] positions -> [B, S, D]."""


class Memory(Protocol):
    """Texts that were read. A text is held by a handle that `read` and `fork` give."""

    model: GLMModel

    @property
    def device(self) -> torch.device:
        """Where logits are."""

    def read(self, layouts: Sequence[Layout]) -> tuple[list[Any], Tensor]:
        """Read new texts.

        Returns:
            A handle for each, and the logits after its last token, [R, V] float32.
        """

    def step(self, texts: Sequence[Any], inputs: Sequence[Input]) -> Tensor:
        """Read one more token of each of these texts; the logits after it, [R, V] float32."""

    def fork(self, text: Any) -> Any:
        """A second text that begins with all of this one."""

    def free(self, text: Any) -> None:
        """Forget a text."""

    def bytes_per_token(self) -> int:
        """What one token of a text takes."""

    @property
    def texts_held(self) -> int:
        """Texts that were not freed."""


def evenly(lengths: Sequence[int], positions: int = READ_AT_ONCE) -> Iterator[list[int]]:
    """Indices of texts that are read in one pass, the shortest first."""
    group: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        longer = lengths[i] > UNEVEN * lengths[group[0]] + 8 if group else False
        if group and (longer or lengths[i] * (len(group) + 1) > positions):
            yield group
            group = []
        group.append(i)
    if group:
        yield group


def in_groups(
    layouts: Sequence[Layout], read: Callable[[Sequence[Layout]], tuple[list[Any], Tensor]]
) -> tuple[list[Any], Tensor]:
    """What `read` gives for texts of similar length at a time, in the order of `layouts`."""
    texts: list[Any] = [None] * len(layouts)
    rows: list[Tensor] = [torch.empty(0)] * len(layouts)
    for group in evenly([len(layout) for layout in layouts]):
        held, logits = read([layouts[i] for i in group])
        for row, i in enumerate(group):
            texts[i], rows[i] = held[row], logits[row]
    return texts, torch.stack(rows)


class PagedMemory:
    """Texts in pages, on a CPU.

    Args:
        compile: run the network as a compiled graph. Making its graphs takes up to two minutes,
            on first use; torch keeps their kernels on disk for the next time.

    Raises:
        OptionError: compile, and no C++ compiler, or one that refuses.
    """

    def __init__(self, model: GLMModel, pad_id: int, *, compile: bool = False) -> None:
        from .pages import Fresh, Pages, Step

        self.model, self.pad_id = model, pad_id
        self._hidden_states: HiddenStates = model.hidden_states
        self._fresh: Callable[..., Cache] = Fresh
        self._step: Callable[..., Cache] = Step
        if compile:
            from . import native
            from .compiled import CompiledStates

            self._hidden_states = CompiledStates(model)
            if native.supports(model.config):
                native.library()
                self._fresh, self._step = native.NativeFresh, native.NativeStep
        exact = model.word_embeddings.weight.dtype == torch.float32
        self._dtype = torch.float32 if exact else torch.float16
        self.pages = Pages(model.config, self._dtype)
        self.texts_held = 0

    @property
    def device(self) -> torch.device:
        """Where logits are."""
        return torch.device("cpu")

    def bytes_per_token(self) -> int:
        """What one token of a text takes."""
        from .pages import Pages

        return Pages.bytes_per_token(self.model.config, self._dtype)

    def read(self, layouts: Sequence[Layout]) -> tuple[list[Any], Tensor]:
        """As `Memory`."""
        read = in_groups(layouts, self._read)
        self.texts_held += len(layouts)
        return read

    def _read(self, layouts: Sequence[Layout]) -> tuple[list[Any], Tensor]:
        held = [self.pages.hold(len(layout)) for layout in layouts]
        cache = self._fresh(self.pages, held, layouts)
        return held, read_whole(self.model, layouts, self.pad_id, cache, self._hidden_states)

    def step(self, texts: Sequence[Any], inputs: Sequence[Input]) -> Tensor:
        """As `Memory`."""
        cache = self._step(self.pages, texts)
        return next_logits(self.model, torch.tensor(inputs), None, cache, self._hidden_states)

    def fork(self, text: Any) -> Any:
        """As `Memory`."""
        self.texts_held += 1
        return self.pages.fork(text)

    def free(self, text: Any) -> None:
        """As `Memory`."""
        self.texts_held -= 1
        self.pages.free(text)


def memory_for(model: GLMModel, pad_id: int, *, compile: bool = False) -> Memory:
    """The fastest way to keep texts on the model's device.

    Args:
        pad_id: fills up shorter rows; nobody attends to it.
        compile: compile the network, or the step where texts are kept in slots.
    """
    if model.word_embeddings.weight.device.type == "cpu":
        return PagedMemory(model, pad_id, compile=compile)
    from .slots import SlotMemory

    return SlotMemory(model, pad_id, compile=compile)


def read_whole(
    model: GLMModel, layouts: Sequence[Layout], pad_id: int, cache: Cache, hidden_states: HiddenStates
) -> Tensor:
    """One pass over whole texts, padded to the longest; the logits after the last token of each, [R, V]."""
    tensors = BatchTensors.of(pad(layouts, pad_id), model.word_embeddings.weight.device)
    plain = bool(tensors.in_part_a.all())
    mask = None if plain else dense_mask(tensors.documents, tensors.in_part_a)
    hidden_BSD = hidden_states(tensors.input_ids, tensors.position_ids, mask, cache=cache)
    last = (tensors.documents != NO_DOCUMENT).sum(1) - 1
    return model.logits(hidden_BSD[torch.arange(len(layouts), device=last.device), last]).float()


def next_logits(
    model: GLMModel, inputs_R3: Tensor, mask: Tensor | None, cache: Cache, hidden_states: HiddenStates
) -> Tensor:
    """One pass over one token of each text, [R, 3] ids and positions -> [R, V]."""
    hidden = hidden_states(inputs_R3[:, :1], inputs_R3[:, 1:, None], mask, cache=cache)
    return model.logits(hidden[:, -1]).float()
