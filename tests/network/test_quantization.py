"""Int8 weights: every kernel against its definition, and what rounding costs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import openglm
from openglm.checkpoints.native import save_model
from openglm.checkpoints.resolve import open_model
from openglm.errors import OptionError
from openglm.network.config import GLMConfig
from openglm.network.model import GLMModel
from openglm.network.quantization import (
    KERNELS,
    Fbgemm,
    Int8Embedding,
    Int8Linear,
    OneDnn,
    Plain,
    activation_limit,
    quantize,
    rounded,
    weights_only,
)
from openglm.tokenizer import BilingualTokenizer


@given(st.integers(1, 40), st.integers(1, 70), st.integers(0, 100))
def test_rounding_is_to_the_nearest(rows: int, columns: int, seed: int) -> None:
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    weight[0] = 0.0  # a row of zeros stays one
    table, scale = rounded(weight)
    assert table.dtype == torch.int8
    assert table.abs().max() <= 127
    assert not table[0].any()
    assert ((table * scale[:, None] - weight).abs() <= scale[:, None] * 0.5001).all()


@pytest.mark.parametrize("kernel", [Fbgemm, OneDnn])
@given(st.integers(1, 33), st.integers(1, 80), st.integers(1, 200), st.integers(0, 100))
def test_kernels_give_the_same_integers(kernel: type, M: int, N: int, K: int, seed: int) -> None:
    """Products are sums of integers: nothing is lost in any order of summing."""
    if not kernel.available():
        pytest.skip(f"this torch has no {kernel.__name__}")
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randint(-127, 128, (N, K), generator=generator, dtype=torch.int8)
    scale, limit = torch.rand(N, generator=generator) + 0.1, activation_limit()
    x = torch.randint(-limit, limit + 1, (M, K), generator=generator) / limit
    found, expected = kernel(weight, scale, limit)(x), Plain(weight, scale, limit)(x)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)


def test_the_widest_values_do_not_overflow() -> None:
    limit = activation_limit()
    for kernel in KERNELS:
        if kernel.available():
            found = kernel(torch.full((8, 512), 127, dtype=torch.int8), torch.ones(8), limit)(torch.ones(4, 512))
            torch.testing.assert_close(found, torch.full((4, 8), 127.0 * 512), rtol=1e-6, atol=0)


@pytest.mark.parametrize("kernel", [kernel for kernel in KERNELS if kernel.available()])
def test_a_layer_is_near_and_its_rows_are_independent(kernel: type) -> None:
    torch.manual_seed(0)
    plain = nn.Linear(256, 96)
    layer = Int8Linear(plain.weight.detach(), plain.bias.detach(), kernel)
    x = torch.randn(5, 7, 256) * torch.logspace(-3, 3, 7)[:, None]
    out, exact = layer(x), plain(x)
    assert out.shape == exact.shape
    error = (out - exact).norm(dim=-1) / (exact - plain.bias).norm(dim=-1)
    assert error.max() < 0.03
    torch.testing.assert_close(layer(x[2, 3]), out[2, 3], rtol=1e-6, atol=1e-6)
    assert not layer(torch.zeros(1, 256)).sub(plain.bias).any()


def test_embedding_and_projection() -> None:
    torch.manual_seed(0)
    table = torch.randn(50, 64)
    embedding = Int8Embedding(table)
    ids = torch.tensor([[3, 49], [0, 3]])
    assert embedding(ids).shape == (2, 2, 64)
    assert (embedding(ids) - table[ids]).abs().max() < table.abs().max() / 127
    hidden = torch.randn(2, 64)
    assert (embedding.scores(hidden) - hidden @ table.T).norm() < 0.03 * (hidden @ table.T).norm()


def test_loading_rounds_as_rounding_does(tiny_model: GLMModel, tokenizer: BilingualTokenizer, tmp_path: Path) -> None:
    save_model(tmp_path / "m", tiny_model, tokenizer)
    loaded, _ = open_model(str(tmp_path / "m"), device="cpu", dtype=torch.float32, quantize="int8")
    again, _ = open_model(str(tmp_path / "m"), device="cpu", dtype=torch.float32)
    assert again.quantized is None
    here = quantize(again, "int8")
    assert loaded.quantized == here.quantized == "int8"
    assert not any(p.is_meta for p in loaded.parameters())
    ids = torch.randint(0, 100, (2, 9))
    with torch.inference_mode():
        assert torch.equal(loaded(ids), here(ids))


def test_texts_get_the_same_in_any_batch(tiny_model: GLMModel, tokenizer: BilingualTokenizer, tmp_path: Path) -> None:
    save_model(tmp_path / "m", tiny_model, tokenizer)
    infiller = openglm.load(tmp_path / "m", quantize="int8")
    texts = ["Yesterday [MASK] walked.", "老师[MASK]走到了[MASK]。", "[MASK]", "the old [MASK] bridge [gMASK]"]
    together = infiller.fill(texts, max_new_tokens=8)
    for text, result in zip(texts, together, strict=True):
        alone = infiller.fill(text, max_new_tokens=8)
        assert alone.text == result.text
        assert alone.logprob == pytest.approx(result.logprob, abs=0.02)


def test_the_embedded_model_is_rounded_unless_a_dtype_is_given() -> None:
    rounded_model, exact = openglm.load(), openglm.load(dtype="float32")
    assert (rounded_model.model.quantized, exact.model.quantized) == ("int8", None)
    losses = []
    text = (
        "The town lies on the river, about ten miles north of the border. It was founded in the nineteenth century "
        "and has a population of two thousand. 这座城市位于河的北岸，是该省的政治和文化中心，人口约二百万。"
    )
    for infiller in (rounded_model, exact):
        total = 0.0
        for start in range(1, len(text) - 4, 3):
            blanked = f"{text[:start]}[MASK]{text[start + 3 :]}"
            total -= infiller.score(blanked, text[start : start + 3]).logprob
        losses.append(total)
    assert losses[0] == pytest.approx(losses[1], rel=0.005)
    assert losses[0] != losses[1]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"quantize": "int3"}, "int3"),
        ({"quantize": "int8", "device": "meta"}, "CPU"),
        ({"quantize": "int4"}, "on a CPU use int8"),
    ],
)
def test_what_cannot_be_rounded(options: dict[str, str], named: str) -> None:
    model = GLMModel(GLMConfig(1, 16, 2, 128)).to(options.get("device", "cpu"))
    with pytest.raises(OptionError, match=named):
        quantize(model, options["quantize"])
    with pytest.raises(OptionError, match="int3"):
        openglm.load(quantize="int3")


def test_weights_alone_through_torchao(tiny_config: GLMConfig) -> None:
    """What a GPU gets, computed here on the CPU: near the model in its own type, and decoded like any other."""
    pytest.importorskip("torchao", reason="torchao is not installed")
    torch.manual_seed(0)
    model = GLMModel(tiny_config).eval()
    ids = torch.randint(0, 100, (2, 9))
    with torch.inference_mode():
        before = model(ids)
        assert weights_only(model, "int8").quantized == "int8"
        after = model(ids)
    assert not torch.equal(before, after)
    assert (after - before).norm() < 0.05 * before.norm()


def test_torchao_is_named_where_it_is_missing(tiny_model: GLMModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(OptionError, match="pip install torchao"):
        weights_only(tiny_model, "int8")


def test_compiling_names_the_compiler_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(OptionError, match="no-such-compiler is not installed"):
        openglm.load(device="cpu", compile=True)
