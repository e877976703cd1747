"""LoRA: a small trained difference beside each frozen matrix (Hu et al. 2021, arXiv 2106.09685).

    y = x W^T + b + (alpha / rank) dropout(x) A^T B^T

A is drawn at random and B starts at 0, so an adapter that has not been trained changes
nothing. Parameter names of the network stay what they are; those of a layer with an adapter
are joined by `lora_a` and `lora_b`. An adapter is saved alone, as a small folder that names
the model it belongs to, and can be put on that model again or merged into its weights.

Knows networks and files; nothing about tasks or how anything is trained.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..checkpoints import beside
from ..errors import CheckpointError, OptionError
from ..files import write_atomically
from ..network.layers import Linear
from ..network.model import GLMModel

WEIGHTS_FILE, SETTINGS_FILE = "adapter.safetensors", "adapter.json"
FORMAT = "openglm-lora"
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

    def __init__(self, base: nn.Linear, options: LoraOptions) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = base.in_features, base.out_features
        self.weight, self.bias = base.weight, base.bias
        self.scale = options.alpha / options.rank
        self.dropout = nn.Dropout(options.dropout)
        self.lora_a = nn.Parameter(base.weight.new_empty(options.rank, base.in_features))
        self.lora_b = nn.Parameter(base.weight.new_zeros(base.out_features, options.rank))
        with torch.no_grad():
            bound = 1 / math.sqrt(base.in_features)
            self.lora_a.uniform_(-bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        change = F.linear(F.linear(self.dropout(x), self.lora_a), self.lora_b)
        return F.linear(x, self.weight, self.bias) + self.scale * change

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
    for parent, name, layer in list(_linears(model)):
        if isinstance(layer, LoraLinear):
            raise OptionError("this network has an adapter already; merge it first")
        if name in names:
            setattr(parent, name, LoraLinear(layer, options))


def merge(model: GLMModel) -> None:
    """Add the adapter of a network to its weights in place; a network without one stays as it is."""
    for parent, name, layer in list(_linears(model)):
        if isinstance(layer, LoraLinear):
            setattr(parent, name, layer.merged())


def adapter_parameters(model: GLMModel) -> dict[str, nn.Parameter]:
    """The parameters of the adapter by name; empty if there is none."""
    return {name: value for name, value in model.named_parameters() if name.endswith((".lora_a", ".lora_b"))}


def save_adapter(folder: Path, model: GLMModel, options: LoraOptions, *, base_model: str) -> None:
    """Write the adapter of a network as a folder, each file complete or not at all.

    Args:
        base_model: name or path of the model that it belongs to.

    Raises:
        OptionError: the network has no adapter.
    """
    from safetensors.torch import save

    tensors = {name: value.detach().cpu().contiguous() for name, value in adapter_parameters(model).items()}
    if not tensors:
        raise OptionError("this network has no adapter to save")
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / WEIGHTS_FILE, save(tensors))
    settings = {"base_model": base_model, **asdict(options), "targets": list(options.targets)}
    beside.write_settings(folder / SETTINGS_FILE, FORMAT, settings)


def read_settings(folder: Path) -> tuple[LoraOptions, str]:
    """The size of a saved adapter and the model that it belongs to.

    Raises:
        CheckpointError: not a folder of an adapter.
    """
    path = folder / SETTINGS_FILE
    try:
        values = beside.read_settings(path, FORMAT)
        base_model = str(values.pop("base_model"))
        return LoraOptions(**values), base_model
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: not the settings of an adapter ({error})") from error


def load_adapter(model: GLMModel, folder: str | Path) -> LoraOptions:
    """Put a saved adapter on a network in place; `merge` then makes the network a plain one.

    Raises:
        CheckpointError: missing or damaged files, or an adapter of another network.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    options, base_model = read_settings(folder)
    path = folder / WEIGHTS_FILE
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from error
    expected = _shapes(model, options)
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if found != expected:
        wrong = next(name for name in {**expected, **found} if expected.get(name) != found.get(name))
        raise CheckpointError(
            f"{path}: of another network: {wrong} is {found.get(wrong, 'missing')} there and "
            f"{expected.get(wrong, 'unknown')} here; it belongs to {base_model!r}"
        )
    add_adapter(model, options)
    with torch.no_grad():
        for name, parameter in adapter_parameters(model).items():
            parameter.copy_(tensors[name])
    return options


def _shapes(model: GLMModel, options: LoraOptions) -> dict[str, tuple[int, ...]]:
    names = {name for target in options.targets for name in TARGETS[target]}
    out: dict[str, tuple[int, ...]] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] in names:
            out[f"{name}.lora_a"] = (options.rank, module.in_features)
            out[f"{name}.lora_b"] = (module.out_features, options.rank)
    return out


def _linears(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    parents: Sequence[nn.Module] = list(model.modules())
    for parent in parents:
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear):
                yield parent, name, child
