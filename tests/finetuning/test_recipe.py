"""What a recipe leaves open is decided from the size of the model and of the data."""

from __future__ import annotations

from itertools import pairwise

import pytest

from openglm.finetuning import FinetuneRecipe
from openglm.finetuning.recipe import EPOCHS, UPDATES, loop_options, optimizer_of
from openglm.training.optim import OptimizerOptions, rate_factor


def recipe(**values: object) -> FinetuneRecipe:
    return FinetuneRecipe.from_dict({"kind": "lm", "data": {"train": "a.txt"}, **values})


def test_small_data_are_seen_often_and_large_ones_at_least_thrice() -> None:
    steps = {n: loop_options(recipe(), n, 0, on_gpu=False).steps for n in (2, 10, 100, 1000)}
    assert steps == {2: 2 * EPOCHS[1], 10: UPDATES, 100: UPDATES, 1000: EPOCHS[0] * 1000}
    assert loop_options(recipe(run={"epochs": 1.5}), 10, 0, on_gpu=False).steps == 15
    assert loop_options(recipe(run={"steps": 7, "epochs": 2}), 10, 0, on_gpu=False).steps == 7
    assert loop_options(recipe(run={"epochs": 4, "accumulate": 4}), 10, 0, on_gpu=False).steps == 10


def test_options_of_the_loop() -> None:
    options = loop_options(recipe(run={"steps": 100, "evaluations": 20}), 10, 5, on_gpu=True)
    assert (options.evaluate_every, options.seed, options.precision) == (5, 5, "bf16")
    assert loop_options(recipe(), 10, 5, on_gpu=False).precision == "fp32"


def test_larger_models_learn_slower_and_parts_of_them_faster() -> None:
    full = [optimizer_of(recipe(), size).learning_rate for size in (9_000_000, 47_000_000, 335_000_000, 10**10)]
    assert full == sorted(full, reverse=True)
    assert full[2:] == [1e-5, 5e-6], "as published"
    lora = optimizer_of(recipe(method={"name": "lora"}), 9_000_000)
    assert lora.learning_rate > full[0]
    assert optimizer_of(recipe(optimizer={"learning_rate": "1e-4"}), 10**9).learning_rate == 1e-4


def test_the_rate_rises_and_falls_linearly() -> None:
    options = optimizer_of(recipe(), 10**9)
    rates = [rate_factor(step, 100, options) for step in range(100)]
    assert rates[:10] == pytest.approx([step / 10 for step in range(1, 11)])
    falls = [a - b for a, b in pairwise(rates[10:])]
    assert falls == pytest.approx([falls[0]] * len(falls))
    assert rates[-1] == pytest.approx(0.05, abs=0.02)
    assert rate_factor(500, 100, OptimizerOptions(schedule="linear", final=0.1)) == pytest.approx(0.1)
