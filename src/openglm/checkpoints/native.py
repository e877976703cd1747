"""openglm's own model folder: `config.json`, `model.safetensors` (in shards when large), the tokenizer files.

Weights are read with safetensors, which executes nothing. Every tensor is checked against
the configuration before any of it is used.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError, ConfigError, OptionError
from ..files import write_atomically
from ..network.config import GLMConfig
from ..network.model import GLMModel
from ..tokenizer import Tokenizer
from . import beside
from .checkpoint import Checkpoint, ExportSpec, check_weights
from .checksums import SummingReader, checked, write_checksums
from .formats import CONFIG_FILE, OPENGLM, read_json, weight_files
from .safetensors_files import SHARD_BYTES, SINGLE_FILE, read_files, write_files
from .vocabulary import Vocabulary
from .weights import StreamingReader, TensorInfo, Weights

WEIGHTS_FILE = SINGLE_FILE
# Keys of config.json that say nothing about the network: what tells the format, and what transformers adds.
NOT_OURS = ("format", "model_type", "token_ids", "architectures", "dtype", "torch_dtype", "transformers_version")


def save_model(
    folder: Path,
    model: GLMModel,
    tokenizer: Tokenizer,
    *,
    dtype: torch.dtype | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write a model folder, each file complete or not at all; the checksums come last.

    Args:
        dtype: what to store the weights in (default: as they are).
        shard_bytes: most bytes of one weights file; larger models get several.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = model.state_dict()
    infos = {name: TensorInfo(tuple(tensor.shape), dtype or tensor.dtype) for name, tensor in state.items()}
    read = SummingReader(state.__getitem__, infos)
    write_files(folder, infos, read, shard_bytes=shard_bytes)
    for name, content in tokenizer.files().items():
        write_atomically(folder / name, content)
    write_config(folder, model.config)
    beside_it = [name for name in (beside.HEAD_WEIGHTS, beside.PROMPT_WEIGHTS) if (folder / name).is_file()]
    write_checksums(folder, read.sums, [*tokenizer.files(), *beside_it])


def write_config(folder: Path, config: GLMConfig, **further: Any) -> None:
    """Write `config.json`; `further` values are those of the integration with transformers."""
    values = {"format": OPENGLM, "model_type": OPENGLM, **config.to_dict(), **further}
    write_atomically(folder / CONFIG_FILE, (json.dumps(values, indent=2) + "\n").encode())


def write_native(folder: Path, model: ExportSpec) -> None:
    """Write weights and configuration of a network that passes through.

    Raises:
        OptionError: pieces were asked for.
    """
    if model.ranks != 1:
        raise OptionError("--model-parallel: openglm's own format has no model-parallel pieces; leave it at 1")
    read = SummingReader(StreamingReader(model.weights), model.infos)
    write_files(folder, model.infos, read, shard_bytes=model.shard_bytes)
    model.weights.release()
    write_config(folder, model.config)
    write_checksums(folder, read.sums)


def is_native(folder: Path) -> bool:
    """Whether this folder's configuration says it is in openglm's own format."""
    try:
        return bool(read_json(folder / CONFIG_FILE).get("format") == OPENGLM)
    except CheckpointError:
        return False


def read_config(folder: Path) -> GLMConfig:
    """The configuration of a model folder.

    Raises:
        CheckpointError: missing or not JSON.
        ConfigError: a wrong key or value; the message names the file.
    """
    path = folder / CONFIG_FILE
    values = read_json(path)
    values = {key: value for key, value in values.items() if key not in NOT_OURS}
    try:
        return GLMConfig.from_dict(values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _weights(folder: Path) -> Weights:
    found = weight_files(folder)
    if found is None or found.files[0].suffix != ".safetensors":
        return read_files([folder / WEIGHTS_FILE])  # which says that there is no such file
    return read_files(found.files)


def open_native(folder: Path) -> Checkpoint:
    """A folder in openglm's own format.

    Raises:
        CheckpointError: files that are missing, truncated or corrupted, or tensors that do not fit.
        ConfigError: as `read_config`.
    """
    config, weights = read_config(folder), checked(folder, _weights(folder))
    check_weights(config, weights)
    return Checkpoint(OPENGLM, folder, config, weights, Vocabulary(config.vocab_size))


def load_model(folder: Path, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> GLMModel:
    """The network of a model folder, in evaluation mode. Raises as its parts do."""
    return open_native(folder).network(device=device, dtype=dtype)
