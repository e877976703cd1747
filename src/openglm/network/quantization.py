"""Weights of 8 bits for inference: on a CPU by the kernels here, on a GPU by torchao.

    y = s_x s_w (x_q W_q^T) + b

Each output channel of a weight has a scale of its own, and so has each token of what comes
in; products are summed exactly, in 32-bit integers. A token's result depends on no other
token, so a text gets the same in any batch. What lies between the products stays float32.

The products are FBGEMM's, which reads weights at the speed of the memory; where torch lacks
it, oneDNN's; where it lacks both, plain torch, which saves memory but no time.
"""

from __future__ import annotations

import functools
import itertools
import warnings
import weakref
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import OptionError

if TYPE_CHECKING:
    from .model import GLMModel

QUANTIZE = ("int8", "int4")


class Product(Protocol):
    """x_q W_q^T scaled by the channels' scales.

    Args:
        x: [M, K] float32 with values in -1 .. 1; rounded here to multiples of 1 / limit.

    Returns:
        [M, N] float32.
    """

    def __call__(self, x: Tensor) -> Tensor: ...  # noqa: D102


class Fbgemm:
    """FBGEMM's packed product."""

    @staticmethod
    def available() -> bool:
        """Whether this torch has it."""
        return "fbgemm" in torch.backends.quantized.supported_engines and hasattr(
            torch.ops.quantized, "linear_with_input_q_dq_qweight_dq_output_fp32"
        )

    def __init__(self, weight: Tensor, scale: Tensor, limit: int) -> None:
        self._zero, self._unit = limit + 1, 1 / limit
        zeros = torch.zeros(len(scale), dtype=torch.int64)
        engine = torch.backends.quantized.engine
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch means to drop these tensors some day; then oneDNN takes over
            torch.backends.quantized.engine = "fbgemm"
            try:
                tensor = torch._make_per_channel_quantized_tensor(weight, scale.double(), zeros, 0)
                self._packed = torch.ops.quantized.linear_prepack(tensor, None)
            finally:
                torch.backends.quantized.engine = engine
        self._product = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32.default

    def __call__(self, x: Tensor) -> Tensor:
        """As `Product`."""
        out: Tensor = self._product(x, self._unit, self._zero, self._packed)
        return out


class OneDnn:
    """oneDNN's packed product."""

    @staticmethod
    def available() -> bool:
        """Whether this torch has it."""
        return bool(torch._C._has_mkldnn) and hasattr(torch.ops.onednn, "qlinear_pointwise")

    def __init__(self, weight: Tensor, scale: Tensor, limit: int) -> None:
        self._limit, self._zero, self._scale = limit, limit + 1, scale.float() / limit
        self._zeros = torch.zeros(len(scale), dtype=torch.int64)
        self._packed = torch.ops.onednn.qlinear_prepack(weight, None)

    def __call__(self, x: Tensor) -> Tensor:
        """As `Product`."""
        # Cutting off what was raised by a half rounds.
        unsigned = (x * self._limit).add_(self._zero + 0.5).to(torch.uint8)
        out: Tensor = torch.ops.onednn.qlinear_pointwise(
            unsigned, 1.0, self._zero, self._packed, self._scale, self._zeros,
            None, 1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip
        return out


class Plain:
    """The product by its definition."""

    @staticmethod
    def available() -> bool:
        """Always."""
        return True

    def __init__(self, weight: Tensor, scale: Tensor, limit: int) -> None:
        self._weight, self._scale, self._limit = weight, scale.float() / limit, limit

    def __call__(self, x: Tensor) -> Tensor:
        """As `Product`."""
        return F.linear((x * self._limit).round_(), self._weight.float()).mul_(self._scale)


KERNELS: tuple[type[Fbgemm | OneDnn | Plain], ...] = (Fbgemm, OneDnn, Plain)


@functools.cache
def activation_limit() -> int:
    """Largest integer of what comes in. Without VNNI, sums of two products of 8 bits overflow 16 bits."""
    known = getattr(torch.cpu, "_is_vnni_supported", None)
    return 127 if known is not None and known() else 63


def rounded(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Weights [N, K] as int8 and the scale of each channel, [N] float32."""
    weight = weight.float()
    scale = weight.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny).div_(127)
    return (weight / scale[:, None]).round_().to(torch.int8), scale


# A compiled graph calls products by numbers.
_numbers = itertools.count()
NUMBERED: weakref.WeakValueDictionary[int, Int8Linear] = weakref.WeakValueDictionary()


class Int8Linear(nn.Module):
    """A linear layer with int8 weights.

    Args:
        weight: [N, K] of any floating point type, not kept; or what `rounded` made of it.
        bias: [N], or None.
        kernel: one of `KERNELS`; by default the first that this torch has.
    """

    def __init__(
        self,
        weight: Tensor | tuple[Tensor, Tensor],
        bias: Tensor | None = None,
        kernel: type[Fbgemm | OneDnn | Plain] | None = None,
    ) -> None:
        super().__init__()
        table, scale = rounded(weight) if isinstance(weight, Tensor) else weight
        self.out_features, self.in_features = table.shape
        chosen = kernel or next(each for each in KERNELS if each.available())
        self.product: Product = chosen(table, scale, activation_limit())
        self.bias = None if bias is None else nn.Parameter(bias.float(), requires_grad=False)
        self.number = next(_numbers)
        NUMBERED[self.number] = self

    def forward(self, x: Tensor) -> Tensor:
        """[..., K] -> [..., N] float32."""
        flat = x.reshape(-1, self.in_features)
        if flat.dtype != torch.float32:
            flat = flat.float()
        largest = flat.abs().amax(-1, keepdim=True).clamp_min_(1e-30)
        scaled = flat / largest
        if torch.compiler.is_compiling():
            out: Tensor = torch.ops.openglm.int8_product(scaled, self.number, self.out_features)
        else:
            out = self.product(scaled)
        out = out.mul_(largest) if self.bias is None else torch.addcmul(self.bias, out, largest, out=out)
        return out.view(*x.shape[:-1], self.out_features)


class Int8Embedding(nn.Module):
    """An embedding with int8 rows, and the projection onto it.

    Attributes:
        weight: [V, D] int8.
        scale: [V] float32.
    """

    weight: Tensor
    scale: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        table, scale = rounded(weight)
        self.register_buffer("weight", table)
        self.register_buffer("scale", scale)
        self._projection = Int8Linear((table, scale))

    def forward(self, ids: Tensor) -> Tensor:
        """[...] ids -> [..., D] float32."""
        return self.weight[ids] * self.scale[ids][..., None]

    def scores(self, hidden: Tensor) -> Tensor:
        """[..., D] -> [..., V] float32."""
        out: Tensor = self._projection(hidden)
        return out


def quantize_module(model: nn.Module, name: str, weight: Tensor, bias: Tensor | None) -> None:
    """Put an int8 module in the place of the linear layer or word embedding called `name`."""
    parent, _, own = name.rpartition(".")
    new: nn.Module = Int8Embedding(weight) if name == "word_embeddings" else Int8Linear(weight, bias)
    setattr(model.get_submodule(parent), own, new)


def to_quantize(model: GLMModel) -> list[str]:
    """Names of the modules whose weights are rounded: linear layers and the word embedding."""
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    return ["word_embeddings", *linear]


def quantize(model: GLMModel, how: str) -> GLMModel:
    """Round the weights of a model in place; it can then no longer be trained or saved.

    On a GPU the linear layers' weights alone are rounded, by torchao, and the word embedding
    stays as it is.

    Args:
        how: "int8"; on a GPU also "int4", in groups of 128 weights.

    Raises:
        OptionError: another kind, one that the device lacks, or no torchao.
    """
    device = model.word_embeddings.weight.device.type
    check(how, device)
    if device != "cpu":
        return weights_only(model, how)
    for name in to_quantize(model):
        module: Any = model.get_submodule(name)
        quantize_module(model, name, module.weight.detach(), getattr(module, "bias", None))
    model.float().quantized = how
    return model.eval()


def weights_only(model: GLMModel, how: str) -> GLMModel:
    """Round the weights of the linear layers with torchao, in place; activations keep their type."""
    try:
        from torchao.quantization import Int4WeightOnlyConfig, Int8WeightOnlyConfig, quantize_
    except ImportError as error:
        raise OptionError(f"quantize={how!r} on a GPU needs torchao: pip install torchao") from error
    try:
        quantize_(model.transformer, Int8WeightOnlyConfig() if how == "int8" else Int4WeightOnlyConfig())
    except ImportError as error:  # some kinds need kernels that come apart from torchao
        raise OptionError(f"quantize={how!r}: {error}; use int8, or install what it needs") from error
    model.quantized = how
    return model.eval()


def check(how: str, device: str) -> None:
    """Raise OptionError for what `quantize` cannot do."""
    if how not in QUANTIZE:
        raise OptionError(f"quantize {how!r} is unknown; use {', '.join(QUANTIZE)} or None")
    if device not in ("cpu", "cuda"):
        raise OptionError(f"quantize={how!r} is for a CPU or a CUDA device, not for {device}")
    if how == "int4" and device == "cpu":
        raise OptionError("quantize='int4' is for a GPU; on a CPU use int8")
