"""`GLMConfig`: the sizes of one network, checked on construction.

Knows nothing about files of other formats, names of published models, or torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import ConfigError, brief, suggest

GELU_FORMS = ("tanh", "erf")
# Beyond any network; a number with too many zeros is told before anything is built.
LARGEST = {
    "num_layers": 10_000,
    "hidden_size": 2**20,
    "num_attention_heads": 2**20,
    "vocab_size": 2**31,
    "max_sequence_length": 2**24,
}
BLANK_KINDS = ("[MASK]", "[sMASK]", "[gMASK]")
ARCHITECTURES = ("glm", "modern")
# Fields that mean something in one architecture only.
ONLY_IN = {
    "block_position_encoding": "glm",
    "initializer_range": "glm",
    "gelu": "glm",
    "rotary_base": "modern",
}


@dataclass(frozen=True)
class GLMConfig:
    """Shape of a GLM network (Du et al. 2022, section 2.3, and the published checkpoints).

    Attributes:
        num_layers: Transformer blocks.
        hidden_size: model width D; the feed-forward width is always 4 D.
        num_attention_heads: N; must divide `hidden_size`.
        vocab_size: rows of the word embedding, V; published models round the number of
            token ids up to a multiple of 128.
        max_sequence_length: P, the longest Part A and the longest single fill, in tokens.
            The position tables of "glm" have P + 1 rows when block positions are on, else P.
        architecture: "glm" (as published, `published.py`) or "modern" (ours, `modern.py`). The
            latter has no use for `block_position_encoding`, which it always has, for
            `initializer_range` and for `gelu`.
        block_position_encoding: whether Part B tokens carry a second position.
        embedding_dropout_prob, attention_dropout_prob, output_dropout_prob: used in
            training only.
        layernorm_epsilon: of all norms; 1e-5 in every published model.
        initializer_range: standard deviation of fresh weights; projections back into the
            residual stream use `initializer_range / sqrt(2 num_layers)`.
        gelu: "tanh" (what all models were trained with) or "erf" (what the hub's remote
            code computes; a difference of about 1e-3 in the logits).
        blanks: kinds of blank the model was trained with.
        rotary_base: of "modern"; the slowest rotation is about so many times slower than the
            fastest, which turns by one radian per position.

    Raises:
        ConfigError: a size that is not positive, heads that do not divide the width, a
            number out of its range, an unknown architecture, GELU form or kind of blank, or a
            field of the other architecture.
    """

    num_layers: int
    hidden_size: int
    num_attention_heads: int
    vocab_size: int
    max_sequence_length: int = 512
    block_position_encoding: bool = True
    embedding_dropout_prob: float = 0.1
    attention_dropout_prob: float = 0.1
    output_dropout_prob: float = 0.1
    layernorm_epsilon: float = 1e-5
    initializer_range: float = 0.02
    gelu: str = "tanh"
    blanks: tuple[str, ...] = field(default=BLANK_KINDS)
    architecture: str = "glm"
    rotary_base: float = 10_000.0

    def __post_init__(self) -> None:
        self._check_sizes()
        self._check_numbers()
        if not isinstance(self.block_position_encoding, bool):
            raise ConfigError(
                f"block_position_encoding must be true or false, not {brief(self.block_position_encoding)}"
            )
        if self.gelu not in GELU_FORMS:
            raise ConfigError(f"gelu must be one of {', '.join(GELU_FORMS)}, not {self.gelu!r}")
        self._check_architecture()
        if not isinstance(self.blanks, (list, tuple)):
            raise ConfigError(f"blanks must be a list, not {brief(self.blanks)}")
        object.__setattr__(self, "blanks", tuple(self.blanks))
        unknown = [b for b in self.blanks if b not in BLANK_KINDS]
        if unknown or not self.blanks:
            raise ConfigError(f"blanks must name some of {', '.join(BLANK_KINDS)}, not {brief(list(self.blanks))}")

    def _check_sizes(self) -> None:
        for name, largest in LARGEST.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigError(f"{name} must be a positive integer, not {brief(value)}")
            if value > largest:
                raise ConfigError(f"{name} must be at most {largest:,}, not {brief(value)}")
        if self.hidden_size % self.num_attention_heads:
            raise ConfigError(
                f"num_attention_heads {self.num_attention_heads} does not divide hidden_size {self.hidden_size}"
            )

    def _check_numbers(self) -> None:
        for name in ("embedding_dropout_prob", "attention_dropout_prob", "output_dropout_prob"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not 0 <= value < 1:
                raise ConfigError(f"{name} must be at least 0 and below 1, not {brief(value)}")
        for name in ("layernorm_epsilon", "initializer_range"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not 0 < value < 1:
                raise ConfigError(f"{name} must be above 0 and below 1, not {brief(value)}")

    def _check_architecture(self) -> None:
        if self.architecture not in ARCHITECTURES:
            raise ConfigError(f"architecture must be one of {', '.join(ARCHITECTURES)}, not {self.architecture!r}")
        if not isinstance(self.rotary_base, (int, float)) or not self.rotary_base > 1:
            raise ConfigError(f"rotary_base must be above 1, not {self.rotary_base!r}")
        changed = [f.name for f in dataclasses.fields(self) if getattr(self, f.name) != f.default]
        _refuse_mixture(self.architecture, changed)
        if self.architecture == "modern" and self.head_size % 4:
            raise ConfigError(
                f"heads of the modern architecture need a width divisible by 4, not {self.head_size}: "
                "set num_attention_heads accordingly"
            )

    @property
    def head_size(self) -> int:
        """H, the width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def position_rows(self) -> int:
        """Rows of each position table (P + 1 with block positions, else P)."""
        return self.max_sequence_length + (1 if self.block_position_encoding else 0)

    @property
    def num_parameters(self) -> int:
        """Parameters, embeddings and position tables included."""
        d, per_layer = self.hidden_size, 12 * self.hidden_size**2
        if self.architecture == "modern":
            return self.vocab_size * d + self.num_layers * (per_layer + 2 * d + 2 * self.head_size) + 2 * d
        tables = 2 if self.block_position_encoding else 1
        return self.vocab_size * d + tables * self.position_rows * d + self.num_layers * (per_layer + 13 * d) + 2 * d

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; of "glm" those that configurations have always had."""
        values = dataclasses.asdict(self)
        values["blanks"] = list(self.blanks)
        architecture = values.pop("architecture")
        if architecture != "glm":
            values = {"architecture": architecture, **values}
        return {
            name: value for name, value in values.items() if ONLY_IN.get(name, self.architecture) == self.architecture
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> GLMConfig:
        """Build from plain values.

        Raises:
            ConfigError: a missing or an unknown key, one of the other architecture, or a value
                that is out of range.
        """
        if not isinstance(values, Mapping):
            raise ConfigError(f"a configuration maps names to values; this is {brief(values)}")
        known = {f.name: f for f in dataclasses.fields(cls)}
        for key in values:
            if key not in known:
                raise ConfigError(f"unknown configuration key {brief(key)}.{suggest(key, known)}")
        required = [n for n, f in known.items() if f.default is f.default_factory is dataclasses.MISSING]
        missing = [name for name in required if name not in values]
        if missing:
            raise ConfigError(f"the configuration lacks {', '.join(missing)}")
        _refuse_mixture(values.get("architecture", "glm"), values)
        return cls(**values)


def _refuse_mixture(architecture: Any, names: Iterable[str]) -> None:
    foreign = [name for name in names if ONLY_IN.get(name, architecture) != architecture]
    if foreign:
        raise ConfigError(
            f"{', '.join(foreign)} belongs to the architecture {ONLY_IN[foreign[0]]!r}, this is {architecture!r}; "
            "leave it out, or set architecture"
        )
