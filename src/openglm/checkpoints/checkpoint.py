"""`Checkpoint`: an opened model folder, whatever its format, and the network built from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..network import quantization
from ..network.config import GLMConfig
from ..network.model import GLMModel
from ..tokenizer import Tokenizer
from . import beside
from .checksums import check_files
from .safetensors_files import SHARD_BYTES
from .vocabulary import Vocabulary, open_tokenizer
from .weights import StreamingReader, TensorInfo, Weights, check_tensors, is_finite

MISSING_AT_MOST = 10**7  # parameters


@dataclass(frozen=True)
class Checkpoint:
    """A model folder whose configuration and list of tensors have been read and agree.

    Attributes:
        format: one of `formats.FORMATS`.
        folder: where it lies.
        config: its configuration; `gelu` is what this format's own code computes.
        weights: its tensors, read on demand.
        vocabulary: what its tokenizer depends on.
        values: its configuration file as it stands.
    """

    format: str
    folder: Path
    config: GLMConfig
    weights: Weights
    vocabulary: Vocabulary
    values: Mapping[str, Any] = field(default_factory=dict)

    def tokenizer(self) -> Tokenizer:
        """Its tokenizer. Raises TokenizerError."""
        tokenizer = open_tokenizer(self.folder, self.vocabulary)
        check_files(self.folder)
        return tokenizer

    def network(
        self,
        *,
        device: str,
        dtype: torch.dtype,
        quantize: str | None = None,
        applies: Sequence[str] = (),
        taker: str = "this",
    ) -> GLMModel:
        """Its network, with its trained prompt where the caller applies one.

        Args:
            applies: the parts beside the network (`beside.PROMPT`, `beside.HEAD`) that the caller applies.
            taker: what the caller is, for the message that refuses others.

        Raises:
            CheckpointError: the folder has a part that the caller would leave out. Otherwise as `build`.
        """
        beside.check_parts(self.folder, applies, taker)
        model = build(self.config, self.weights, device=device, dtype=dtype, quantize=quantize)
        if beside.PROMPT in beside.parts_of(self.folder):
            beside.load_prompt(model, self.folder)
        return model


@dataclass(frozen=True)
class ExportSpec:
    """A network to be written in some format.

    Attributes:
        config: its configuration.
        weights: its tensors.
        infos: every tensor in the network's order, in the dtype to write.
        ranks: model-parallel pieces to write.
        shard_bytes: most bytes of a file of whole tensors.
        values: the configuration file it came with, if it was of the format to write.
    """

    config: GLMConfig
    weights: Weights
    infos: Mapping[str, TensorInfo]
    ranks: int = 1
    shard_bytes: int = SHARD_BYTES
    values: Mapping[str, Any] = field(default_factory=dict)


def expected_tensors(config: GLMConfig) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor of a network, in its order."""
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in GLMModel(config).state_dict().items()}


def check_weights(config: GLMConfig, weights: Weights, *, against: str = "config.json") -> None:
    """Whether the tensors are those of the configuration's network.

    Raises:
        CheckpointError: lists the missing, unexpected and misshapen tensors; or they are not
            floating point numbers.
    """
    found = {name: info.shape for name, info in weights.infos.items()}
    stored = sum(prod(shape) for shape in found.values())
    if config.num_parameters > 2 * stored + MISSING_AT_MOST:  # not even worth describing tensor by tensor
        raise CheckpointError(
            f"{weights.path}: holds {stored:,} parameters, {against} asks for {config.num_parameters:,} "
            f"({config.num_layers:,} layers of width {config.hidden_size:,}, {config.vocab_size:,} rows)"
        )
    check_tensors(expected_tensors(config), found, weights.path, against=against)
    for name, info in weights.infos.items():
        if not info.dtype.is_floating_point:
            raise CheckpointError(f"{weights.path}: {name} holds {info.dtype} values; quantised weights cannot be read")


def build(
    config: GLMConfig, weights: Weights, *, device: str, dtype: torch.dtype, quantize: str | None = None
) -> GLMModel:
    """The network with these weights, in evaluation mode.

    Weights that are stored in `dtype` and stay on the CPU are windows onto the mapped files:
    loading them costs no memory of its own. Weights to be rounded are rounded one by one.

    Args:
        quantize: as in `quantization.quantize`.

    Raises:
        CheckpointError: tensors that do not fit the configuration, a damaged file, or values
            that are not finite numbers.
        OptionError: as `quantization.quantize`.
    """
    check_weights(config, weights)
    with torch.device("meta"):
        model = GLMModel(config)
    kept = weights.windows and device == "cpu" and all(info.dtype == dtype for info in weights.infos.values())
    read = weights.read if kept and quantize is None else StreamingReader(weights)

    def sound(name: str) -> Tensor:
        stored = read(name)
        tensor = stored.to(device, dtype)
        known = name in weights.finite and not (dtype == torch.float16 != stored.dtype)  # which has little range
        if not known and not is_finite(tensor):
            raise CheckpointError(
                f"{weights.path}: {name} holds values that are not finite numbers; fetch or copy it again"
            )
        return tensor

    on_cpu = torch.device(device).type == "cpu"
    if quantize is not None and on_cpu:
        quantization.check(quantize, "cpu")
        for name in quantization.to_quantize(model):
            bias = f"{name}.bias"
            quantization.quantize_module(
                model, name, sound(f"{name}.weight"), sound(bias) if bias in weights.infos else None
            )
        model.quantized = quantize
    state = {name: sound(name) for name, tensor in model.state_dict().items() if tensor.is_meta}
    weights.release()
    model.load_state_dict(state, strict=False, assign=True)
    return model.eval() if quantize is None or on_cpu else quantization.quantize(model, quantize)
