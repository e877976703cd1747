"""Adapters as folders, in the format of PEFT: what either writes, the other reads.

    adapter_config.json          LoraConfig of PEFT: rank, alpha, which layers
    adapter_model.safetensors    base_model.model.LAYER.lora_A.weight [rank, in], lora_B.weight [out, rank]

Ours say in the metadata of the weights which base they were trained on (`base_digest`), and are
refused on another; PEFT's do not say. Folders of openglm 0.1 (`adapter.json`,
`adapter.safetensors`) are read as they were. What LoRA variants compute otherwise (DoRA, trained
biases, whole layers beside the adapter) is refused by name.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..checkpoints.beside import read_settings
from ..errors import CheckpointError, OptionError
from ..files import write_atomically
from ..infill.infiller import Infiller
from ..network.model import GLMModel
from .adapters import TARGETS, LoraOptions, adapter_parameters, linear_layers, put_adapter

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
OLD_CONFIG_FILE, OLD_WEIGHTS_FILE, OLD_FORMAT = "adapter.json", "adapter.safetensors", "openglm-lora"
PREFIX, DIGEST = "base_model.model.", "openglm_base_digest"
LOOKED_AT = 4096  # numbers of a tensor that tell bases apart
_TENSOR = re.compile(r"(?:.*\.)?(transformer\.layers\.\d+\..+)\.lora_(A|B)\.weight")
# Values of a LoraConfig with which the layers compute something else: key -> values that change nothing.
_UNSUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "use_dora": (False, None),
    "bias": ("none", None),
    "modules_to_save": (None, []),
    "fan_in_fan_out": (False, None),
    "lora_bias": (False, None),
    "trainable_token_indices": (None,),
    "target_parameters": (None, []),
    "layer_replication": (None,),
}


def base_digest(model: GLMModel) -> str:
    """Tells base weights apart, whatever type they are held in: the signs of some of every tensor.

    Rounding to another floating point type keeps every sign, and training changes some.
    """
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        if not name.endswith((".lora_a", ".lora_b")) and "prompt" not in name:
            signs = torch.signbit(tensor.detach().flatten()[:LOOKED_AT]).cpu().numpy()
            digest.update(name.encode() + bytes(str(tuple(tensor.shape)), "ascii") + np.packbits(signs).tobytes())
    return digest.hexdigest()[:32]


def save_adapter(folder: Path, model: GLMModel, options: LoraOptions, *, base_model: str) -> None:
    """Write the adapter of a network as a folder, each file complete or not at all.

    Args:
        base_model: name or path of the model that it belongs to.

    Raises:
        OptionError: the network has no adapter.
    """
    from safetensors.torch import save

    tensors = {
        PREFIX + _peft_name(name): value.detach().cpu().contiguous()
        for name, value in adapter_parameters(model).items()
    }
    if not tensors:
        raise OptionError("this network has no adapter to save")
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / WEIGHTS_FILE, save(tensors, {"format": "pt", DIGEST: base_digest(model)}))
    values = {
        "base_model_name_or_path": base_model,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "lora_alpha": options.alpha,
        "lora_dropout": options.dropout,
        "peft_type": "LORA",
        "r": options.rank,
        "target_modules": [name for target in options.targets for name in TARGETS[target]],
        "task_type": None,
    }
    write_atomically(folder / CONFIG_FILE, (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode())


def load_adapter(model: GLMModel | Infiller, folder: str | Path) -> LoraOptions:
    """Put a saved adapter on a network in place; `adapters.merge` then makes the network a plain one.

    Args:
        model: a network, or what `openglm.load` gives, with weights that are not rounded
            (`openglm.load(..., dtype="float32")`).
        folder: written here or by PEFT.

    Returns:
        Its size. Single layers may have another where PEFT's `rank_pattern` says so.

    Raises:
        CheckpointError: missing or damaged files, an adapter of another network or trained on
            another base, or a kind of adapter that is not LoRA as it is computed here.
        OptionError: weights that are rounded, or a network that has an adapter already.
    """
    network = model.model if isinstance(model, Infiller) else model
    if network.quantized is not None:
        raise OptionError(
            f"an adapter cannot be put on weights rounded to {network.quantized}; "
            'load the model with quantize=None and a dtype: openglm.load(..., dtype="float32")'
        )
    folder = Path(folder)
    options, base_model, values = _read_config(folder)
    tensors, digest = _read_tensors(folder)
    _check_shapes(network, tensors, folder, base_model)
    if digest is not None and digest != base_digest(network):
        raise CheckpointError(
            f"{folder}: was trained on another base than this one: on {base_model!r} as it was then; "
            "load that model, or the merged one beside the adapter"
        )
    layers = {
        name.removesuffix(".lora_a"): (len(tensor), _scale(values, name.removesuffix(".lora_a"), len(tensor)))
        for name, tensor in tensors.items()
        if name.endswith(".lora_a")
    }
    put_adapter(network, layers, options.dropout)
    with torch.no_grad():
        for name, parameter in adapter_parameters(network).items():
            parameter.copy_(tensors[name])
    network.train(network.training)
    return options


def read_adapter(folder: str | Path) -> tuple[LoraOptions, str]:
    """The size of a saved adapter and the model that it belongs to.

    Raises:
        CheckpointError: not a folder of an adapter.
    """
    options, base_model, _ = _read_config(Path(folder))
    return options, base_model


def _peft_name(name: str) -> str:
    layer, _, part = name.rpartition(".")
    return f"{layer}.lora_{part[-1].upper()}.weight"


def _read_config(folder: Path) -> tuple[LoraOptions, str, Mapping[str, Any]]:
    path = folder / CONFIG_FILE
    old = not path.is_file() and (folder / OLD_CONFIG_FILE).is_file()
    try:
        if old:
            path = folder / OLD_CONFIG_FILE
            values = read_settings(path, OLD_FORMAT)
            base_model = str(values.pop("base_model"))
            options = LoraOptions(**values)
            return options, base_model, {"lora_alpha": options.alpha}
        values = json.loads(path.read_text(encoding="utf-8"))
        if values["peft_type"] != "LORA":
            raise CheckpointError(f"{path}: a {values['peft_type']} adapter; only LoRA can be read")
        strange = [key for key, plain in _UNSUPPORTED.items() if values.get(key) not in plain]
        if strange:
            listed = ", ".join(f"{key}: {values[key]!r}" for key in strange)
            raise CheckpointError(f"{path}: {listed} is another kind of adapter than LoRA as it is computed here")
        wanted = set(_listed(values["target_modules"]))
        targets = tuple(name for name, layers in TARGETS.items() if wanted & set(layers)) or tuple(TARGETS)
        dropout = float(values.get("lora_dropout") or 0.0)
        options = LoraOptions(int(values["r"]), float(values["lora_alpha"]), dropout, targets)
        return options, str(values.get("base_model_name_or_path")), values
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OptionError) as error:
        raise CheckpointError(f"{path}: not the settings of an adapter ({error})") from error


def _listed(given: Any) -> list[str]:
    """Last parts of layers' names; PEFT also writes one text that is a regular expression."""
    return re.findall(r"\w+", given) if isinstance(given, str) else [str(name).rpartition(".")[2] for name in given]


def _read_tensors(folder: Path) -> tuple[dict[str, Tensor], str | None]:
    """Tensors by their names here, and the digest of the base, if the file has it."""
    from safetensors import SafetensorError, safe_open

    path = folder / WEIGHTS_FILE
    if not path.is_file() and (folder / OLD_WEIGHTS_FILE).is_file():
        path = folder / OLD_WEIGHTS_FILE
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            digest = (file.metadata() or {}).get(DIGEST)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from error
    out = {}
    for name, tensor in tensors.items():
        found = _TENSOR.fullmatch(name)
        out[f"{found[1]}.lora_{found[2].lower()}" if found else name] = tensor
    return out, digest


def _check_shapes(model: GLMModel, tensors: Mapping[str, Tensor], folder: Path, base_model: str) -> None:
    """Raise CheckpointError unless every tensor fits a layer of the network, A and B of one rank."""
    layers = linear_layers(model)
    ranks = {name.removesuffix(".lora_a"): len(t) for name, t in tensors.items() if name.endswith(".lora_a")}
    expected: dict[str, tuple[int, ...]] = {}
    for name, rank in ranks.items():
        if name in layers:
            expected[f"{name}.lora_a"] = (rank, layers[name].in_features)
            expected[f"{name}.lora_b"] = (layers[name].out_features, rank)
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if not found or found != expected:
        wrong = next((name for name in {**expected, **found} if expected.get(name) != found.get(name)), "every layer")
        raise CheckpointError(
            f"{folder}: of another network: {wrong} is {found.get(wrong, 'missing')} there and "
            f"{expected.get(wrong, 'unknown')} here; it belongs to {base_model!r}"
        )


def _scale(values: Mapping[str, Any], layer: str, rank: int) -> float:
    """alpha / rank of a layer, or with PEFT's `use_rslora` alpha / sqrt(rank)."""
    pattern = values.get("alpha_pattern") or {}
    alpha = next((a for key, a in pattern.items() if re.match(rf"(.*\.)?({key})$", layer)), values["lora_alpha"])
    return float(alpha) / (rank**0.5 if values.get("use_rslora") else rank)
