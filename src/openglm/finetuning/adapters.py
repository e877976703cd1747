"""LoRA: a small trained difference beside each frozen matrix (Hu et al. 2021, arXiv 2106.09685).

    y = x W^T + b + (alpha / rank) dropout(x) A^T B^T

A is drawn at random and B starts at 0, so an adapter that has not been trained changes
nothing. Parameter names of the network stay what they are; those of a layer with an adapter
are joined by `lora_a` and `lora_b`. `adapter_files.py` saves an adapter alone.

Knows networks; nothing about files, tasks or how anything is trained.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import OptionError
from ..network.cpu_linear import linear
from ..network.layers import Linear
from ..network.model import GLMModel

# What a target names, by the last part of a layer's name.
TARGETS = {
    "query_key_value": ("query_key_value",),
    "dense": ("dense",),
    "mlp": ("dense_h_to_4h", "dense_4h_to_h"),
}


@dataclass(frozen=True)
class LoraOptions:
    """The size of an adapter.

    Attributes:
        rank: of the trained difference.
        alpha: the difference is scaled by alpha / rank.
        dropout: of what goes into A, in training.
        targets: which layers get one: any of `TARGETS`.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[str, ...] = tuple(TARGETS)

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha <= 0:
            raise OptionError(f"rank and alpha of LoRA must be above 0, not {self.rank} and {self.alpha}")
        if not 0 <= self.dropout < 1:
            raise OptionError(f"the dropout of LoRA must be at least 0 and below 1, not {self.dropout}")
        if isinstance(self.targets, str):
            object.__setattr__(self, "targets", (self.targets,))
        object.__setattr__(self, "targets", tuple(self.targets))
        unknown = [target for target in self.targets if target not in TARGETS]
        if unknown or not self.targets:
            raise OptionError(f"targets of LoRA are {', '.join(TARGETS)}, not {', '.join(unknown) or 'none'}")


class LoraLinear(Linear):
    """A linear layer with an adapter; its own weight and bias are shared with the layer it replaces.

    Attributes:
        lora_a: [rank, in], lora_b: [out, rank].
    """

    def __init__(self, base: nn.Linear, rank: int, scale: float, dropout: float = 0.0) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = base.in_features, base.out_features
        self.weight, self.bias = base.weight, base.bias
        self.scale = scale
        self.dropout = nn.Dropout(dropout)
        self.lora_a = nn.Parameter(base.weight.new_empty(rank, base.in_features))
        self.lora_b = nn.Parameter(base.weight.new_zeros(base.out_features, rank))
        with torch.no_grad():
            bound = 1 / math.sqrt(base.in_features)
            self.lora_a.uniform_(-bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        change = F.linear(F.linear(self.dropout(x), self.lora_a), self.lora_b)
        return linear(x, self.weight, self.bias) + self.scale * change

    @torch.no_grad()
    def merged(self) -> Linear:
        """A plain layer that computes the same."""
        out = Linear(self.in_features, self.out_features, bias=True, device="meta")
        weight = self.weight + self.scale * (self.lora_b @ self.lora_a)
        out.weight = nn.Parameter(weight, requires_grad=self.weight.requires_grad)
        out.bias = self.bias
        return out


def add_adapter(model: GLMModel, options: LoraOptions) -> None:
    """Put a fresh adapter on a network in place; A is drawn from torch's default generator.

    Raises:
        OptionError: the network has one already.
    """
    names = {name for target in options.targets for name in TARGETS[target]}
    layers = [name for name in linear_layers(model) if name.rpartition(".")[2] in names]
    put_adapter(model, dict.fromkeys(layers, (options.rank, options.alpha / options.rank)), options.dropout)


def put_adapter(model: GLMModel, layers: Mapping[str, tuple[int, float]], dropout: float = 0.0) -> None:
    """Put a fresh adapter on the layers named, in the network's order, with a rank and a scale each."""
    if adapter_parameters(model):
        raise OptionError("this network has an adapter already; merge it first")
    for name, layer in linear_layers(model).items():
        if name in layers:
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, LoraLinear(layer, *layers[name], dropout))


def linear_layers(model: GLMModel) -> dict[str, nn.Linear]:
    """Layers that an adapter can be put on, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}


def merge(model: GLMModel) -> None:
    """Add the adapter of a network to its weights in place; a network without one stays as it is."""
    for name, layer in linear_layers(model).items():
        if isinstance(layer, LoraLinear):
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, layer.merged())


def adapter_parameters(model: GLMModel) -> dict[str, nn.Parameter]:
    """The parameters of the adapter by name; empty if there is none."""
    return {name: value for name, value in model.named_parameters() if name.endswith((".lora_a", ".lora_b"))}
