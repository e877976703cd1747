"""Which parameters of a network are trained: all, adapters, a prompt, the last layers, biases.

Knows parameters and their names; nothing about tasks or data.
"""

from __future__ import annotations

import torch
from torch import nn

from ..errors import OptionError
from ..network.model import Attention, GLMModel
from ..network.prompt import add_prompt
from .adapters import adapter_parameters, add_adapter
from .recipe import MethodOptions


def choose_parameters(model: GLMModel, method: MethodOptions, seed: int) -> None:
    """Add what the method adds, and let gradients reach what it trains, in place.

    Args:
        seed: of what is added.

    Raises:
        OptionError: more layers than the network has.
    """
    if method.layers > model.config.num_layers:
        raise OptionError(f"method.layers is {method.layers}, but the model has {model.config.num_layers} layers")
    torch.manual_seed(seed)
    model.requires_grad_(method.name == "full")
    if method.name == "lora":
        add_adapter(model, method.lora)
        for parameter in adapter_parameters(model).values():
            parameter.requires_grad_(True)
    elif method.name == "prompt":
        add_prompt(model, method.prompt)
    elif method.name == "bias":
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.endswith("bias") or "layernorm" in name)
    if method.layers:
        for layer in list(model.transformer.layers)[-method.layers :]:
            layer.requires_grad_(True)
        model.transformer.final_layernorm.requires_grad_(True)


def set_dropout(model: GLMModel, probability: float) -> None:
    """The dropout of a network in training; its configuration stays what it is."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = probability
        elif isinstance(module, Attention):
            module.dropout = probability


def trained(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that gradients reach, by name."""
    return {name: value for name, value in module.named_parameters() if value.requires_grad}


def count(module: nn.Module) -> tuple[int, int]:
    """How many numbers are trained, and how many there are."""
    sizes = [(value.numel(), value.requires_grad) for value in module.parameters()]
    return sum(size for size, is_trained in sizes if is_trained), sum(size for size, _ in sizes)
