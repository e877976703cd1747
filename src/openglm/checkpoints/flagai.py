"""FlagAI's folders: `config.json` and `pytorch_model.bin`, or one `pytorch_model_XX.bin` per rank."""

from __future__ import annotations

import json
from pathlib import Path

from ..files import write_atomically
from .checkpoint import Checkpoint, ExportSpec, check_weights
from .foreign import DEFAULTS, config_from, config_values, published_as, weights_in, write_pieces
from .formats import CONFIG_FILE, FLAGAI, FLAGAI_RANK_FILE, read_json
from .vocabulary import Vocabulary

WEIGHTS_FILE = "pytorch_model.bin"


def open_flagai(folder: Path) -> Checkpoint:
    """A FlagAI folder.

    Raises:
        CheckpointError: a damaged, refused or missing file, or tensors that do not fit.
        ConfigError: sizes missing, or another architecture.
    """
    path = folder / CONFIG_FILE
    values = read_json(path)
    config = config_from(values, path, gelu="tanh")
    vocabulary = Vocabulary(config.vocab_size, published_as(values))
    checkpoint = Checkpoint(FLAGAI, folder, config, weights_in(folder), vocabulary, values)
    check_weights(config, checkpoint.weights)
    return checkpoint


def write_flagai(folder: Path, model: ExportSpec) -> None:
    """Write a FlagAI folder, of one file or one per model-parallel rank.

    Raises:
        OptionError: FlagAI's code cannot compute this network.
    """
    ranks = range(model.ranks)
    names = [WEIGHTS_FILE] if model.ranks == 1 else [FLAGAI_RANK_FILE.format(rank) for rank in ranks]
    # Its predictor reads on from remembered states, as many as the context holds.
    defaults = {**DEFAULTS, "max_memory_length": model.config.max_sequence_length - 1}
    values = {**defaults, **model.values, **config_values(model.config, to="FlagAI")}
    write_pieces([folder / name for name in names], model)
    write_atomically(folder / CONFIG_FILE, (json.dumps(values, indent=4) + "\n").encode())
