"""One forward pass of a training batch: packed rows in, losses of Part B out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ..data.stream import OBJECTIVE_NAMES, TrainingBatch
from ..network.attention import block_mask, dense_mask
from ..network.model import GLMModel
from ..tensors import each_tensor
from .loss import linear_cross_entropy


@dataclass(frozen=True)
class StepBatch:
    """A batch as tensors, ready for a forward pass. B rows of S tokens, M of them predict.

    Attributes:
        input_ids: [B, S] int64.
        position_ids: [B, 2, S] int64.
        documents: [B, S] int64, in_part_a: [B, S] bool; they say who sees whom.
        chosen: [M] int64, the tokens that predict, counted row by row.
        targets: [M] int64, what they should predict.
        groups: [M] int64, the group under which each of their losses is reported.
        counts: M of each group; known on the host, so that nobody waits for a GPU to count.
        tokens: positions that are not padding.
        positions: B S.
    """

    input_ids: Tensor
    position_ids: Tensor
    documents: Tensor
    in_part_a: Tensor
    chosen: Tensor
    targets: Tensor
    groups: Tensor
    counts: tuple[int, ...]
    tokens: int
    positions: int

    @classmethod
    def of(cls, training: TrainingBatch, *, ends: Sequence[int] = ()) -> StepBatch:
        """From a packed batch; the groups are the objectives.

        Args:
            ends: target ids with groups of their own, one more per objective, behind the others.
        """
        batch = training.batch
        chosen = np.flatnonzero(batch.loss_mask)
        targets = batch.targets.reshape(-1)[chosen]
        groups = training.objectives.reshape(-1)[chosen].astype(np.int64)
        total = len(OBJECTIVE_NAMES) * (2 if len(ends) else 1)
        groups += len(OBJECTIVE_NAMES) * np.isin(targets, ends)
        return cls(
            input_ids=torch.from_numpy(batch.input_ids),
            position_ids=torch.from_numpy(batch.position_ids),
            documents=torch.from_numpy(batch.documents),
            in_part_a=torch.from_numpy(batch.in_part_a),
            chosen=torch.from_numpy(chosen),
            targets=torch.from_numpy(targets),
            groups=torch.from_numpy(groups),
            counts=tuple(np.bincount(groups, minlength=total).tolist()),
            tokens=int((training.objectives >= 0).sum()),
            positions=int(batch.input_ids.size),
        )

    def to(self, device: torch.device) -> StepBatch:
        """On another device; from pinned memory without waiting."""
        return each_tensor(self, lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> StepBatch:
        """In memory from which a GPU copies on its own."""
        return each_tensor(self, Tensor.pin_memory)


def predicting_states(model: GLMModel, batch: StepBatch, precision: str, *, many_shapes: bool = False) -> Tensor:
    """Final hidden states of the tokens that predict, [M, D]; the batch is on the model's device.

    Args:
        precision: "bf16" (autocast) or "fp32".
        many_shapes: batches differ in size, and FlexAttention would be compiled for each of them.
    """
    device = batch.input_ids.device
    # FlexAttention skips hidden blocks on a GPU; it has no dropout and is slower on a CPU.
    dropout = model.training and model.transformer.layers[0].get_submodule("attention").dropout
    flexible = device.type == "cuda" and not dropout and not many_shapes
    mask = (block_mask if flexible else dense_mask)(batch.documents, batch.in_part_a)
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        hidden_BSD = model.hidden_states(batch.input_ids, batch.position_ids, mask)
        return hidden_BSD.flatten(0, 1)[batch.chosen]


def batch_losses(model: GLMModel, batch: StepBatch, precision: str) -> tuple[Tensor, Tensor]:
    """The losses of a batch that is on the model's device, in nats.

    Args:
        precision: "bf16" (autocast) or "fp32".

    Returns:
        Their sum (differentiable) and each of them, [M] float32.
    """
    hidden_MD = predicting_states(model, batch, precision)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    return linear_cross_entropy(hidden_MD, model.word_embeddings.weight, batch.targets, dtype=dtype)


class LossModule(nn.Module):
    """A model together with its loss: what the training loop calls.

    Both are one module because the loss uses the word embedding once more: a wrapper that
    gathers weights for the time of a forward pass (FSDP) must hold it for both.
    """

    def __init__(self, model: GLMModel, precision: str) -> None:
        super().__init__()
        self.model, self.precision = model, precision

    def forward(self, batch: StepBatch) -> tuple[Tensor, Tensor]:
        """The sum of the losses (differentiable), and the sum in each group, [G] float32."""
        total, losses = batch_losses(self.model, batch, self.precision)
        return total, losses.new_zeros(len(batch.counts)).index_add_(0, batch.groups, losses)


def forward_losses(model: GLMModel, training: TrainingBatch, precision: str) -> tuple[Tensor, Tensor, Tensor]:
    """Losses of every Part B token of a batch.

    Returns:
        Their sum (differentiable), each of them ([M] float32), and the number of the
        objective each belongs to ([M] int8).
    """
    batch = StepBatch.of(training).to(model.word_embeddings.weight.device)
    total, losses = batch_losses(model, batch, precision)
    return total, losses, batch.groups.to(torch.int8)
