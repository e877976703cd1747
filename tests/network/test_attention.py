"""Who sees whom, and that every way of computing it agrees."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from openglm.batches import NO_DOCUMENT, Arrays, Batch, pack, pad
from openglm.blanks import Markers
from openglm.errors import OptionError
from openglm.layouts import Layout, blank_out
from openglm.network.attention import (
    PADDING,
    _spelled_out,
    attend,
    block_mask,
    dense_mask,
    prefix_mask,
    tokens_seen,
)
from openglm.network.cache import KVCache
from openglm.network.model import GLMModel

CLOSE = 1e-5


@st.composite
def packed_rows(draw: st.DrawFn) -> tuple[list[list[int]], list[list[bool]]]:
    """Documents and Part A flags of a few rows of one length, padding at their ends."""
    rows = draw(st.lists(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=4), min_size=1, max_size=3))
    length = max(1, max(sum(a + b for a, b in row) for row in rows) + draw(st.integers(0, 3)))
    documents, in_part_a = [], []
    for row in rows:
        line, flags = [], []
        for number, (a, b) in enumerate(row):
            line += [number] * (a + b)
            flags += [True] * a + [False] * b
        documents.append(line + [PADDING] * (length - len(line)))
        in_part_a.append(flags + [False] * (length - len(flags)))
    return documents, in_part_a


@given(packed_rows())
def test_dense_mask_is_the_rule(rows: tuple[list[list[int]], list[list[bool]]]) -> None:
    documents, in_part_a = rows
    mask = dense_mask(torch.tensor(documents), torch.tensor(in_part_a))
    length = len(documents[0])
    assert mask.shape == (len(documents), 1, length, length)
    assert mask.dtype == torch.bool
    for b in range(len(documents)):
        for query in range(length):
            for key in range(length):
                same = documents[b][query] == documents[b][key]
                sees = same and (in_part_a[b][key] or key <= query)
                assert mask[b, 0, query, key].item() == sees, (b, query, key)
    assert mask.any(-1).all(), "a token always sees itself"


@given(st.lists(st.integers(0, 9), min_size=1, max_size=4), st.integers(1, 9))
def test_prefix_mask_is_the_rule(separators: list[int], length: int) -> None:
    mask = prefix_mask(torch.tensor(separators), length)
    assert mask.shape == (len(separators), 1, length, length)
    for b, separator in enumerate(separators):
        for query in range(length):
            for key in range(length):
                assert mask[b, 0, query, key].item() == (key < separator or key <= query)


@given(st.integers(0, 30), st.integers(1, 30))
def test_tokens_seen_is_the_rule(separator: int, more: int) -> None:
    """Counted, and always the first ones."""
    length = separator + more
    mask = prefix_mask(torch.tensor([separator]), length)[0, 0]
    seen = torch.from_numpy(tokens_seen(separator, length))
    assert torch.equal(torch.arange(length) < seen[:, None], mask)


def test_padding_means_the_same_in_both_modules() -> None:
    assert PADDING == NO_DOCUMENT


def random_rows(rng: np.random.Generator, rows: int, length: int) -> tuple[Tensor, Tensor]:
    documents, in_part_a = torch.full((rows, length), PADDING), torch.zeros(rows, length, dtype=torch.bool)
    for row in range(rows):
        start = number = 0
        while start < length - 10:
            size = int(rng.integers(3, 60))
            documents[row, start : start + size] = number
            in_part_a[row, start : start + int(rng.integers(1, size))] = True
            start, number = start + size, number + 1
    return documents, in_part_a


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("length", [20, 128, 200])
def test_block_mask_computes_what_the_dense_mask_does(length: int) -> None:
    rng = np.random.default_rng(length)
    documents, in_part_a = random_rows(rng, 3, length)
    q, k, v = torch.randn(3, 3, 4, length, 16).unbind(0)
    dense = attend(q, k, v, dense_mask(documents, in_part_a))
    blocks = attend(q, k, v, block_mask(documents, in_part_a))
    torch.testing.assert_close(blocks, dense, rtol=CLOSE, atol=CLOSE)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_model_reads_both_kinds_of_mask(tiny_model: GLMModel) -> None:
    documents, in_part_a = random_rows(np.random.default_rng(0), 2, 50)
    ids = torch.randint(0, 500, (2, 50))
    dense = tiny_model(ids, None, dense_mask(documents, in_part_a))
    blocks = tiny_model(ids, None, block_mask(documents, in_part_a))
    torch.testing.assert_close(blocks, dense, rtol=1e-4, atol=1e-4)


def test_attention_is_the_formula() -> None:
    q, k, v = torch.randn(3, 2, 4, 7, 8).unbind(0)
    mask = dense_mask(
        torch.tensor([[0, 0, 0, 1, 1, 1, 1]]), torch.tensor([[True, True, False, True, False, False, False]])
    )
    scores = (q @ k.transpose(-1, -2)) / math.sqrt(8)
    expected = scores.masked_fill(~mask, -math.inf).softmax(-1) @ v
    torch.testing.assert_close(attend(q, k, v, mask), expected, rtol=CLOSE, atol=CLOSE)
    torch.testing.assert_close(attend(q, k, v, None), scores.softmax(-1) @ v, rtol=CLOSE, atol=CLOSE)


def test_masks_of_numbers_are_refused(tiny_model: GLMModel) -> None:
    """A float mask would be added to the scores, which nobody means who passes ones and zeros."""
    with pytest.raises(OptionError, match="boolean"):
        tiny_model(torch.zeros(1, 4, dtype=torch.long), None, torch.ones(1, 1, 4, 4))


# --- packed documents ----------------------------------------------------------------


def some_layouts(rng: np.random.Generator, count: int) -> list[Layout]:
    layouts = []
    for _ in range(count):
        n = int(rng.integers(6, 14))
        start = int(rng.integers(0, n - 4))
        spans = np.array([start, start + 3]), np.array([start + 2, start + 4])
        layouts.append(blank_out(rng.integers(0, 500, n), *spans, 602, Markers(605, 606), order=np.array([1, 0])))
    return layouts


def logits_of(model: GLMModel, batch: Batch[Arrays]) -> Tensor:
    mask = dense_mask(torch.from_numpy(batch.documents), torch.from_numpy(batch.in_part_a))
    out: Tensor = model(torch.from_numpy(batch.input_ids), torch.from_numpy(batch.position_ids), mask)
    return out


def test_packed_documents_never_see_each_other(tiny_model: GLMModel) -> None:
    rng = np.random.default_rng(4)
    batch = pack(some_layouts(rng, 7), 60, 600)
    before = logits_of(tiny_model, batch)
    for row, numbers in enumerate(batch.placed):
        for number in range(len(numbers)):
            mine = batch.documents[row] == number
            ids = batch.input_ids.copy()
            ids[row, mine] = rng.integers(0, 500, mine.sum())
            mask = dense_mask(torch.from_numpy(batch.documents), torch.from_numpy(batch.in_part_a))
            after = tiny_model(torch.from_numpy(ids), torch.from_numpy(batch.position_ids), mask)
            change = (after - before).abs().amax(-1)
            own = torch.from_numpy(mine)
            assert (change[row][own] > 1e-3).all(), "the document itself reads its tokens"
            assert change[row][~own].max() <= 1e-6
            others = torch.arange(len(change)) != row
            assert not others.any() or change[others].max() <= 1e-6


def test_packed_padded_and_single_rows_agree(tiny_model: GLMModel) -> None:
    layouts = some_layouts(np.random.default_rng(5), 6)
    packed, padded = pack(layouts, 70, 600), pad(layouts, 600)
    from_packed, from_padded = logits_of(tiny_model, packed), logits_of(tiny_model, padded)
    for i, layout in enumerate(layouts):
        alone = logits_of(tiny_model, pad([layout], 600))[0]
        torch.testing.assert_close(from_padded[i, : len(layout)], alone, rtol=1e-4, atol=1e-4)
        row = next(r for r, numbers in enumerate(packed.placed) if i in numbers)
        here = torch.from_numpy(packed.documents[row] == packed.placed[row].index(i))
        torch.testing.assert_close(from_packed[row][here], alone, rtol=1e-4, atol=1e-4)


def test_part_b_does_not_see_its_future(tiny_model: GLMModel) -> None:
    layout = some_layouts(np.random.default_rng(6), 1)[0]
    batch = pad([layout], 600)
    before = logits_of(tiny_model, batch)[0]
    for changed in range(len(layout)):
        batch.input_ids[0, changed] += 1
        change = (logits_of(tiny_model, batch)[0] - before).abs().amax(-1)
        batch.input_ids[0, changed] -= 1
        first = 0 if changed < layout.separator else changed
        assert (change[first:] > 1e-4).all()
        assert (change[:first] <= 1e-6).all()


def test_logits_for_some_positions(tiny_model: GLMModel) -> None:
    ids = torch.randint(0, 500, (3, 9))
    chosen = torch.rand(3, 9) < 0.4
    torch.testing.assert_close(tiny_model(ids, logits_for=chosen), tiny_model(ids)[chosen], rtol=CLOSE, atol=CLOSE)


# --- cached keys and values ----------------------------------------------------------


def inputs(rows: int, length: int, separator: int) -> tuple[Tensor, Tensor]:
    """Token ids and positions of rows whose Part B is one span."""
    ids = torch.randint(0, 500, (rows, length))
    index = torch.arange(length)
    positions = torch.stack([index.clamp(max=separator - 1), (index - separator + 1).clamp(min=0)])
    return ids, positions.expand(rows, 2, length)


@settings(max_examples=30)
@given(
    separator=st.integers(1, 10),
    sizes=st.lists(st.integers(1, 4), max_size=5),
    capacity=st.sampled_from([0, 3, 12, 64]),
)
def test_cached_steps_equal_one_pass(tiny_model: GLMModel, separator: int, sizes: list[int], capacity: int) -> None:
    """Part A first, then Part B in pieces of any size."""
    length = separator + sum(sizes)
    ids, positions = inputs(2, length, separator)
    mask = prefix_mask(torch.tensor([separator]), length)
    whole = tiny_model(ids, positions, mask)
    cache, start = KVCache(capacity), 0
    for size in [separator, *sizes]:
        end = start + size
        step = tiny_model(ids[:, start:end], positions[..., start:end], mask[:, :, start:end, :end], cache=cache)
        torch.testing.assert_close(step, whole[:, start:end], rtol=1e-4, atol=1e-4)
        start = end
        assert cache.length == end


def test_rows_of_a_cache_are_selected(tiny_model: GLMModel) -> None:
    """Keep, repeat and reorder rows in the middle of decoding, as beam search does."""
    separator, length = 6, 14
    ids, positions = inputs(3, length, separator)
    mask = prefix_mask(torch.tensor([separator]), length)
    whole = tiny_model(ids, positions, mask)
    cache = KVCache(8)
    tiny_model(ids[:, :9], positions[..., :9], mask[:, :, :9, :9], cache=cache)
    rows = torch.tensor([2, 0, 0, 1, 2])
    cache.select(rows)
    for end in range(10, length + 1):
        step = tiny_model(ids[rows, end - 1 : end], positions[rows][..., end - 1 : end], None, cache=cache)
        torch.testing.assert_close(step[:, 0], whole[rows, end - 1], rtol=1e-4, atol=1e-4)
    cache.select(torch.tensor([1]))
    assert cache.length == length


def test_selected_rows_share_nothing(tiny_model: GLMModel) -> None:
    ids, positions = inputs(1, 8, 4)
    cache = KVCache(20)
    tiny_model(ids[:, :4], positions[..., :4], cache=cache)
    cache.select(torch.tensor([0, 0]))
    two = torch.tensor([[7], [8]])
    step = tiny_model(two, positions[:, :, 4:5].expand(2, 2, 1), None, cache=cache)
    for row in range(2):
        alone = KVCache()
        tiny_model(ids[:, :4], positions[..., :4], cache=alone)
        expected = tiny_model(two[row : row + 1], positions[..., 4:5], None, cache=alone)
        torch.testing.assert_close(step[row : row + 1], expected, rtol=1e-4, atol=1e-4)


def test_hidden_columns_of_shorter_rows(tiny_model: GLMModel) -> None:
    """Rows with Parts A of different lengths in one cache, their spare columns masked."""
    lengths = [4, 7]
    ids, positions = inputs(2, 7, 7)
    column = torch.arange(7)
    readable = column < torch.tensor(lengths)[:, None]
    cache = KVCache()
    tiny_model(ids, positions, readable[:, None, None, :], cache=cache)
    step = torch.tensor([[11], [12]])
    step_positions = torch.tensor([[[3], [1]], [[3], [1]]])
    visible = torch.cat([readable, torch.ones(2, 1, dtype=torch.bool)], dim=1)
    together = tiny_model(step, step_positions, visible[:, None, None, :], cache=cache)
    for row, length in enumerate(lengths):
        alone = KVCache()
        tiny_model(ids[row : row + 1, :length], positions[row : row + 1, :, :length], None, cache=alone)
        single = tiny_model(step[row : row + 1], step_positions[row : row + 1], None, cache=alone)
        torch.testing.assert_close(together[row : row + 1], single, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_spelled_out_is_the_same(normalized: bool, masked: bool) -> None:
    """What graphs for a CPU are made of; with normalized queries and keys without a maximum to take away."""
    q, k, v = (torch.randn(2, 3, 9, 16, requires_grad=True) for _ in range(3))
    if normalized:
        q, k = (F.normalize(x.detach(), dim=-1).mul(4).requires_grad_() for x in (q, k))
    mask = prefix_mask(torch.tensor([4, 7]), 9) if masked else None
    given = torch.randn(2, 3, 9, 16)
    found = []
    for mixed in (
        F.scaled_dot_product_attention(q, k, v, attn_mask=mask),
        _spelled_out(q, k, v, mask, 0.0, normalized),
    ):
        found.append((mixed, *torch.autograd.grad(mixed, (q, k, v), given)))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_the_largest_score_can_be_summed() -> None:
    q = k = torch.full((1, 1, 512, 16), 30.0)
    mixed = _spelled_out(q, k, torch.ones(1, 1, 512, 16), None, 0.0, True)
    torch.testing.assert_close(mixed, torch.ones(1, 1, 512, 16))
