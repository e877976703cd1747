"""`BaseModel`: folders and files <-> models with FlagAI's methods.

Weights are read by openglm's loaders: nothing in a file is executed, and what does not fit is
reported. Knows nothing about what a model computes.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from openglm.checkpoints.beside import check_parts
from openglm.checkpoints.checkpoint import Checkpoint, build
from openglm.checkpoints.find import find_folder
from openglm.checkpoints.foreign import DEFAULTS, config_from, config_values
from openglm.checkpoints.formats import CONFIG_FILE, FLAGAI, detect, read_json
from openglm.checkpoints.pickles import load_pickle
from openglm.checkpoints.published import find_published
from openglm.checkpoints.resolve import open_checkpoint
from openglm.checkpoints.weights import PREFIXES
from openglm.errors import CheckpointError, ModelNotFoundError
from openglm.files import replacing, write_atomically
from openglm.network.config import GLMConfig

CHECKPOINTS = "./checkpoints/"
WEIGHTS_FILE = "pytorch_model.bin"
SHOWN = 8
Model = TypeVar("Model", bound="BaseModel")


class BaseModel(nn.Module):
    """What FlagAI's models have in common.

    Attributes:
        config: the configuration, a dictionary with FlagAI's keys.
    """

    config: dict[str, Any]

    def __init__(self, config: Mapping[str, Any], **kwargs: Any) -> None:
        super().__init__()
        self.config = dict(config)

    # --- from files -------------------------------------------------------------------

    @classmethod
    def init_from_json(cls: type[Model], config_file: str | Path = "./config.json", **kwargs: Any) -> Model:
        """A model with fresh weights; `kwargs` overrule the file.

        Raises:
            CheckpointError, ConfigError: no such file, not JSON, or impossible sizes.
        """
        values = {**DEFAULTS, **read_json(Path(config_file)), **kwargs}
        return cls(values, **kwargs)

    @classmethod
    def from_pretrain(
        cls: type[Model],
        download_path: str | Path = CHECKPOINTS,
        model_name: str = "GLM-large-ch",
        only_download_config: bool = False,
        device: str | torch.device = "cpu",
        **kwargs: Any,
    ) -> Model:
        """The model in `download_path/model_name`; if there is none, from the hub's cache or the hub.

        Args:
            download_path: the folder that holds model folders.
            model_name: in any case; any format that openglm reads.
            only_download_config: be content with a configuration, and fresh weights, where
                there are no weights.
            device: where the model goes.
            kwargs: overrule the configuration.

        Raises:
            ModelNotFoundError: no such model, here or on the hub.
            CheckpointError, ConfigError: a damaged file, or weights that do not fit.
        """
        folder = model_folder(download_path, model_name)
        if only_download_config and (folder is None or not _has_weights(folder)):
            return cls._fresh(folder, model_name, kwargs).to(device)
        checkpoint = open_checkpoint(folder or _found_elsewhere(download_path, model_name))
        check_parts(checkpoint.folder, (), "FlagAI's classes")
        values = {**values_of(checkpoint), **kwargs}
        network = build(config_of(values), checkpoint.weights, device="cpu", dtype=torch.float32)
        model = cls(values, network=network, **kwargs)
        model._load_parts(checkpoint)
        return model.to(device)

    @classmethod
    def _fresh(cls: type[Model], folder: Path | None, name: str, kwargs: dict[str, Any]) -> Model:
        if folder is not None:
            return cls.init_from_json(folder / CONFIG_FILE, **kwargs)
        published = find_published(name)
        if published is None:
            raise ModelNotFoundError(f"no folder and no known model is called {name!r}; `openglm models` lists names")
        return cls({**_values(published.config), **kwargs}, **kwargs)

    def load_weights(self, checkpoint_path: str | Path) -> None:
        """Load a weights file, wrapped in `module` or not, with names that begin with `model.` or not.

        Files may hold a part of the model (P-tuning stores what it has trained); a warning
        lists what is missing and what was not used.

        Raises:
            CheckpointError: damaged or refused, tensors of other shapes, or nothing that fits.
        """
        path = Path(checkpoint_path)
        found, own = _tensors(path), _plain(nn.Module.state_dict(self))
        wrong = [
            f"{name} has shape {list(found[name].shape)}, the model {list(own[name].shape)}"
            for name in own
            if name in found and found[name].shape != own[name].shape
        ]
        if wrong:
            raise CheckpointError(f"{path}: the weights do not fit the model: {_listed(wrong)}")
        fitting = own.keys() & found.keys()
        if not fitting:
            raise CheckpointError(f"{path}: none of its {len(found)} tensors belongs to this model")
        with torch.no_grad():
            for name in fitting:
                own[name].copy_(found[name])
        missing, unused = [n for n in own if n not in found], [n for n in found if n not in own]
        for names, what in ((missing, "are not in it and stay as they were"), (unused, "in it are not used")):
            if names:
                warnings.warn(f"{path}: {len(names)} tensors {what}: {_listed(names)}", stacklevel=2)

    def _load_parts(self, checkpoint: Checkpoint) -> None:
        """Load what a checkpoint holds beside the network (heads, prompts), as far as the model has it."""
        own = _plain(nn.Module.state_dict(self))
        wanted = [name for name in checkpoint.weights.left_out if name in own]
        unused = [name for name in checkpoint.weights.left_out if name not in own]
        if wanted:
            found = _tensors(checkpoint.folder / WEIGHTS_FILE)
            with torch.no_grad():
                for name in wanted:
                    if name not in found or found[name].shape != own[name].shape:
                        raise CheckpointError(f"{checkpoint.folder}: {name} does not fit the model, or is missing")
                    own[name].copy_(found[name])
        fresh = [name for name in own if name not in checkpoint.weights.infos and name not in wanted]
        for names, what in ((fresh, "are not in it and start afresh"), (unused, "in it are not used")):
            if names:
                warnings.warn(f"{checkpoint.folder}: {len(names)} tensors {what}: {_listed(names)}", stacklevel=3)

    # --- to files ---------------------------------------------------------------------

    def save_config(self, config_path: str | Path = "./config.json") -> None:
        """Write the configuration."""
        write_atomically(Path(config_path), (json.dumps(self.config, indent=4) + "\n").encode())

    def save_weights(self, chekpoint_path: str | Path = WEIGHTS_FILE) -> None:
        """Write the weights; `load_weights` reads them. (FlagAI spells its argument so.)"""
        with replacing(Path(chekpoint_path)) as part:
            torch.save(self.state_dict(), part)

    # --- devices ----------------------------------------------------------------------

    def cuda(self: Model, device: int | str | torch.device | None = None) -> Model:
        """As in torch, but `cuda("cpu")` stays on the CPU, so that old scripts need no other change."""
        if isinstance(device, (str, torch.device)) and torch.device(device).type == "cpu":
            return self.to("cpu")
        return super().cuda(torch.device(device) if isinstance(device, str) else device)


def config_of(values: Mapping[str, Any]) -> GLMConfig:
    """openglm's configuration of a FlagAI one.

    Raises:
        ConfigError: sizes missing or impossible.
    """
    return config_from(values, Path(CONFIG_FILE), gelu=values.get("gelu", "tanh"))


def values_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """FlagAI's configuration of a checkpoint in any format."""
    values = dict(checkpoint.values) if checkpoint.format == FLAGAI else {}
    return {**_values(checkpoint.config), **values}


def _values(config: GLMConfig) -> dict[str, Any]:
    values = {**DEFAULTS, "max_memory_length": config.max_sequence_length - 1, **config_values(config, to="FlagAI")}
    return values if config.gelu == "tanh" else {**values, "gelu": config.gelu}


def model_folder(download_path: str | Path, model_name: str) -> Path | None:
    """The folder of this name, or of another name of the same published model, in any case."""
    home = Path(download_path)
    if (home / model_name / CONFIG_FILE).is_file() or _has_weights(home / model_name):
        return home / model_name
    published = find_published(model_name)
    if published is None or not home.is_dir():
        return None
    names = {name.split("/")[-1].lower() for name in (published.name, *published.aliases)}
    return next((folder for folder in sorted(home.iterdir()) if folder.name.lower() in names and folder.is_dir()), None)


def _has_weights(folder: Path) -> bool:
    try:
        return bool(detect(folder))
    except CheckpointError:
        return False


def _found_elsewhere(download_path: str | Path, model_name: str) -> Path:
    try:
        return find_folder(model_name)
    except ModelNotFoundError as error:
        raise ModelNotFoundError(f"{Path(download_path) / model_name}: no model there. {error}") from error


def _tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file by their plain names."""
    content = load_pickle(path)
    if isinstance(content, Mapping) and isinstance(content.get("module"), Mapping):
        content = content["module"]
    if not isinstance(content, Mapping) or not content or not all(isinstance(t, Tensor) for t in content.values()):
        raise CheckpointError(f"{path}: holds no table of weights")
    return _plain(content)


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    plain = {}
    for stored, tensor in tensors.items():
        name = stored
        while name.startswith(PREFIXES):
            name = name.partition(".")[2]
        plain[name] = tensor
    return plain


def _listed(names: list[str]) -> str:
    return "; ".join(names[:SHOWN]) + (f"; and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
