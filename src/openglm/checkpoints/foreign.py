"""Model folders of FlagAI and of the hub: `config.json` and `pytorch_model.bin`.

Both hold the same tensors under the same names (their format description, sections 2.1,
2.2 and 2.4); what differs is a wrapper around them, a prefix, and the hub's GELU. Opened
with `weights_only=True`, so nothing in the file is executed.
"""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import GLMConfig
from ..errors import CheckpointError, ConfigError, TokenizerError
from ..model import GLMModel
from ..tokenizer import ChineseTokenizer, Tokenizer
from .native import CONFIG_FILE, check_tensors
from .published import PUBLISHED, find_published

WEIGHTS_FILE = "pytorch_model.bin"
SENTENCEPIECE_FILES = ("cog-pretrain.model", "spiece.model")
# Parts of fine-tuned checkpoints that are not the network itself.
EXTRA_PREFIXES = ("prompt_spell.", "pool_layer.", "multichoice_head.")


def is_foreign(folder: Path) -> bool:
    """Whether the folder looks like FlagAI's or the hub's, by content."""
    return (folder / CONFIG_FILE).is_file() and (folder / WEIGHTS_FILE).is_file()


def read_foreign_config(folder: Path) -> GLMConfig:
    """The configuration of a FlagAI or hub folder.

    Raises:
        CheckpointError: not readable. ConfigError: sizes missing, or another architecture.
    """
    path = folder / CONFIG_FILE
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: not a configuration (a JSON object)")
    sizes = ("num_layers", "hidden_size", "num_attention_heads", "vocab_size", "max_sequence_length")
    missing = [name for name in sizes if name not in values]
    if missing:
        raise ConfigError(f"{path}: lacks {', '.join(missing)}; this is not a configuration of the GLM of 2022")
    if values.get("relative_encoding"):
        raise ConfigError(f"{path}: relative_encoding is not supported; no published GLM uses it")
    dropouts = ("embedding_dropout_prob", "attention_dropout_prob", "output_dropout_prob")
    published = _published(folder, values)
    return GLMConfig(
        **{name: values[name] for name in sizes},
        **{name: values[name] for name in dropouts if name in values},
        block_position_encoding=bool(values.get("block_position_encoding", True)),
        gelu="erf" if _from_hub(values) else "tanh",
        blanks=published.blanks if published else ("[MASK]", "[sMASK]", "[gMASK]"),
    )


def _from_hub(values: dict[str, Any]) -> bool:
    """Whether a configuration is the hub's rather than FlagAI's."""
    return values.get("model_type") == "glm" or "auto_map" in values


def _published(folder: Path, values: dict[str, Any]) -> Any:
    """The published model this is: by the folder's name, else by its sizes."""
    by_name = find_published(folder.name)
    if by_name is not None:
        return by_name
    keys = ("num_layers", "hidden_size", "vocab_size")
    sizes = tuple(values[key] for key in keys)
    return next((m for m in PUBLISHED if (m.layers, m.width, m.rows) == sizes), None)


def _unwrap(content: Any, path: Path) -> dict[str, Tensor]:
    if isinstance(content, dict) and isinstance(content.get("module"), dict):
        content = content["module"]
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise CheckpointError(f"{path}: holds no table of weights")
    state = {}
    for name, tensor in content.items():
        for prefix in ("model.", "glm."):
            name = name.removeprefix(prefix)
        if not name.startswith(EXTRA_PREFIXES):
            state[name] = tensor
    return state


def load_foreign(folder: Path, *, device: str, dtype: torch.dtype) -> GLMModel:
    """The network of a FlagAI or hub folder, in evaluation mode.

    Raises:
        CheckpointError: a damaged file, one that would need code to be executed, or tensors
            that do not fit the configuration (all are listed).
    """
    config, path = read_foreign_config(folder), folder / WEIGHTS_FILE
    try:
        # Files older than torch 1.6 are no archives and cannot be mapped.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError, ValueError) as error:
        first = str(error).strip().split("\n")[0]
        raise CheckpointError(
            f"{path}: truncated, corrupted or not a plain weights file ({first}); fetch or copy it again"
        ) from error
    with torch.device("meta"):
        model = GLMModel(config)
    state = _unwrap(content, path)
    check_tensors(model.state_dict(), {name: tuple(t.shape) for name, t in state.items()}, path)
    model.load_state_dict({name: t.to(device, dtype) for name, t in state.items()}, assign=True)
    return model.eval()


def load_foreign_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a FlagAI or hub folder.

    The special tokens follow the model, not a default: GLM-10B-Chinese as FlagAI has it was
    trained with the older table, all others with the repaired one.

    Raises:
        TokenizerError: no SentencePiece file in the folder.
    """
    values = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    for name in SENTENCEPIECE_FILES:
        if (folder / name).is_file():
            published = _published(folder, values)
            older = not _from_hub(values) and published is not None and published.name == "glm-10b-chinese"
            return ChineseTokenizer(folder / name, fix_command_token=not older)
    if any((folder / name).is_file() for name in ("vocab.txt", "vocab.json")):
        raise TokenizerError(f"{folder}: English vocabularies (WordPiece, GPT-2 BPE) cannot be read by this release")
    raise TokenizerError(f"{folder}: no vocabulary file; put {' or '.join(SENTENCEPIECE_FILES)} there")
