"""What FlagAI's and the hub's folders share: a configuration with the same keys, and where weights lie.

Both hold the same tensors under the same names, and so does everything written by the
original code. Knows neither of the two formats; they know this.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, ConfigError, OptionError
from ..files import replacing
from ..network.config import BLANK_KINDS, GLMConfig
from .checkpoint import ExportSpec
from .formats import weight_files
from .pickles import PickleFile, PickleWriter
from .published import PublishedModel, published_with
from .ranks import RanksJoined, check_divisible, divide, piece_info
from .safetensors_files import read_files
from .weights import FilesTogether, StreamingReader, Weights

SIZES = ("num_layers", "hidden_size", "num_attention_heads", "vocab_size", "max_sequence_length")
DROPOUTS = ("embedding_dropout_prob", "attention_dropout_prob", "output_dropout_prob")
# What their code asks for beside sizes; none of it changes what a network computes.
DEFAULTS = {
    "checkpoint_activations": False,
    "checkpoint_num_layers": 1,
    "parallel_output": True,
    "relative_encoding": False,
    "output_predict": True,
    "spell_length": None,
    "spell_func": "lstm",
    "attention_scale": 1.0,
}
PUBLISHED = "glm"  # the architecture of all three families
LAYERNORM_EPSILON = 1e-5  # fixed in the code of all three families


def published_as(values: Mapping[str, Any]) -> PublishedModel | None:
    """The published model that has the sizes of a configuration."""
    return published_with(values["num_layers"], values["hidden_size"], values["vocab_size"])


def config_from(values: Mapping[str, Any], path: Path, *, gelu: str) -> GLMConfig:
    """The configuration in a foreign configuration file.

    Raises:
        ConfigError: sizes missing or impossible, or another architecture.
    """
    missing = [name for name in SIZES if name not in values]
    if missing:
        raise ConfigError(f"{path}: lacks {', '.join(missing)}; this is not a configuration of the GLM of 2022")
    if values.get("architecture", PUBLISHED) != PUBLISHED:
        raise ConfigError(f"{path}: the architecture {values['architecture']!r} has no configuration in this format")
    if values.get("relative_encoding"):
        raise ConfigError(f"{path}: relative_encoding is not supported; no published GLM uses it")
    published = published_as(values)
    try:
        return GLMConfig(
            **{name: values[name] for name in SIZES},
            **{name: values[name] for name in DROPOUTS if name in values},
            block_position_encoding=values.get("block_position_encoding", True),
            gelu=gelu,
            blanks=values.get("blanks") or (published.blanks if published else BLANK_KINDS),
        )
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def config_values(config: GLMConfig, *, to: str) -> dict[str, Any]:
    """The sizes of a network, under the keys of foreign configuration files.

    Raises:
        OptionError: the network has what their code cannot compute.
    """
    if config.architecture != PUBLISHED:
        raise OptionError(
            f"a model of the architecture {config.architecture!r} cannot be written for {to}: its code computes "
            f"the network of 2022 (architecture {PUBLISHED!r}) only; keep it in openglm's own format"
        )
    if config.layernorm_epsilon != LAYERNORM_EPSILON:
        raise OptionError(
            f"a model with layernorm_epsilon {config.layernorm_epsilon} cannot be written for {to}: "
            f"its code computes with {LAYERNORM_EPSILON}"
        )
    values = {name: getattr(config, name) for name in (*SIZES, *DROPOUTS)}
    values["block_position_encoding"] = config.block_position_encoding
    if config.blanks != BLANK_KINDS:  # a key of openglm's own, which others pass over
        values["blanks"] = list(config.blanks)
    return values


def weights_in(folder: Path) -> Weights:
    """The weights of a foreign folder: one file, shards or model-parallel pieces.

    Raises:
        CheckpointError: files that are missing, damaged or refused, or that disagree.
    """
    found = weight_files(folder)
    if found is None:
        raise CheckpointError(f"{folder}: no weights there (model.safetensors or pytorch_model.bin)")
    if found.files[0].suffix == ".safetensors":
        return read_files(found.files)
    files = [PickleFile(path) for path in found.files]
    if len(files) == 1:
        return files[0]
    return RanksJoined(folder, files) if found.ranks else FilesTogether(folder, files)


def write_pieces(paths: Sequence[Path], model: ExportSpec, wrap: Callable[[dict[str, Any]], Any] | None = None) -> None:
    """Write pickled weights, one file per model-parallel rank, all at once and tensor by tensor.

    Args:
        wrap: the table of weights -> what to store.

    Raises:
        OptionError: the network cannot be cut into so many pieces.
    """
    count = len(paths)
    check_divisible(model.infos, model.config.num_attention_heads, count)
    pieces = {name: piece_info(name, info, count) for name, info in model.infos.items()}
    read = StreamingReader(model.weights)
    with ExitStack() as stack:
        parts = [stack.enter_context(replacing(path)) for path in paths]
        writers = [stack.enter_context(PickleWriter(part, pieces, wrap)) for part in parts]
        for name in pieces:
            for writer, part in zip(writers, divide(name, read(name), count), strict=True):
                writer.write(name, part)
    model.weights.release()
