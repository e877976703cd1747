"""Folders of the original research code: a tracker file, and `mp_rank_XX_model_states.pt` for every rank.

The original keeps sizes on its command line, so there is no configuration file: sizes are
read from the tensors, and the number of heads, which no tensor shows, is that of the published
model of these sizes, or stands in a `config.json` put beside the tracker file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, ConfigError
from ..files import write_atomically
from ..network.config import BLANK_KINDS, GLMConfig
from .checkpoint import Checkpoint, ExportSpec, check_weights
from .foreign import DROPOUTS, config_values, write_pieces
from .formats import CONFIG_FILE, RANK_FILE, THUDM, TRACKER_FILES, rank_files, rank_folder, read_json
from .pickles import PickleFile
from .published import published_with
from .ranks import RanksJoined
from .vocabulary import Vocabulary
from .weights import TensorInfo, Weights

RELEASE = "release"  # the tag of weights that are nobody's iteration
_LAYER = "transformer.layers."
_POSITIONS = "transformer.position_embeddings.weight"
_BLOCK_POSITIONS = "transformer.block_position_embeddings.weight"


def open_thudm(folder: Path) -> Checkpoint:
    """A folder of the original code: that of the tracker file, or the one with the weights.

    Raises:
        CheckpointError: files that are missing, damaged or refused, ranks that are missing or
            disagree, or tensors that are not those of a GLM.
        ConfigError: nothing says how many heads the network has.
    """
    home = rank_folder(folder)
    if home is None:
        raise CheckpointError(f"{folder}: no {RANK_FILE.format(0)} there, and no tracker file that names its folder")
    ranks = [PickleFile(path) for path in rank_files(home).files]
    _check_ranks(ranks, home)
    weights: Weights = ranks[0] if len(ranks) == 1 else RanksJoined(home, ranks)
    path = folder / CONFIG_FILE
    values = read_json(path) if path.is_file() else {}
    config = _config(weights.infos, values, folder, len(ranks))
    check_weights(config, weights, against="a GLM of these sizes")
    published = published_with(config.num_layers, config.hidden_size, config.vocab_size)
    return Checkpoint(THUDM, folder, config, weights, Vocabulary(config.vocab_size, published), values)


def _check_ranks(ranks: list[PickleFile], home: Path) -> None:
    """What the files say about themselves, beside their weights."""
    first = ranks[0]
    for key in ("iteration", "total_iters", "mp_world_size"):
        for other in ranks[1:]:
            if other.notes.get(key) != first.notes.get(key):
                raise CheckpointError(
                    f"{other.path}: ranks disagree on {key} ({other.notes.get(key)}, in {first.path.name} "
                    f"{first.notes.get(key)}), so these are pieces of different checkpoints"
                )
    count = first.notes.get("mp_world_size")
    if isinstance(count, int) and count > len(ranks):
        missing = ", ".join(RANK_FILE.format(rank) for rank in range(len(ranks), count))
        raise CheckpointError(f"{home}: pieces are missing among {count} model-parallel ranks: {missing}")


def _config(infos: Mapping[str, TensorInfo], values: Mapping[str, Any], folder: Path, ranks: int) -> GLMConfig:
    """Sizes from the tensors, the rest from the configuration file or the published model."""
    width = _shape(infos, "transformer.final_layernorm.weight", 1, folder)[0]
    rows = _shape(infos, "word_embeddings.weight", 2, folder)[0]
    positions = _shape(infos, _POSITIONS, 2, folder)[0]
    projection = _shape(infos, f"{_LAYER}0.attention.query_key_value.weight", 2, folder)[0]
    if projection != 3 * width:
        raise CheckpointError(
            f"{folder}: the {ranks} model-parallel ranks there hold {projection} of {3 * width} rows of each "
            "attention projection, so pieces are missing; put the files of all ranks there"
        )
    layers = len({name.removeprefix(_LAYER).partition(".")[0] for name in infos if name.startswith(_LAYER)})
    blocks = _BLOCK_POSITIONS in infos
    published = published_with(layers, width, rows)
    heads = values.get("num_attention_heads", published.heads if published else None)
    if heads is None:
        raise ConfigError(
            f"{folder}: this format does not say how many attention heads the network has, and no published model "
            f"has {layers} layers, width {width} and {rows} rows; "
            f'put {CONFIG_FILE} there with {{"num_attention_heads": N}}'
        )
    try:
        return GLMConfig(
            num_layers=layers,
            hidden_size=width,
            num_attention_heads=heads,
            vocab_size=rows,
            max_sequence_length=positions - blocks,
            block_position_encoding=blocks,
            blanks=values.get("blanks") or (published.blanks if published else BLANK_KINDS),
            **{name: values[name] for name in DROPOUTS if name in values},
        )
    except ConfigError as error:
        raise ConfigError(f"{folder / CONFIG_FILE if values else folder}: {error}") from error


def _shape(infos: Mapping[str, TensorInfo], name: str, dimensions: int, folder: Path) -> tuple[int, ...]:
    if name not in infos or len(infos[name].shape) != dimensions:
        raise CheckpointError(f"{folder}: the weights do not fit a GLM: missing {name}, or of a wrong shape")
    return infos[name].shape


def write_thudm(folder: Path, model: ExportSpec) -> None:
    """Write a folder of the original layout, and the sizes in a `config.json` that the original passes over.

    Raises:
        OptionError: the original code cannot compute this network, or it cannot be cut into
            so many pieces.
    """
    config = {"format": THUDM, **config_values(model.config, to="the original code")}

    def wrap(table: dict[str, Any]) -> dict[str, Any]:
        return {
            "module": table,
            "iteration": 0,
            "global_steps": 0,
            "global_samples": 0,
            "skipped_steps": 0,
            "dp_world_size": 1,
            "mp_world_size": model.ranks,
            "csr_tensor_module_names": set(),
            "optimizer": None,
            "lr_scheduler": None,
            "client_lr_scheduler": None,
        }

    write_pieces([folder / RELEASE / RANK_FILE.format(rank) for rank in range(model.ranks)], model, wrap)
    for name in TRACKER_FILES:
        write_atomically(folder / name, f"{RELEASE}\n".encode())
    write_atomically(folder / CONFIG_FILE, (json.dumps(config, indent=2) + "\n").encode())
