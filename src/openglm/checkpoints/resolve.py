"""A name or path -> network and tokenizer; the format is told by content, not by name."""

from __future__ import annotations

import torch

from ..errors import CheckpointError
from ..model import GLMModel
from ..tokenizer import Tokenizer, load_tokenizer
from .find import find_folder
from .foreign import is_foreign, load_foreign, load_foreign_tokenizer
from .native import CONFIG_FILE, is_native, load_model


def open_model(name_or_path: str, *, device: str, dtype: torch.dtype) -> tuple[GLMModel, Tokenizer]:
    """Network (in evaluation mode) and tokenizer.

    Raises:
        ModelNotFoundError, CheckpointError, ConfigError, TokenizerError.
    """
    folder = find_folder(name_or_path)
    if is_native(folder):
        return load_model(folder, device=device, dtype=dtype), load_tokenizer(folder)
    if is_foreign(folder):
        return load_foreign(folder, device=device, dtype=dtype), load_foreign_tokenizer(folder)
    missing = "config.json" if not (folder / CONFIG_FILE).is_file() else "model.safetensors or pytorch_model.bin"
    raise CheckpointError(f"{folder}: no {missing} there, so this is not a model folder in a known format")
