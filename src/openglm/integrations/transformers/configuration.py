"""The configuration of a network as transformers holds it."""

from __future__ import annotations

import dataclasses
from typing import Any

from transformers import PretrainedConfig

from ...network.config import GLMConfig
from ...tokenizer import Tokenizer

# Sizes of a configuration that names none: transformers makes one to see what differs from it.
_SIZES = {"num_layers": 12, "hidden_size": 512, "num_attention_heads": 8, "vocab_size": 50304}
_FIELDS = tuple(each.name for each in dataclasses.fields(GLMConfig))


class OpenGLMConfig(PretrainedConfig):
    """`GLMConfig` with the token ids that generation needs.

    Attributes:
        token_ids: "sop", "eop", "eos": ids that frame a fill and end a text; "blanks": those of the
            blanks; "never": those that are never written. {} before a tokenizer is known.
        All fields of `GLMConfig`.
    """

    model_type = "openglm"
    attribute_map = {"num_hidden_layers": "num_layers", "max_position_embeddings": "max_sequence_length"}  # noqa: RUF012
    keys_to_ignore_at_inference = ["past_key_values"]  # noqa: RUF012

    def __post_init__(self, **values: Any) -> None:
        own = {name: values.pop(name) for name in _FIELDS if name in values}
        for name, value in GLMConfig.from_dict({**_SIZES, **own}).to_dict().items():
            setattr(self, name, value)
        self.token_ids: dict[str, Any] = dict(values.pop("token_ids", None) or {})
        values.pop("format", None)
        values["is_encoder_decoder"] = True
        super().__post_init__(**values)

    @classmethod
    def of(cls, config: GLMConfig, tokenizer: Tokenizer | None = None) -> OpenGLMConfig:
        """Of a network's configuration and its vocabulary."""
        return cls(**config.to_dict(), token_ids={} if tokenizer is None else token_ids(tokenizer, config.vocab_size))

    def to_glm(self) -> GLMConfig:
        """The network's own configuration."""
        return GLMConfig.from_dict({name: getattr(self, name) for name in _FIELDS if name in vars(self)})


def token_ids(tokenizer: Tokenizer, rows: int) -> dict[str, Any]:
    """Ids that decoding needs to know; `rows`: of the model's word embedding."""
    blanks = [tokenizer.special[name] for name in ("mask", "smask", "gmask") if name in tokenizer.special]
    return {
        "sop": tokenizer.markers.sop,
        "eop": tokenizer.markers.eop,
        "eos": tokenizer.eos,
        "blanks": sorted(set(blanks)),
        "never": [*tokenizer.never_generated, *range(tokenizer.num_tokens, rows)],
    }
