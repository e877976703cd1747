"""What the training loop asks of whoever trains something: a task, and its batches.

Knows nothing about text, objectives or files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import nn

ANYTHING = object()


class LoopBatch(Protocol):
    """What the loop asks of a batch; `batches.Batch` is one.

    Attributes:
        counts: how many losses there are in each group.
        tokens, positions: how many positions hold a token, and how many there are.
    """

    @property
    def counts(self) -> tuple[int, ...]: ...  # noqa: D102
    @property
    def tokens(self) -> int: ...  # noqa: D102
    @property
    def positions(self) -> int: ...  # noqa: D102

    def to(self, device: torch.device) -> Any:
        """What the module takes, on its device."""

    def pin_memory(self) -> Any:
        """The batch in memory from which a GPU copies on its own."""


@dataclass(frozen=True)
class TrainingTask:
    """What is trained, on what.

    Attributes:
        module: batch on the device -> the sum of its losses, differentiable, and the sums in
            each group, [G]. Weights that are spread over processes are gathered for its calls.
        model: the part of the module whose weights are trained and saved.
        layers: the parts of the model that are alike; compiled, and gathered, one by one.
        batch: number of a micro-batch -> the batch; the same for the same number, always.
        groups: names of the groups of losses, reported as `loss/NAME`.
        identity: plain values that a state must agree on to be resumed from.
        assumed: names in the identity, with dots, that states of earlier versions do not have, and
            the value that these were made with; `ANYTHING` where it is not known.
        describe: number of a micro-batch -> how large it is, in words.
        flops: (number of a micro-batch, share of its positions that have a loss) -> FLOPs per
            position of a whole update, for the report.
        evaluate: called with the number of updates done, every `evaluate_every` of them and
            after the last, in evaluation mode and without gradients.
        state, restore: plain values of the task's own that belong into a state, and what
            takes them back when a run goes on.
    """

    module: nn.Module
    model: nn.Module
    layers: Sequence[nn.Module]
    batch: Callable[[int], LoopBatch]
    groups: tuple[str, ...]
    identity: Mapping[str, Any] = field(default_factory=dict)
    assumed: Mapping[str, Any] = field(default_factory=dict)
    describe: Callable[[int], str] = "number {}".format
    flops: Callable[[int, float], float] | None = None
    evaluate: Callable[[int], None] | None = None
    state: Callable[[], Mapping[str, Any]] = dict
    restore: Callable[[Mapping[str, Any]], None] = lambda values: None
