"""What a recipe leaves open is decided from the size of the model and of the data."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from openglm.errors import TrainingError
from openglm.finetuning import FinetuneRecipe
from openglm.finetuning.recipe import EPOCHS, UPDATES, loop_options, optimizer_of
from openglm.training.optim import OptimizerOptions, rate_factor

from .conftest import Make


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


def test_python_asks_as_the_command_does(files: dict[str, str], base: Path, tmp_path: Path, no_pictures: None) -> None:
    """`openglm.finetune` and the flags come to one recipe, and the function trains it."""
    import argparse

    import openglm
    from openglm.cli.finetune import add_arguments, read_recipe
    from openglm.finetuning.request import FinetuneRequest

    parser = argparse.ArgumentParser()
    add_arguments(parser)
    flags = ["cloze", files["train"], "--dev", files["dev"], "--pattern", "{sentence:shorten} That is [MASK]."]
    flags += ["--verbalizer", "yes=found", "--verbalizer", "yes=the river", "--verbalizer", "no=sold"]
    flags += ["--model", str(base), "--output", str(tmp_path / "run"), "--rank", "2", "--seeds", "2", "--steps", "2"]
    expected = read_recipe(parser.parse_args([*flags, "--set", "run.batch_size=4"]))
    given = FinetuneRequest(
        "cloze", [files["train"]], dev=[files["dev"]], patterns=["{sentence:shorten} That is [MASK]."],
        words={"yes": ["found", "the river"], "no": ["sold"]}, model=str(base), output=str(tmp_path / "run"),
        settings={"method.rank": 2, "run.seeds": [0, 1], "run.steps": 2, "run.batch_size": 4},
    )  # fmt: skip
    assert given.to_recipe().to_dict() == expected.to_dict()
    result = openglm.finetune(
        "cloze", files["train"], dev=Path(files["dev"]), pattern="{sentence:shorten} That is [MASK].",
        verbalizer={"yes": ["found", "the river"], "no": "sold"}, model=base, output=tmp_path / "run",
        settings={"method.rank": 2, "run.seeds": [0, 1], "run.steps": 2, "run.batch_size": 4}, quiet=True,
    )  # fmt: skip
    assert result.finished
    assert [run.seed for run in result.runs] == [0, 1]
    assert result.model == tmp_path / "run/model"


def test_a_metric_that_fits_any_labels_needs_no_task_file(make: Make) -> None:
    from openglm.finetuning.runs import prepare

    plan, _ = prepare(make(run={"metric": "macro_f1"}, objective={"class_weights": "balanced"}))
    assert plan.metric == "macro_f1"
    with pytest.raises(TrainingError, match=r"measured by accuracy, or loss; other metrics stand under `metrics`"):
        prepare(make(run={"metric": "f1a"}))


def test_an_unknown_setting_names_those_there_are(make: Make) -> None:
    with pytest.raises(TrainingError, match=r"unknown key 'lr' in optimizer.*Known: .*learning_rate"):
        make(optimizer={"lr": 1})
