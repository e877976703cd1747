"""The compiled kernel against attention over pages with torch's operations, and how it is built."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from openglm.batches import pad
from openglm.blanks import Markers, PartA
from openglm.engine import native
from openglm.engine.paged_attention import DecodeCache, PrefillCache
from openglm.engine.pages import BlockTable, PagePool
from openglm.layouts import Layout, lay_out
from openglm.network import native as kernels
from openglm.network.attention import dense_mask, tokens_seen
from openglm.network.config import GLMConfig
from openglm.tensors import to_tensors

pytestmark = [
    pytest.mark.skipif(shutil.which(kernels.compiler()) is None, reason=f"the kernel needs {kernels.compiler()}"),
    pytest.mark.skipif(kernels.instructions() is None, reason="there is no kernel for this machine"),
]
LAYERS, HEADS = 2, 3


def config_of(size: int) -> GLMConfig:
    return GLMConfig(LAYERS, HEADS * size, HEADS, 128, max_sequence_length=512)


def layout_of(length: int) -> Layout:
    """Part A, and in all but the shortest texts a Part B."""
    part_a = length if length < 4 else length // 2 + 1
    spans = [] if part_a == length else [np.arange(length - part_a - 1)]
    return lay_out(PartA(np.arange(part_a) % 100, np.zeros(len(spans), np.int64)), spans, Markers(sop=120, eop=121))


def queries_keys_values(texts: int, tokens: int, size: int) -> tuple[Tensor, ...]:
    """As a layer makes them: parts of one tensor."""
    return torch.randn(texts, tokens, 3, HEADS, size).permute(2, 0, 3, 1, 4).unbind(0)


@pytest.fixture(scope="module", params=kernels.INSTRUCTIONS)
def processor(request: pytest.FixtureRequest) -> Iterator[None]:
    """The kernel for each kind of processor that this one can stand for."""
    if request.param == "AVX512" and torch.backends.cpu.get_cpu_capability() != "AVX512":
        pytest.skip("the processor has no AVX-512")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENGLM_KERNEL", request.param)
        assert kernels.instructions() == request.param
        yield


@pytest.mark.usefixtures("processor")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("size", [16, 48, 64, 80, 128])
@torch.inference_mode()
def test_texts_get_what_torch_computes(size: int, dtype: torch.dtype) -> None:
    tolerance = 2e-6 if dtype == torch.float32 else 3e-3  # torch rounds weights to halves, the kernel does not
    lengths = [5, 64, 63, 200, 1, 65]
    layouts = [layout_of(length) for length in lengths]
    tensors = to_tensors(pad(layouts, 122), torch.device("cpu"))
    mask = dense_mask(tensors.documents, tensors.in_part_a)
    plain, compiled = PagePool(config_of(size), dtype), PagePool(config_of(size), dtype)
    kept: list[tuple[PagePool, list[BlockTable]]] = [(p, [p.allocate(n) for n in lengths]) for p in (plain, compiled)]
    caches = [kind(*each, layouts) for kind, each in zip((PrefillCache, native.NativePrefillCache), kept, strict=True)]
    for layer in range(LAYERS):
        qkv = queries_keys_values(len(lengths), 200, size)
        a, b = (cache.attend(layer, *qkv, mask) for cache in caches)
        for row, length in enumerate(lengths):
            torch.testing.assert_close(a[row, :, :length], b[row, :, :length], atol=tolerance, rtol=0)
        assert b.isfinite().all()
    for step in range(70):
        if step == 3:
            for pages, tables in kept:
                tables += [pages.fork(tables[3]), pages.fork(tables[3])]
        steps = [kind(*each) for kind, each in zip((DecodeCache, native.NativeDecodeCache), kept, strict=True)]
        for layer in range(LAYERS):
            qkv = queries_keys_values(len(kept[0][1]), 1, size)
            a, b = (cache.attend(layer, *qkv, None) for cache in steps)
            torch.testing.assert_close(a, b, atol=tolerance, rtol=0)
        for _, tables in kept:
            for table in tables:
                table.length += 1


@pytest.mark.usefixtures("processor")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@torch.inference_mode()
def test_reading_at_once_is_reading_one_by_one(dtype: torch.dtype) -> None:
    """To the last bit."""
    layout, tokens = layout_of(75), 75
    part_a = layout.separator
    qkv = queries_keys_values(1, tokens, 32)
    pages = PagePool(config_of(32), dtype)
    whole, parts = pages.allocate(tokens), pages.allocate(part_a)
    expected = native.NativePrefillCache(pages, [whole], [layout]).attend(0, *qkv, None)
    head = lay_out(PartA(layout.input_ids[:part_a], np.zeros(0, np.int64)), [], Markers(sop=120, eop=121))
    read = [native.NativePrefillCache(pages, [parts], [head]).attend(0, *(x[:, :, :part_a] for x in qkv), None)]
    for token in range(part_a, tokens):
        one = (x[:, :, token : token + 1] for x in qkv)
        read.append(native.NativeDecodeCache(pages, [parts]).attend(0, *one, None))
        parts.length += 1
    assert torch.equal(torch.cat(read, 2), expected)


@torch.inference_mode()
def test_a_text_gets_the_same_in_any_company() -> None:
    layouts = [layout_of(n) for n in (70, 9, 41, 70, 130, 2, 64, 8, 90)]
    qkv = queries_keys_values(len(layouts), 130, 32)
    step = queries_keys_values(len(layouts), 1, 32)

    def mixed(rows: list[int]) -> list[Tensor]:
        pages = PagePool(config_of(32), torch.float32)
        chosen = [layouts[row] for row in rows]
        tables = [pages.allocate(len(layout)) for layout in chosen]
        longest = max(map(len, chosen))
        read = native.NativePrefillCache(pages, tables, chosen).attend(0, *(x[rows][:, :, :longest] for x in qkv), None)
        after = native.NativeDecodeCache(pages, tables).attend(0, *(x[rows] for x in step), None)
        return [torch.cat([read[i, :, : len(each)], after[i]], 1) for i, each in enumerate(chosen)]

    together = mixed(list(range(len(layouts))))
    for row, whole in enumerate(together):
        assert torch.equal(mixed([row])[0], whole)


@torch.inference_mode()
def test_scores_far_apart_and_too_large_for_a_half() -> None:
    """Weights that vanish, and keys and values that are cut off at what a half can hold."""
    for dtype, large in ((torch.float32, 1e4), (torch.float16, 1e6)):
        pages = PagePool(config_of(16), dtype)
        tables = [pages.allocate(40)]
        q, k, v = queries_keys_values(1, 40, 16)
        out = native.NativePrefillCache(pages, tables, [layout_of(40)]).attend(0, large * q, k, large * v, None)
        assert out.isfinite().all()
        # One token has all the weight: what is mixed is one of the values.
        values = (large * v).clamp(-65504, 65504) if dtype == torch.float16 else large * v
        nearest = (out[0, 0, -1] - values[0, 0]).abs().amax(-1).min()
        assert nearest <= 1e-3 * values.abs().max()


@pytest.mark.usefixtures("processor")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@torch.inference_mode()
def test_attention_under_a_mask_is_that_over_pages(dtype: torch.dtype) -> None:
    """To the last bit: layouts that lie apart among others, as the candidates of a tree do."""
    rng = np.random.default_rng(0)
    layouts, S = [layout_of(n) for n in (70, 9, 130)], 150
    qkv = queries_keys_values(len(layouts), S, 32)
    places = [np.arange(70), *(np.sort(rng.choice(S, len(layout), replace=False)) for layout in layouts[1:])]
    sees = np.zeros((len(layouts), 1, S, S), np.bool_)
    for row, (place, layout) in enumerate(zip(places, layouts, strict=True)):
        for token, count in zip(place, counts_of(layout), strict=True):
            sees[row, 0, token, place[:count]] = True
    found = kernels.MaskedAttention(dtype).attend(0, *qkv, torch.from_numpy(sees))
    assert found.isfinite().all()
    for row, (place, layout) in enumerate(zip(places, layouts, strict=True)):
        pages = PagePool(config_of(32), dtype)
        own = (x[row : row + 1, :, place] for x in qkv)
        expected = native.NativePrefillCache(pages, [pages.allocate(len(layout))], [layout]).attend(0, *own, None)
        assert torch.equal(found[row, :, place], expected[0])


def counts_of(layout: Layout) -> list[int]:
    return tokens_seen(layout.separator, len(layout)).tolist()
