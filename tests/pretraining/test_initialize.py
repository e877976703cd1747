"""Fresh weights that attend to neighbours: what the heads look at before any training."""

from __future__ import annotations

import math

import pytest
import torch

from openglm.errors import ConfigError
from openglm.network.config import GLMConfig
from openglm.network.model import GLMModel
from openglm.pretraining.initialize import HEADS, start_from_neighbours


@pytest.fixture(scope="module")
def model() -> GLMModel:
    torch.manual_seed(4)
    model = GLMModel(GLMConfig(2, 256, 4, 640, max_sequence_length=128))
    start_from_neighbours(model)
    return model.eval().requires_grad_(False)


def attention_of(model: GLMModel, layer: int, head: int, positions: torch.Tensor) -> torch.Tensor:
    """[S, S] attention probabilities of one head for random tokens at these positions ([2, S])."""
    config, transformer = model.config, model.transformer
    ids = torch.randint(0, 600, (positions.shape[1],))
    x = model.word_embeddings(ids) + transformer.position_embeddings(positions[0])
    x = x + transformer.block_position_embeddings(positions[1])
    block = transformer.layers[layer]
    projected = block.get_submodule("attention.query_key_value")(block.get_submodule("input_layernorm")(x))
    q, k, _ = (part.view(len(ids), config.num_attention_heads, -1)[:, head] for part in projected.chunk(3, -1))
    return (q @ k.T / math.sqrt(config.head_size)).softmax(-1)


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("head", range(4))
def test_heads_look_at_the_neighbour_they_are_for(model: GLMModel, layer: int, head: int) -> None:
    position, block = HEADS[layer][head]
    if block is None:
        positions = torch.stack([torch.arange(100), torch.zeros(100, dtype=torch.long)])
        looks_at = attention_of(model, layer, head, positions).argmax(-1)
        inside = torch.arange(4, 96)
        assert (looks_at[inside] == inside + position).float().mean() > 0.95
    else:  # two spans of 40 tokens: the neighbour is in the same span
        positions = torch.stack([torch.tensor([20, 70]).repeat_interleave(40), torch.arange(1, 41).repeat(2)])
        looks_at = attention_of(model, layer, head, positions).argmax(-1)
        inside = torch.cat([torch.arange(4, 40), torch.arange(44, 80)])
        assert (looks_at[inside] == inside + block).float().mean() > 0.9


def test_random_heads_do_not() -> None:
    torch.manual_seed(4)
    model = GLMModel(GLMConfig(2, 256, 4, 640, max_sequence_length=128)).requires_grad_(False)
    positions = torch.stack([torch.arange(100), torch.zeros(100, dtype=torch.long)])
    looks_at = attention_of(model, 0, 0, positions).argmax(-1)
    assert (looks_at == torch.arange(100) - 1).float().mean() < 0.2


def test_everything_stays_trainable_and_the_rest_is_untouched(model: GLMModel) -> None:
    torch.manual_seed(4)
    plain = GLMModel(model.config)
    for name, parameter in plain.named_parameters():
        changed = "position_embeddings" in name or name.endswith("query_key_value.weight")
        assert torch.equal(parameter, model.get_parameter(name)) != changed
    width = model.config.hidden_size
    for layer in model.transformer.layers:  # values are left as they were drawn
        values = layer.get_parameter("attention.query_key_value.weight")[2 * width :]
        assert values.std() == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize("changes", [{"hidden_size": 30, "num_attention_heads": 3}, {"block_position_encoding": False},
                                     {"num_attention_heads": 1}])  # fmt: skip
def test_shapes_that_cannot_hold_the_waves(changes: dict[str, int]) -> None:
    values = {"num_layers": 1, "hidden_size": 32, "num_attention_heads": 4, "vocab_size": 64}
    with pytest.raises(ConfigError):
        start_from_neighbours(GLMModel(GLMConfig(**{**values, **changes})))
