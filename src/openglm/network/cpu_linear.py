"""Products of a few rows with a large float32 matrix, on a CPU.

For one row, or a handful, MKL reads the matrix at about half the speed of the memory. Cut
into one piece per thread and multiplied as a batch, it is read at nearly all of it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

FEW = 16  # rows up to which cutting is faster


def _threads() -> int:
    return torch.get_num_threads()


# What `torch.compiler.assume_constant_result` does, which would import the compiler for it.
_threads._dynamo_marked_constant = True  # type: ignore[attr-defined]


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + b, as `torch.nn.functional.linear`: [..., K] and [N, K] -> [..., N]."""
    if weight.dtype != torch.float32 or weight.device.type != "cpu" or torch.is_grad_enabled():
        return F.linear(x, weight, bias)
    rows, (out_features, in_features), threads = x.numel() // x.shape[-1], weight.shape, _threads()
    if not 0 < rows <= FEW or out_features % threads or not weight.is_contiguous() or x.dtype != weight.dtype:
        return F.linear(x, weight, bias)
    pieces = weight.view(threads, -1, in_features).transpose(1, 2)
    out = torch.bmm(x.reshape(1, rows, in_features).expand(threads, -1, -1), pieces)  # [threads, rows, N / threads]
    out = out.transpose(0, 1).reshape(*x.shape[:-1], out_features)
    return out if bias is None else out.add_(bias)
