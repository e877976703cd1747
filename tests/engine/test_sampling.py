"""Choosing the next token: filters against naive definitions, frequencies against probabilities."""

from __future__ import annotations

import math

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from openglm.engine.options import FillOptions
from openglm.engine.sampling import (
    choose,
    favor_ends,
    forbid_repeats,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    keep_typical,
    penalize_repetition,
)

rows_of_logits = st.lists(st.floats(-8, 8, allow_nan=False, width=32), min_size=2, max_size=12, unique=True)


@given(rows_of_logits, st.integers(1, 12))
def test_top_k_keeps_the_k_largest(values: list[float], k: int) -> None:
    kept = keep_top_k(torch.tensor([values]), k)[0]
    expected = sorted(values, reverse=True)[: min(k, len(values))]
    assert sorted(kept[kept.isfinite()].tolist(), reverse=True) == expected


@given(rows_of_logits, st.floats(0.05, 0.95))
def test_top_p_keeps_the_smallest_sufficient_set(values: list[float], p: float) -> None:
    kept = keep_top_p(torch.tensor([values]), p)[0].isfinite().tolist()
    order = sorted(range(len(values)), key=lambda i: -values[i])
    total = sum(math.exp(v) for v in values)
    reached, expected = 0.0, set()
    for i in order:
        if reached >= p + 1e-6:
            break
        expected.add(i)
        reached += math.exp(values[i]) / total
        if abs(reached - p) < 1e-5:  # rounding decides; either answer is right
            return
    assert {i for i, k in enumerate(kept) if k} == expected


def test_repetition_penalty_moves_both_signs_down() -> None:
    logits = torch.tensor([[2.0, -2.0, 1.0], [2.0, -2.0, 1.0]])
    out = penalize_repetition(logits, [[0, 1, 1], []], 2.0)
    assert out.tolist() == [[1.0, -4.0, 1.0], [2.0, -2.0, 1.0]]
    assert logits.tolist()[0] == [2.0, -2.0, 1.0]


extremes = st.sampled_from([1e-300, 1e-46, 1e-40, 1e-30, 1e-7, 0.5, 1.0, 1e7, 1e30, 1e40, 1e300])


@given(rows_of_logits, extremes, extremes, st.sampled_from([1e-300, 1e-46, 1e-7, 0.5, 1.0]), st.integers(0, 3))
def test_no_option_makes_a_number_that_is_none(
    values: list[float], temperature: float, penalty: float, top_p: float, top_k: int
) -> None:
    logits = torch.tensor([[*values, -math.inf, 0.0]])
    banned = len(values)
    moved = penalize_repetition(logits, [list(range(logits.shape[1]))], penalty)
    assert not moved.isnan().any()
    assert moved[0].isinf().tolist() == logits[0].isinf().tolist()
    options = FillOptions(temperature=temperature, top_p=top_p, top_k=top_k)
    kept = keep_top_p(logits, top_p)
    assert kept[0, logits.argmax()] == logits.max(), "the most probable token is always among them"
    for number in (0.0, 0.3, 1 - 2**-53):
        [token] = choose(moved, options, [number]).tolist()
        assert token < logits.shape[1]
        assert token != banned
        if temperature < 1e-6 or (top_p < 1e-6 and temperature <= 1):
            assert moved[0, token] >= moved.max() - 1e-6


def test_a_hot_enough_temperature_makes_all_tokens_alike() -> None:
    logits = torch.tensor([[3.0, -2.0, 0.0, 9.0]])
    drawn = [choose(logits, FillOptions(temperature=1e308), [n]).item() for n in (0.1, 0.3, 0.6, 0.9)]
    assert drawn == [0, 1, 2, 3]


def test_greedy_takes_the_largest() -> None:
    assert choose(torch.tensor([[0.0, 3.0, 1.0]]), FillOptions(), []).tolist() == [1]


def test_frequencies_follow_probabilities() -> None:
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0])
    options = FillOptions(temperature=0.7, top_k=3)
    numbers = [np.random.default_rng(i).random() for i in range(6000)]
    drawn = choose(logits.expand(6000, 4), options, numbers)
    expected = (logits[:3] / 0.7).softmax(-1)
    counts = torch.bincount(drawn, minlength=4) / 6000
    assert counts[3] == 0
    assert torch.allclose(counts[:3], expected, atol=0.025)


def test_a_row_draws_the_same_alone_and_in_company() -> None:
    logits = torch.randn(5, 40)
    options = FillOptions(temperature=1.0, top_p=0.9)
    numbers = [np.random.default_rng([7, i]).random() for i in range(5)]
    together = choose(logits, options, numbers)
    alone = [choose(logits[i : i + 1], options, [numbers[i]]).item() for i in range(5)]
    assert together.tolist() == alone


@given(st.lists(st.floats(-8, 8), min_size=1, max_size=12), st.floats(0.01, 1.0))
def test_min_p_is_a_share_of_the_most_probable(values: list[float], p: float) -> None:
    probabilities = torch.tensor(values, dtype=torch.float64).softmax(-1)
    kept = keep_min_p(torch.tensor([values], dtype=torch.float64), p)[0].isfinite()
    near = (probabilities / probabilities.max() - p).abs() < 1e-9
    assert ((probabilities >= p * probabilities.max()) == kept)[~near].all()
    assert kept.any()


@given(st.lists(st.floats(-8, 8), min_size=2, max_size=12), st.floats(0.05, 0.99))
def test_typical_keeps_what_is_nearest_to_the_mean_information(values: list[float], p: float) -> None:
    logits = torch.tensor([values], dtype=torch.float64)
    probabilities = logits[0].softmax(-1)
    distance = (-probabilities.log() + (probabilities * probabilities.log()).sum()).abs()
    kept = keep_typical(logits, p)[0].isfinite()
    assert probabilities[kept].sum() >= p - 1e-9
    assert not kept.all() or probabilities.sum() - probabilities[distance.argmax()] < p + 1e-9
    if not kept.all():
        assert distance[kept].max() <= distance[~kept].min() + 1e-12


def test_no_run_of_tokens_is_repeated() -> None:
    logits = torch.zeros(4, 6)
    rows = [([1, 2, 3, 1, 2], [4, 5]), ([4], [0, 4, 5, 4]), ([], [1, 2, 3]), ([1, 1, 1], [])]
    found = forbid_repeats(logits, rows, 3)[0].isinf().nonzero().flatten().tolist()
    assert found == [3]
    assert [row.isinf().nonzero().flatten().tolist() for row in forbid_repeats(logits, rows, 2)] == [[3], [5], [], [1]]
    single = [row.isinf().nonzero().flatten().tolist() for row in forbid_repeats(logits, rows, 1)]
    assert single == [[1, 2, 3, 4, 5], [0, 4, 5], [1, 2, 3], [1]]
    assert forbid_repeats(logits[:, :1], [([0], [])] * 4, 1).isfinite().all()  # never nothing at all
    assert forbid_repeats(logits, rows, 0) is logits


def test_ends_become_likelier_from_a_length_on() -> None:
    logits = torch.tensor([[1.0, -2.0, 0.5], [1.0, -2.0, -torch.inf]])
    assert favor_ends(logits, [3, 3], [1, 2], (3, 2.0)) is logits
    grown = favor_ends(logits, [5, 4], [1, 2], (3, 2.0))
    assert grown.tolist() == [[1.0, -2.0 + 2.0 * 3, 0.5 + 0.5 * 3], [1.0, 0.0, -torch.inf]]
    assert favor_ends(logits, [10_000, 1], [1], (0, 9.0)).isfinite().sum() == 5
