"""The hub's folders of the `glm-*` family: `config.json` and weights, pickled or safetensors, in shards or not.

Their remote code computes GELU in its erf form, though the weights were trained with tanh.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from ..errors import OptionError
from ..files import write_atomically
from .checkpoint import Checkpoint, ExportSpec, check_weights
from .foreign import DEFAULTS, config_from, config_values, published_as, weights_in
from .formats import CONFIG_FILE, HUGGINGFACE, read_json
from .safetensors_files import write_files
from .vocabulary import Vocabulary
from .weights import StreamingReader

_TASKS = {
    "AutoModel": "GLMModel",
    "AutoModelForSeq2SeqLM": "GLMForConditionalGeneration",
    "AutoModelForMultipleChoice": "GLMForMultipleChoice",
}


def open_huggingface(folder: Path) -> Checkpoint:
    """A hub folder.

    Raises:
        CheckpointError: a damaged, refused or missing file, or tensors that do not fit.
        ConfigError: sizes missing, or another architecture of the same name.
    """
    path = folder / CONFIG_FILE
    values = read_json(path)
    config = config_from(values, path, gelu="erf")
    vocabulary = Vocabulary(config.vocab_size, published_as(values), hub=True)
    checkpoint = Checkpoint(HUGGINGFACE, folder, config, weights_in(folder), vocabulary, values)
    check_weights(config, checkpoint.weights)
    return checkpoint


def write_huggingface(folder: Path, model: ExportSpec) -> None:
    """Write a hub folder, its weights as safetensors.

    The remote code itself (`modeling_glm.py` and two more files) is not openglm's to write.

    Raises:
        OptionError: the remote code cannot compute this network, or pieces were asked for.
    """
    if model.ranks != 1:
        raise OptionError("--model-parallel: the hub's format has no model-parallel pieces; leave it at 1")
    dtypes = {info.dtype for info in model.infos.values()}
    values = {
        "architectures": ["GLMModel"],
        "auto_map": {
            "AutoConfig": "configuration_glm.GLMConfig",
            **{task: f"modeling_glm.{name}" for task, name in _TASKS.items()},
        },
        "model_type": "glm",
        "initializer_range": model.config.initializer_range,
        "pool_token": "cls",
        **DEFAULTS,
        **model.values,
        **config_values(model.config, to="the hub"),
        "torch_dtype": str(dtypes.pop() if len(dtypes) == 1 else torch.float32).removeprefix("torch."),
    }
    write_files(folder, model.infos, StreamingReader(model.weights), shard_bytes=model.shard_bytes)
    model.weights.release()
    write_atomically(folder / CONFIG_FILE, (json.dumps(values, indent=2) + "\n").encode())
