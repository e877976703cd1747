"""Cross-entropy of the tied output projection without ever holding all logits.

At a vocabulary of tens of thousands the logits are the largest tensor of a training step.
Here they exist for some of the tokens at a time, and their gradient is taken at once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

ROWS_AT_ONCE = 256  # tokens whose logits exist together
ROWS_KEPT = 2048  # tokens whose logits exist together in the fused form, which takes their gradient at once
LOGITS_AT_ONCE = 1 << 27  # on a GPU, which needs large products: half a GiB of them


def _rows_at_once(vocabulary: int, device: torch.device) -> int:
    return max(ROWS_AT_ONCE, LOGITS_AT_ONCE // vocabulary) if device.type == "cuda" else ROWS_AT_ONCE


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        h, w = hidden.to(dtype), weight.to(dtype)
        losses = torch.empty(len(targets), dtype=torch.float32, device=h.device)
        needed = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        d_hidden = torch.empty_like(h) if needed else None
        d_weight = torch.zeros_like(w, dtype=torch.float32) if needed else None
        step = _rows_at_once(len(weight), h.device)
        for start in range(0, len(targets), step):
            rows = slice(start, start + step)
            logits = (h[rows] @ w.t()).float()
            target = targets[rows, None]
            losses[rows] = torch.logsumexp(logits, -1) - logits.gather(1, target)[:, 0]
            if d_hidden is not None and d_weight is not None:
                p = logits.softmax(-1)
                p.scatter_add_(1, target, torch.full_like(target, -1, dtype=p.dtype))
                p = p.to(dtype)
                d_hidden[rows] = p @ w
                d_weight += p.t() @ h[rows]
        if d_hidden is not None and d_weight is not None:
            ctx.save_for_backward(d_hidden, d_weight)
            ctx.dtypes = hidden.dtype, weight.dtype
        ctx.mark_non_differentiable(losses)
        return losses.sum(), losses

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        d_hidden, d_weight = ctx.saved_tensors
        hidden_type, weight_type = ctx.dtypes
        return (d_hidden * grads[0]).to(hidden_type), (d_weight * grads[0]).to(weight_type), None, None


@functools.cache
def _normalized_in_place() -> Callable[[Tensor], Tensor]:
    def normalize(logits: Tensor) -> Tensor:
        """Turn each row of logits into its probabilities, in place; the logarithms of their sums, [R] float32."""
        x = logits.float()
        sums = x.logsumexp(-1)
        logits.copy_((x - sums[:, None]).exp())
        return sums

    return torch.compile(normalize, dynamic=True)


class _FusedLinearCrossEntropy(torch.autograd.Function):
    """As `_LinearCrossEntropy`, with one compiled pass over the logits in place of ten."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        h, w = hidden.detach().to(dtype), weight.detach().to(dtype)
        normalize = _normalized_in_place()
        losses = torch.empty(len(targets), dtype=torch.float32)
        d_hidden, d_weight = torch.empty_like(h), torch.zeros_like(w, dtype=torch.float32)
        space = h.new_empty(min(ROWS_KEPT, len(targets)), len(w))
        for first in range(0, len(targets), ROWS_KEPT):
            kept = slice(first, first + ROWS_KEPT)
            p = space[: len(targets[kept])]
            for start in range(0, len(p), ROWS_AT_ONCE):
                inner = slice(start, start + ROWS_AT_ONCE)
                part, rows = p[inner], slice(first + start, first + start + len(p[inner]))
                target = targets[rows, None]
                torch.mm(h[rows], w.t(), out=part)
                right = part.gather(1, target)[:, 0].float()
                losses[rows] = normalize(part) - right
                part.scatter_add_(1, target, part.new_full(target.shape, -1))
                torch.mm(part, w, out=d_hidden[rows])
            d_weight += p.t() @ h[kept]
        ctx.save_for_backward(d_hidden, d_weight)
        ctx.dtypes = hidden.dtype, weight.dtype
        ctx.mark_non_differentiable(losses)
        return losses.sum(), losses

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        d_hidden, d_weight = ctx.saved_tensors
        hidden_type, weight_type = ctx.dtypes
        return (d_hidden * grads[0]).to(hidden_type), d_weight.mul_(grads[0]).to(weight_type), None, None


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, dtype: torch.dtype = torch.float32, fused: bool = False
) -> tuple[Tensor, Tensor]:
    """Summed cross-entropy of `softmax(hidden @ weight.T)`, in nats.

    Args:
        hidden: [M, D] final hidden states of the tokens that predict.
        weight: [V, D] word embedding.
        targets: [M] int64.
        dtype: of the matrix products; softmax and sums are float32.
        fused: compile what lies between the products; the same up to rounding, for training on a CPU.

    Returns:
        The sum (differentiable once) and the loss of each token, [M] float32 (not
        differentiable, for reports).
    """
    kind = _FusedLinearCrossEntropy if fused and torch.is_grad_enabled() else _LinearCrossEntropy
    total, losses = kind.apply(hidden, weight, targets, dtype)  # type: ignore[no-untyped-call]
    return total, losses
