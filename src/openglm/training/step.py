"""One forward pass of a training batch: packed rows in, losses of Part B out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..batches import Arrays, Batch
from ..network.attention import block_mask, dense_mask
from ..network.model import GLMModel
from ..tensors import to_tensors
from .loss import linear_cross_entropy


def predicting_states(model: GLMModel, batch: Batch[Tensor], precision: str, *, many_shapes: bool = False) -> Tensor:
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


def batch_losses(
    model: GLMModel, batch: Batch[Tensor], precision: str, *, fused: bool = False
) -> tuple[Tensor, Tensor]:
    """The losses of a batch that is on the model's device, in nats.

    Args:
        precision: "bf16" (autocast) or "fp32".
        fused: see `linear_cross_entropy`.

    Returns:
        Their sum (differentiable) and each of them, [M] float32.
    """
    hidden_MD = predicting_states(model, batch, precision)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    return linear_cross_entropy(hidden_MD, model.word_embeddings.weight, batch.chosen_targets, dtype=dtype, fused=fused)


class LossModule(nn.Module):
    """A model together with its loss: what the training loop calls.

    Both are one module because the loss uses the word embedding once more: a wrapper that
    gathers weights for the time of a forward pass (FSDP) must hold it for both.
    """

    def __init__(self, model: GLMModel, precision: str, *, compile: bool = False) -> None:
        super().__init__()
        self.model, self.precision = model, precision
        self.fused = compile and model.word_embeddings.weight.device.type == "cpu"

    def forward(self, batch: Batch[Tensor]) -> tuple[Tensor, Tensor]:
        """The sum of the losses (differentiable), and the sum in each group, [G] float32."""
        total, losses = batch_losses(self.model, batch, self.precision, fused=self.fused)
        return total, losses.new_zeros(len(batch.counts)).index_add_(0, batch.groups, losses)


def forward_losses(model: GLMModel, batch: Batch[Arrays], precision: str) -> tuple[Tensor, Tensor, Tensor]:
    """Losses of every Part B token of a batch.

    Returns:
        Their sum (differentiable), each of them ([M] float32), and the number of the
        objective each belongs to ([M] int8).
    """
    tensors = to_tensors(batch, model.word_embeddings.weight.device)
    total, losses = batch_losses(model, tensors, precision)
    return total, losses, tensors.groups.to(torch.int8)
