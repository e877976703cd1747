"""openglm's own model folder: `config.json`, `model.safetensors`, the tokenizer files.

Weights are read with safetensors, which executes nothing. Every tensor is checked against
the configuration before any of it is used.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..config import GLMConfig
from ..errors import CheckpointError, ConfigError
from ..files import replacing, write_atomically
from ..model import GLMModel
from ..tokenizer import Tokenizer

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
FORMAT = "openglm"


def save_model(folder: Path, model: GLMModel, tokenizer: Tokenizer, *, dtype: torch.dtype | None = None) -> None:
    """Write a model folder, each file complete or not at all; the configuration comes last.

    Args:
        dtype: what to store the weights in (default: as they are).
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = {k: v.detach().to("cpu", dtype or v.dtype).contiguous() for k, v in model.state_dict().items()}
    with replacing(folder / WEIGHTS_FILE) as part:
        save_file(state, part, metadata={"format": "pt"})
    for name, content in tokenizer.files().items():
        write_atomically(folder / name, content)
    config = {"format": FORMAT, **model.config.to_dict()}
    write_atomically(folder / CONFIG_FILE, (json.dumps(config, indent=2) + "\n").encode())


def is_native(folder: Path) -> bool:
    """Whether this folder's configuration says it is in openglm's own format."""
    try:
        return bool(json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8")).get("format") == FORMAT)
    except (OSError, ValueError, AttributeError):
        return False


def read_config(folder: Path) -> GLMConfig:
    """The configuration of a model folder.

    Raises:
        CheckpointError: missing or not JSON.
        ConfigError: a wrong key or value; the message names the file.
    """
    path = folder / CONFIG_FILE
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file; a model folder needs {CONFIG_FILE} and {WEIGHTS_FILE}") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: not a configuration (a JSON object)")
    values.pop("format", None)
    try:
        return GLMConfig.from_dict(values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def check_tensors(expected: Mapping[str, Tensor], found: Mapping[str, tuple[int, ...]], source: Path) -> None:
    """Compare names and shapes of a weights file with what the configuration asks for.

    Raises:
        CheckpointError: lists every missing, unexpected and misshapen tensor.
    """
    problems = [f"missing {name}" for name in expected if name not in found]
    problems += [f"unexpected {name}" for name in found if name not in expected]
    problems += [
        f"{name} has shape {list(shape)}, the configuration asks for {list(expected[name].shape)}"
        for name, shape in found.items()
        if name in expected and tuple(shape) != tuple(expected[name].shape)
    ]
    if problems:
        shown = "; ".join(problems[:8]) + (f"; and {len(problems) - 8} more" if len(problems) > 8 else "")
        raise CheckpointError(f"{source}: the weights do not fit {CONFIG_FILE}: {shown}")


def load_weights(config: GLMConfig, path: Path, *, device: str, dtype: torch.dtype) -> GLMModel:
    """Build the model and fill it from a safetensors file, tensor by tensor.

    Raises:
        CheckpointError: missing, truncated or corrupted file, or tensors that do not fit.
    """
    with torch.device("meta"):
        model = GLMModel(config)
    expected = model.state_dict()
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            names = list(file.keys())
            check_tensors(expected, {k: tuple(file.get_slice(k).get_shape()) for k in names}, path)
            state = {name: file.get_tensor(name).to(device, dtype) for name in expected}
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file; download or copy the weights there") from error
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: truncated or corrupted ({error}); fetch or copy it again") from error
    for name, tensor in state.items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{path}: {name} holds values that are not finite numbers; fetch or copy it again")
    model.load_state_dict(state, assign=True)
    return model.eval()


def load_model(folder: Path, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> GLMModel:
    """The network of a model folder, in evaluation mode. Raises as its parts do."""
    return load_weights(read_config(folder), folder / WEIGHTS_FILE, device=device, dtype=dtype)
