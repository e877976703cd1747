"""A name or path -> network and tokenizer; the format is told by content, not by name."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import torch

from ..network.model import GLMModel
from ..tokenizer import Tokenizer
from .beside import PROMPT
from .checkpoint import Checkpoint, ExportSpec
from .find import find_folder
from .flagai import open_flagai, write_flagai
from .formats import FLAGAI, HUGGINGFACE, OPENGLM, THUDM, detect
from .huggingface import open_huggingface, write_huggingface
from .native import open_native, write_native
from .thudm import open_thudm, write_thudm

OPEN: dict[str, Callable[[Path], Checkpoint]] = {
    OPENGLM: open_native,
    FLAGAI: open_flagai,
    HUGGINGFACE: open_huggingface,
    THUDM: open_thudm,
}
WRITE: dict[str, Callable[[Path, ExportSpec], None]] = {
    OPENGLM: write_native,
    FLAGAI: write_flagai,
    HUGGINGFACE: write_huggingface,
    THUDM: write_thudm,
}


def open_checkpoint(folder: Path) -> Checkpoint:
    """The model folder, opened: its configuration read, its list of tensors checked.

    Raises:
        CheckpointError, ConfigError: as the format's own `open_*`.
    """
    return OPEN[detect(folder)](folder)


def open_model(
    name_or_path: str,
    *,
    device: str,
    dtype: torch.dtype,
    quantize: str | None = None,
    revision: str | None = None,
) -> tuple[GLMModel, Tokenizer]:
    """Network (in evaluation mode, with its trained prompt if it has one) and tokenizer.

    Args:
        quantize: as in `quantization.quantize`.
        revision: branch, tag or commit of a model on the hub.

    Raises:
        ModelNotFoundError, CheckpointError, ConfigError, TokenizerError.
    """
    checkpoint = open_checkpoint(find_folder(name_or_path, revision=revision))
    tokenizer = checkpoint.tokenizer()
    left_out = checkpoint.weights.left_out
    if left_out:
        warnings.warn(
            f"{checkpoint.folder}: {len(left_out)} tensors belong to a task and not to the network "
            f"({left_out[0]}, ...); they are left out",
            stacklevel=2,
        )
    model = checkpoint.network(
        device=device, dtype=dtype, quantize=quantize, applies=(PROMPT,), taker="filling, choosing and scoring"
    )
    return model, tokenizer
