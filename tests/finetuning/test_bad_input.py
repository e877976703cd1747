"""Whatever is wrong with a recipe, a task or examples is said before any training."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from openglm.errors import OpenGLMError, TrainingError
from openglm.finetuning import FinetuneRecipe, run
from openglm.finetuning.cloze import ClozePlan
from openglm.finetuning.runs import prepare

from .conftest import TASK, Make, examples, write_lines


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (None, "needs a task: a pattern with a blank and a verbalizer"),
        ({"pattern": "{sentence} [MASK]"}, "lacks a word per label"),
        ({"verbalizer": TASK["verbalizer"]}, "lacks a pattern with a blank"),
        ({**TASK, "pattern": "{sentence}"}, "has no blank"),
        ({**TASK, "pattern": "{text} [MASK]"}, r'train.jsonl, line 1: no field "text"'),
        ({**TASK, "verbalizer": {"yes": "found"}}, r"line 1: no word stands for the label 'no'"),
        ({**TASK, "verbalizer": {"yes": "found", "no": "found"}}, "the same word"),
        ({**TASK, "verbalizer": {"yes": "found", "no": " "}}, "no tokens|no word"),
        (
            {**TASK, "verbalizer": {**TASK["verbalizer"], "maybe": "opened"}},
            "no training example has the label 'maybe'",
        ),  # type: ignore[dict-item]
        ({**TASK, "label": "answer"}, r'line 1: no field "answer"'),
        ("fewclue/eprstm", "no task 'fewclue/eprstm'.* Did you mean 'fewclue/eprstmt'"),
        ("missing.yaml", "missing.yaml: no such task file"),
    ],
)
def test_tasks_that_cannot_be_used(make: Make, tmp_path: Path, task: Any, message: str) -> None:
    with pytest.raises(OpenGLMError, match=message):
        run(make(task=task), device="cpu", quiet=True)
    assert not (tmp_path / "run").exists(), "nothing was begun"


def test_an_example_without_its_field_is_named(make: Make, text_lines: list[str], tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [*examples(text_lines), {"label": "yes"}]
    path = write_lines(tmp_path / "gap.jsonl", rows)
    with pytest.raises(OpenGLMError, match=r'gap.jsonl, line 9: no field "sentence"'):
        prepare(make(data={"dev": path}))


def test_what_was_shortened_and_what_overlaps_is_said(make: Make, text_lines: list[str], tmp_path: Path) -> None:
    long = [{"sentence": "the river " * 60, "label": "yes"}]
    train = write_lines(tmp_path / "a.jsonl", [*examples(text_lines), *long])
    dev = write_lines(tmp_path / "b.jsonl", examples(text_lines, 4, 6))
    plan, _ = prepare(make(data={"train": train, "dev": dev, "test": ()}))
    assert isinstance(plan, ClozePlan)
    *shortened_ones, overlap = plan.notes
    shortened = shortened_ones[0]
    cut = sum(question.cut for question in plan.questions["train"])
    count = sum(question.cut > 0 for question in plan.questions["train"])
    assert shortened.startswith(f"train: {count} of 9 texts shortened, by {cut} tokens in all")
    assert shortened.endswith("(sentence)")
    assert overlap.startswith("4 of 6 dev examples are in the training data too")
    task = {**TASK, "pattern": "{sentence} That is [MASK]."}
    with pytest.raises(OpenGLMError, match=r"a.jsonl, line \d: .*mark long fields :shorten"):
        prepare(make(data={"train": train, "dev": dev, "test": ()}, task=task))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "rank"}, "kind 'rank' is unknown"),
        ({"knd": 1}, "unknown section 'knd'.*Did you mean 'kind'"),
        ({"kind": None}, "lacks `kind`"),
        ({"data": {}}, "no training data"),
        ({"data": {"train": 3}}, "data.train must be a path"),
        ({"run": {"epoch": 3}}, "unknown key 'epoch' in run.*'epochs'"),
        ({"run": {"seeds": [1, 1]}}, "names a seed twice"),
        ({"run": {"seeds": ["a"]}}, "whole numbers"),
        ({"run": {"batch_size": 6, "accumulate": 4}}, "does not divide"),
        ({"run": {"patience": -1}}, "run.patience must be at least 0"),
        ({"run": {"dropout": 1.0}}, "run.dropout"),
        ({"run": {"precision": "fp8"}}, "run.precision"),
        ({"method": {"name": "qlora"}}, "method 'qlora' is unknown"),
        ({"method": {"name": "layers"}}, "method.layers must be at least 1"),
        ({"method": {"name": "lora", "layers": 2}}, "goes with the methods layers and prompt"),
        ({"method": {"name": "lora", "rank": 0}}, "rank and alpha"),
        ({"objective": {"loss": "adapet"}}, "objective.loss"),
        ({"objective": {"class_weights": "yes"}}, "class_weights"),
        ({"objective": {"label_smoothing": 1.5}}, "label_smoothing"),
        ({"objective": {"margin": 0.0}}, "margin"),
        ({"optimizer": {"rate": 1}}, "unknown key 'rate' in optimizer"),
    ],
)
def test_recipes_that_cannot_be_used(values: dict[str, Any], message: str) -> None:
    whole: dict[str, Any] = {"kind": "cloze", "data": {"train": "a.jsonl"}, "task": TASK, **values}
    with pytest.raises(OpenGLMError, match=message):
        FinetuneRecipe.from_dict({key: value for key, value in whole.items() if not (key == "kind" and value is None)})


def test_recipes_from_files(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("kind: lm\ndata: {train: [a.txt]}\nrun: {epochs: 2}\n")
    recipe = FinetuneRecipe.read(path, ["run.epochs=3", "optimizer.learning_rate=1e-4"])
    assert (recipe.kind, recipe.data.train, recipe.run.epochs) == ("lm", ("a.txt",), 3.0)
    assert FinetuneRecipe.from_dict(recipe.to_dict()) == dataclasses.replace(recipe, output="")
    path.write_text("[1]")
    with pytest.raises(TrainingError, match="a recipe is a YAML mapping"):
        FinetuneRecipe.read(path)


def test_more_than_the_model_has(make: Make, tmp_path: Path) -> None:
    with pytest.raises(OpenGLMError, match="the model has 2 layers"):
        run(make(method={"name": "layers", "layers": 3}), device="cpu", quiet=True)
    with pytest.raises(OpenGLMError, match="leaves too little of the model's context"):
        run(make(method={"name": "prompt", "tokens": 40}), device="cpu", quiet=True)
    assert not (tmp_path / "run").exists()
