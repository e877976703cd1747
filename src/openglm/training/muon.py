"""Muon: momentum whose matrices are made orthogonal before they are applied.

Keller Jordan's optimizer for hidden matrices (2024), with the learning rate scaled to
AdamW's update size as in "Muon is Scalable for LLM Training" (2025). Its numbers are those
of `torch.optim.Muon`; beyond that it takes matrices of one shape together, which a GPU
needs, and matrices whose rows are spread over processes: each process then makes whole its
share of the matrices, and gives the rows back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic iteration, chosen for a steep start
ITERATIONS = 5
SMALLEST_NORM = 1e-7


def orthogonalised(matrices_NAB: Tensor) -> Tensor:
    """N matrices [N, A, B], each replaced by about the nearest orthogonal one, in bfloat16."""
    a, b, c = COEFFICIENTS
    x = matrices_NAB.bfloat16()
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    x = x / torch.stack([matrix.norm() for matrix in x])[:, None, None].clamp(min=SMALLEST_NORM)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum and decoupled weight decay.

    Args:
        parameters: matrices, plain or `DTensor`s whose rows are spread over one mesh.
        lr: peak rate, scaled by 0.2 sqrt(larger side) to the size of AdamW's updates.
        weight_decay: share of the weights, times `lr`, that is taken away.
        momentum: of the running mean of gradients.
    """

    def __init__(self, parameters: Iterable[Tensor], *, lr: float, weight_decay: float, momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every matrix that has a gradient."""
        assert closure is None, "Muon takes no closure"
        for group in self.param_groups:
            alike: dict[Any, list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    alike.setdefault((parameter.shape, parameter.device), []).append(parameter)
            for parameters in alike.values():
                self._update(group, parameters)

    def _update(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        momentum, rate = group["momentum"], group["lr"]
        directions = []
        for parameter in parameters:
            state, gradient = self.state[parameter], parameter.grad
            assert gradient is not None
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(gradient)
            mean = _local(state["momentum_buffer"]).lerp_(_local(gradient), 1 - momentum)
            directions.append(_local(gradient).lerp(mean, momentum))
        stacked = torch.stack(directions)
        first = parameters[0]
        updates = orthogonalised(stacked) if _is_plain(first) else _orthogonalised_shards(stacked, first)
        scale = 0.2 * math.sqrt(max(first.shape))
        for parameter, update in zip(parameters, updates, strict=True):
            local = _local(parameter)
            local.mul_(1 - rate * group["weight_decay"])
            local.add_(update, alpha=-rate * scale)


def _is_plain(tensor: Tensor) -> bool:
    return not hasattr(tensor, "placements")


def _local(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process holds; writing to it writes to the tensor."""
    return tensor if _is_plain(tensor) else tensor._local_tensor  # type: ignore[attr-defined]


def _orthogonalised_shards(rows_NAB: Tensor, like: DTensor | Tensor) -> Tensor:
    """This process's rows of N orthogonalised matrices, from its rows of the matrices.

    The matrices are re-dealt: from some rows of all of them to all rows of some of them,
    and back. bfloat16 halves what is sent, and is what the iteration begins with.
    """
    from torch.distributed.tensor import DTensor, Shard

    mesh = like.device_mesh  # type: ignore[union-attr]
    shape = torch.Size((len(rows_NAB), *like.shape))
    stride = (shape[1] * shape[2], shape[2], 1)
    rows = DTensor.from_local(rows_NAB.bfloat16(), mesh, [Shard(1)], run_check=False, shape=shape, stride=stride)
    whole = rows.redistribute(placements=[Shard(0)]).to_local()
    done = orthogonalised(whole).contiguous() if len(whole) else whole
    dealt = DTensor.from_local(done, mesh, [Shard(0)], run_check=False, shape=shape, stride=stride)
    return dealt.redistribute(placements=[Shard(1)]).to_local()
