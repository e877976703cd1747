"""Sizes are checked when they are given, and add up to the published counts."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openglm.errors import ConfigError, OpenGLMError, suggest
from openglm.network.config import GLMConfig
from openglm.network.model import GLMModel

SIZES: dict[str, Any] = {"num_layers": 2, "hidden_size": 12, "num_attention_heads": 3, "vocab_size": 30}

configs = st.builds(
    GLMConfig,
    num_layers=st.integers(1, 3),
    hidden_size=st.sampled_from([4, 8, 12]),
    num_attention_heads=st.sampled_from([1, 2, 4]),
    vocab_size=st.integers(1, 40),
    max_sequence_length=st.integers(1, 20),
    block_position_encoding=st.booleans(),
    embedding_dropout_prob=st.floats(0, 1, exclude_max=True),
    gelu=st.sampled_from(["tanh", "erf"]),
    blanks=st.lists(st.sampled_from(["[MASK]", "[sMASK]", "[gMASK]"]), min_size=1, unique=True).map(tuple),
)


@given(configs)
def test_round_trip_through_json(config: GLMConfig) -> None:
    assert GLMConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@given(configs)
def test_number_of_parameters(config: GLMConfig) -> None:
    model = GLMModel(config)
    assert config.num_parameters == sum(parameter.numel() for parameter in model.parameters())
    assert model.transformer.position_embeddings.weight.shape[0] == config.position_rows
    assert config.head_size * config.num_attention_heads == config.hidden_size


@pytest.mark.parametrize(
    ("layers", "width", "heads", "positions", "vocabulary", "parameters"),
    [
        (12, 768, 12, 512, 30592, 109_338_624),  # GLM-Base
        (24, 1024, 16, 512, 30592, 334_688_256),  # GLM-Large
        (30, 1152, 18, 512, 30592, 514_632_960),  # GLM-515M
        (24, 1024, 16, 1024, 50048, 355_659_776),  # GLM-Large-Chinese
        (36, 2048, 32, 1024, 50304, 1_920_122_880),  # GLM-2B
        (48, 4096, 64, 1024, 50048, 9_879_633_920),  # GLM-10B-Chinese
    ],
)
def test_published_sizes(layers: int, width: int, heads: int, positions: int, vocabulary: int, parameters: int) -> None:
    config = GLMConfig(layers, width, heads, vocabulary, max_sequence_length=positions)
    assert config.num_parameters == parameters
    assert config.head_size == 64


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"num_layers": 0}, "num_layers"),
        ({"hidden_size": -8}, "hidden_size"),
        ({"vocab_size": 3.5}, "vocab_size"),
        ({"max_sequence_length": "512"}, "max_sequence_length"),
        ({"num_attention_heads": True}, "num_attention_heads"),
        ({"num_attention_heads": 5}, "num_attention_heads 5 does not divide hidden_size 12"),
        ({"output_dropout_prob": 1.0}, "output_dropout_prob"),
        ({"attention_dropout_prob": -0.1}, "attention_dropout_prob"),
        ({"embedding_dropout_prob": None}, "embedding_dropout_prob"),
        ({"embedding_dropout_prob": float("nan")}, "embedding_dropout_prob"),
        ({"gelu": "relu"}, "tanh, erf"),
        ({"blanks": []}, "blanks"),
        ({"blanks": ["[MASK]", "[XMASK]"]}, "XMASK"),
        ({"blanks": "[MASK]"}, "blanks"),
        ({"blanks": 3}, "blanks"),
        ({"layernorm_epsilon": "small"}, "layernorm_epsilon"),
        ({"initializer_range": None}, "initializer_range"),
        ({"block_position_encoding": "false"}, "block_position_encoding"),
    ],
)
def test_impossible_values_are_named(values: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        GLMConfig.from_dict({**SIZES, **values})


def test_unknown_keys_are_refused_with_a_hint() -> None:
    with pytest.raises(ConfigError, match=r"'hidden_sise'.*Did you mean 'hidden_size'"):
        GLMConfig.from_dict({**SIZES, "hidden_sise": 12})


def test_missing_keys_are_all_named() -> None:
    with pytest.raises(ConfigError, match="num_attention_heads, vocab_size"):
        GLMConfig.from_dict({"num_layers": 2, "hidden_size": 12})


@pytest.mark.parametrize("values", [None, 3, "text", [1]])
def test_only_mappings_are_configurations(values: Any) -> None:
    with pytest.raises(ConfigError):
        GLMConfig.from_dict(values)


def test_architectures_do_not_mix() -> None:
    with pytest.raises(ConfigError, match="architecture must be one of glm, modern, not 'gml'"):
        GLMConfig(**SIZES, architecture="gml")
    for field in ({"gelu": "erf"}, {"initializer_range": 0.1}, {"block_position_encoding": False}):
        with pytest.raises(ConfigError, match=f"{next(iter(field))} belongs to the architecture 'glm'"):
            GLMConfig(**SIZES, architecture="modern", **field)
    with pytest.raises(ConfigError, match="rotary_base belongs to the architecture 'modern', this is 'glm'"):
        GLMConfig(**SIZES, rotary_base=500.0)
    # In a file, a field of the other architecture is refused whatever its value.
    with pytest.raises(ConfigError, match="gelu belongs to"):
        GLMConfig.from_dict({**SIZES, "architecture": "modern", "gelu": "tanh"})
    with pytest.raises(ConfigError, match="rotary_base belongs to"):
        GLMConfig.from_dict({**SIZES, "rotary_base": 10_000.0})


def test_modern_configurations() -> None:
    sizes = {**SIZES, "hidden_size": 48, "num_attention_heads": 4}
    config = GLMConfig(**sizes, architecture="modern", rotary_base=500.0)
    assert GLMConfig.from_dict(config.to_dict()) == config
    assert not {"gelu", "initializer_range", "block_position_encoding"} & config.to_dict().keys()
    assert not {"architecture", "rotary_base"} & GLMConfig(**sizes).to_dict().keys()
    with pytest.raises(ConfigError, match="width divisible by 4, not 6"):
        GLMConfig(**{**sizes, "num_attention_heads": 8}, architecture="modern")
    with pytest.raises(ConfigError, match="rotary_base must be above 1"):
        GLMConfig(**sizes, architecture="modern", rotary_base=1.0)


def test_configurations_do_not_change() -> None:
    config = GLMConfig(**SIZES)
    with pytest.raises(AttributeError):
        config.num_layers = 3  # type: ignore[misc]
    assert hash(config) == hash(GLMConfig(**SIZES))


def test_position_rows() -> None:
    assert GLMConfig(**SIZES, max_sequence_length=64).position_rows == 65
    assert GLMConfig(**SIZES, max_sequence_length=64, block_position_encoding=False).position_rows == 64


def test_errors_are_caught_together() -> None:
    with pytest.raises(OpenGLMError):
        GLMConfig(0, 1, 1, 1)
    with pytest.raises(ValueError, match="num_layers"):
        GLMConfig(0, 1, 1, 1)


def test_suggestions() -> None:
    assert suggest("TOKENIZR", ["tokenizer", "model"]) == " Did you mean 'tokenizer'?"
    assert suggest("xyz", ["tokenizer", "model"]) == ""
