"""Reads the recorded models directly, with none of the library's own loaders."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from openglm.network.config import GLMConfig
from openglm.network.model import GLMModel

TOLERANCE = 5e-5  # largest difference allowed between two float32 logits

# name -> (weights, configuration, recorded outputs), below the folder of fixtures
MODELS = {
    "flagai-tiny": ("flagai-tiny/pytorch_model.bin", "flagai-tiny/config.json", "flagai-tiny/io.safetensors"),
    **{
        f"flagai-small/{name}": tuple(
            f"flagai-small/{name}/{file}" for file in ("pytorch_model.bin", "config.json", "io.safetensors")
        )
        for name in ("scale1", "scale8", "scale05", "noblock")
    },
    "thudm-tiny-mp1": (
        "thudm-tiny-mp1/3000/mp_rank_00_model_states.pt",
        "thudm-tiny-args.json",
        "thudm-tiny-io.safetensors",
    ),
    "hf-tiny": ("hf-tiny/pytorch_model.bin", "hf-tiny/config.json", "hf-tiny/io.safetensors"),
}


@dataclass(frozen=True)
class Recorded:
    """A model with recorded weights, and what the original computed with them."""

    model: GLMModel
    outputs: dict[str, Tensor]
    cases: list[str] = field(default_factory=list)

    def inputs(self, case: str) -> tuple[Tensor, Tensor, Tensor]:
        """Token ids, positions and the attention mask of a case."""
        ids, positions, mask = (
            self.outputs[f"{case}.{name}"] for name in ("input_ids", "position_ids", "attention_mask")
        )
        return ids, positions, mask


def config_of(values: dict[str, Any], *, gelu: str) -> GLMConfig:
    """From the keys of any of the three families."""
    return GLMConfig(
        **{name: values[name] for name in ("num_layers", "hidden_size", "num_attention_heads", "vocab_size")},
        max_sequence_length=values.get("max_sequence_length") or values["max_position_embeddings"],
        block_position_encoding=values.get("block_position_encoding", True),
        gelu=gelu,
    )


def weights_of(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by their plain names, as float32."""
    # Beside the weights, the original research code stores the state of numpy's generator.
    rebuild = (np.empty(0).__reduce__()[0], "numpy._core.multiarray._reconstruct")
    state_of_numpy: list[Any] = [rebuild, np.ndarray, np.dtype, type(np.dtype(np.uint32))]
    with torch.serialization.safe_globals(state_of_numpy):
        content = torch.load(path, map_location="cpu", weights_only=True)
    content = content.get("module", content)
    return {name.removeprefix("model."): tensor.float() for name, tensor in content.items()}


def load(fixtures: Path, name: str) -> Recorded:
    """The model, with every one of its parameters taken from the file."""
    weights, settings, outputs = (fixtures / path for path in MODELS[name])
    config = config_of(
        json.loads(settings.read_text(encoding="utf-8")), gelu="erf" if name.startswith("hf") else "tanh"
    )
    model = GLMModel(config)
    model.load_state_dict(weights_of(weights), strict=True)
    tensors = load_file(outputs)
    cases = sorted(key.rsplit(".", 1)[0] for key in tensors if key.endswith((".logits", ".logits_columns")))
    return Recorded(model.eval().requires_grad_(False), tensors, cases)
