"""One forward pass of a training batch: packed rows in, losses of Part B out."""

from __future__ import annotations

import torch
from torch import Tensor

from ..attention import block_mask, dense_mask
from ..model import GLMModel
from ..pretraining.stream import TrainingBatch
from ..tensors import BatchTensors
from .loss import linear_cross_entropy


def forward_losses(model: GLMModel, training: TrainingBatch, precision: str) -> tuple[Tensor, Tensor, Tensor]:
    """Losses of every Part B token of a batch.

    Returns:
        Their sum (differentiable), each of them ([M] float32), and the number of the
        objective each belongs to ([M] int8).
    """
    device = model.word_embeddings.weight.device
    batch = BatchTensors.of(training.batch, device)
    chosen = batch.loss_mask
    # FlexAttention skips hidden blocks on a GPU; it has no dropout and is slower on a CPU.
    flexible = device.type == "cuda" and not (model.training and model.config.attention_dropout_prob)
    mask = (block_mask if flexible else dense_mask)(batch.documents, batch.in_part_a)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        hidden = model.hidden_states(batch.input_ids, batch.position_ids, mask)[chosen]
    total, losses = linear_cross_entropy(hidden, model.word_embeddings.weight, batch.targets[chosen], dtype=dtype)
    return total, losses, torch.from_numpy(training.objectives).to(device)[chosen]
