"""The modern architecture: its numbers by their definition, and that whatever reads a network reads it alike."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from openglm.network.attention import prefix_mask
from openglm.network.cache import KVCache
from openglm.network.config import GLMConfig
from openglm.network.model import GLMModel
from openglm.network.modern import gelu, rotate, rotation
from openglm.network.quantization import quantize

CONFIG = GLMConfig(2, 64, 2, 128, max_sequence_length=96, architecture="modern")


@pytest.fixture
def model() -> GLMModel:
    """A network whose weights are all at work: gains differ, and no projection is zero."""
    model = GLMModel(CONFIG).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "layernorm" in name:
                weight.uniform_(0.5, 1.5)
            elif not weight.any():
                weight.normal_(0.0, 0.1)
    return model


def text(length: int, part_a: int, rows: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, positions and the mask of texts with one blank in the middle of Part A."""
    ids = torch.randint(0, 120, (rows, length))
    index = torch.arange(length)
    positions = torch.where(index < part_a, index, part_a // 2)
    blocks = (index - part_a + 1).clamp(min=0)
    return (
        ids,
        torch.stack([positions, blocks]).expand(rows, 2, length),
        prefix_mask(torch.full((rows,), part_a), length),
    )


def by_definition(model: GLMModel, ids: Tensor, places: Tensor, mask: Tensor) -> Tensor:
    """The logits of one text, head by head, with rotations as complex numbers."""
    weights = {name: value.detach().double() for name, value in model.named_parameters()}
    heads, size = CONFIG.num_attention_heads, CONFIG.head_size

    def norm(x: Tensor, name: str) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + CONFIG.layernorm_epsilon).sqrt() * weights[name]

    def turned(x: Tensor) -> Tensor:
        pairs = torch.complex(x[:, : size // 2], x[:, size // 2 :])
        rates = [CONFIG.rotary_base ** -(4 * i / size) for i in range(size // 4)]
        angles = torch.cat([places[axis][:, None].double() * torch.tensor(rates).double() for axis in (0, 1)], dim=1)
        pairs = pairs * torch.polar(torch.ones_like(angles), angles)
        return torch.cat([pairs.real, pairs.imag], dim=1)

    x = norm(weights["word_embeddings.weight"][ids], "transformer.embedding_layernorm.weight")
    for number in range(CONFIG.num_layers):
        layer = f"transformer.layers.{number}"
        read = norm(x, f"{layer}.input_layernorm.weight")
        q, k, v = (read @ weights[f"{layer}.attention.query_key_value.weight"].T).chunk(3, -1)
        mixed = []
        for head in range(heads):
            own = slice(head * size, (head + 1) * size)
            query = turned(norm(q[:, own], f"{layer}.attention.query_layernorm.weight"))
            key = turned(norm(k[:, own], f"{layer}.attention.key_layernorm.weight"))
            scores = (query @ key.T / math.sqrt(size)).masked_fill(~mask, -torch.inf)
            mixed.append(scores.softmax(-1) @ v[:, own])
        x = x + torch.cat(mixed, -1) @ weights[f"{layer}.attention.dense.weight"].T
        read = norm(x, f"{layer}.post_attention_layernorm.weight")
        wide = F.gelu(read @ weights[f"{layer}.mlp.dense_h_to_4h.weight"].T, approximate="tanh")
        x = x + wide @ weights[f"{layer}.mlp.dense_4h_to_h.weight"].T
    return norm(x, "transformer.final_layernorm.weight") @ weights["word_embeddings.weight"].T


@torch.no_grad()
def test_logits_are_those_of_the_definition(model: GLMModel) -> None:
    ids, places, mask = text(30, 20)
    torch.testing.assert_close(
        model(ids, places, mask)[0].double(), by_definition(model, ids[0], places[0], mask[0, 0]), rtol=1e-4, atol=1e-4
    )


def test_scores_depend_on_distances_alone() -> None:
    q, k = torch.randn(2, 1, 1, 1, 64)

    def score(at: tuple[int, int], other: tuple[int, int]) -> float:
        turns = [rotation(torch.tensor(place).view(1, 2, 1), 64, 10_000.0) for place in (at, other)]
        return float((rotate(q, turns[0]) * rotate(k, turns[1])).sum())

    assert score((50, 7), (47, 5)) == pytest.approx(score((3, 2), (0, 0)), abs=1e-3)
    assert score((50, 7), (47, 5)) != pytest.approx(score((50, 7), (47, 6)), abs=1e-2)
    assert score((50, 7), (47, 5)) != pytest.approx(score((50, 7), (46, 5)), abs=1e-2)


def test_a_fresh_network_passes_its_embeddings_through() -> None:
    model = GLMModel(CONFIG).eval()
    ids, places, mask = text(12, 8)
    words = F.rms_norm(model.word_embeddings(ids), (64,), eps=CONFIG.layernorm_epsilon)
    assert torch.allclose(model.hidden_states(ids, places, mask), F.rms_norm(words, (64,)), atol=1e-4)
    matrix = model.get_parameter("transformer.layers.0.mlp.dense_h_to_4h.weight")
    assert float(matrix.detach().std()) == pytest.approx(1 / 8, rel=0.1)


def test_num_parameters_counts_all(model: GLMModel) -> None:
    assert CONFIG.num_parameters == sum(parameter.numel() for parameter in model.parameters())


@torch.no_grad()
def test_a_cache_changes_nothing(model: GLMModel) -> None:
    ids, places, mask = text(40, 25, rows=3)
    whole = model(ids, places, mask)
    cache = KVCache(capacity=4)
    parts = [model(ids[:, :25], places[:, :, :25], None, cache=cache)]
    for at in range(25, 40):
        own = slice(at, at + 1)
        parts.append(model(ids[:, own], places[:, :, own], mask[:, :, own, : at + 1], cache=cache))
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_int8_stays_close(model: GLMModel) -> None:
    ids, places, mask = text(40, 25)
    before = model(ids, places, mask)
    after = quantize(model, "int8")(ids, places, mask)
    assert 0 < (after - before).norm() < 0.05 * before.norm()


def test_checkpointing_gives_the_same_gradients(model: GLMModel) -> None:
    ids, places, mask = text(20, 12)
    model.train()
    gradients = []
    for checkpointing in (False, True):
        model.transformer.activation_checkpointing = checkpointing
        torch.manual_seed(0)
        model(ids, places, mask).logsumexp(-1).sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
        model.zero_grad()
    for a, b in zip(*gradients, strict=True):
        assert a is not None
        assert b is not None
        assert torch.allclose(a, b, atol=1e-6)


def test_gelu_of_graphs_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.linspace(-12, 12, 4001, requires_grad=True)
    found = []
    for compiling in (False, True):
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda compiling=compiling: compiling)
        y = gelu(x)
        found.append((y, torch.autograd.grad(y.sum(), x)[0]))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=5e-6)
