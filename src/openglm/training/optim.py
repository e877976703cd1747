"""Optimizers, learning-rate schedules, and the norm of a gradient."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import OptionError
from .muon import Muon

SCHEDULES = ("cosine", "linear", "wsd", "constant")
OPTIMIZERS = ("muon", "adamw")


@dataclass(frozen=True)
class OptimizerOptions:
    """How to update weights.

    Attributes:
        name: "adamw", or "muon" for the matrices of the layers with AdamW for the rest.
        learning_rate: peak rate of AdamW.
        muon_learning_rate: peak rate of Muon, scaled to match AdamW's update size.
        weight_decay: of matrices and embeddings; biases and LayerNorm have none.
        betas, epsilon: of AdamW.
        clip: largest gradient norm.
        schedule: "cosine" or "linear" to `final` times the peak; "wsd": constant, then linear
            to `final` over the last `decay` share of the steps; "constant".
        warmup: share of the schedule during which the rate rises linearly from 0.
        schedule_share: share of the steps that the schedule takes; after it the rate stays
            where the schedule ended.
    """

    name: str = "adamw"
    learning_rate: float = 4e-4
    muon_learning_rate: float = 5e-3
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.98)
    epsilon: float = 1e-6
    clip: float = 1.0
    schedule: str = "cosine"
    warmup: float = 0.04
    decay: float = 0.3
    final: float = 0.1
    schedule_share: float = 1.0

    def __post_init__(self) -> None:
        if self.name not in OPTIMIZERS:
            raise OptionError(f"optimizer {self.name!r} is unknown; known are {', '.join(OPTIMIZERS)}")
        if self.schedule not in SCHEDULES:
            raise OptionError(f"schedule {self.schedule!r} is unknown; known are {', '.join(SCHEDULES)}")
        if self.learning_rate <= 0 or self.muon_learning_rate <= 0 or self.clip <= 0:
            raise OptionError("learning rates and clip must be above 0")
        if not 0 < self.schedule_share <= 1:
            raise OptionError(f"schedule_share must be above 0 and at most 1, not {self.schedule_share}")
        try:
            betas = tuple(float(beta) for beta in self.betas)
        except (TypeError, ValueError):
            betas = ()
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise OptionError(f"betas must be two numbers, at least 0 and below 1, not {self.betas!r}")
        object.__setattr__(self, "betas", betas)


def rate_factor(step: int, steps: int, options: OptimizerOptions) -> float:
    """Share of the peak learning rate for update `step` of `steps`, counted from 0."""
    steps = max(1, round(options.schedule_share * steps))
    warmup = max(1, round(options.warmup * steps))
    if step < warmup:
        return (step + 1) / warmup
    if options.schedule == "constant":
        return 1.0
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    if options.schedule == "cosine":
        return options.final + (1 - options.final) * (1 + math.cos(math.pi * progress)) / 2
    if options.schedule == "linear":
        return options.final + (1 - options.final) * (1 - progress)
    left = max(0, steps - step) / max(1, round(options.decay * steps))
    return options.final + (1 - options.final) * min(1.0, left)


def build_optimizers(
    model: nn.Module, options: OptimizerOptions, *, fused: bool = False
) -> list[torch.optim.Optimizer]:
    """One optimizer, or two for Muon. Each group remembers its peak rate as `peak_lr`.

    The weights must be where they will stay, and shared out already if they are to be.

    Args:
        fused: use AdamW's fused kernel on a CPU too; the same up to rounding.
    """
    matrices, decayed, plain = [], [], []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if "layernorm" in name or name.endswith("bias"):
            plain.append(parameter)
        elif options.name == "muon" and ".layers." in name:
            matrices.append(parameter)
        else:
            decayed.append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": options.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    on_gpu = any(parameter.is_cuda for parameter in model.parameters())
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(
            [g for g in groups if g["params"]],
            lr=options.learning_rate,
            betas=options.betas,
            eps=options.epsilon,
            fused=True if on_gpu or fused else None,
        )
    ]
    if matrices:
        optimizers.append(Muon(matrices, lr=options.muon_learning_rate, weight_decay=options.weight_decay))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers


def set_rate(optimizers: list[torch.optim.Optimizer], factor: float) -> None:
    """Scale every group's learning rate to `factor` times its peak."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor


def clip_gradients(parameters: Iterable[Tensor], largest: float) -> Tensor:
    """Scale gradients so that their norm is at most `largest`; returns the norm before, a plain scalar.

    Where weights are spread over processes it is the norm of the whole gradient.
    """
    norm = torch.nn.utils.clip_grad_norm_(parameters, largest)
    whole: Tensor = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
    return whole
