"""Fine-tuning on several patterns of one task: what is asked when, and what is kept and measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from openglm.errors import DataError, OptionError, TrainingError
from openglm.finetuning import FinetuneRecipe, load_classifier, run
from openglm.finetuning.cloze import ClozeJob
from openglm.finetuning.runs import prepare
from openglm.finetuning.tuner import fresh_job
from openglm.scoring.predict import predict

from .conftest import TASK, Make

TWO = {"patterns": [TASK["pattern"], "[MASK]: {sentence:shorten}"], "verbalizer": TASK["verbalizer"]}


def job_of(recipe: FinetuneRecipe, seed: int = 0) -> ClozeJob:
    plan, checkpoint = prepare(recipe)
    job = fresh_job(recipe, plan, checkpoint, seed, torch.device("cpu"))
    assert isinstance(job, ClozeJob)
    return job


def asked(job: ClozeJob, epochs: int) -> list[tuple[int, int]]:
    """For each question of so many epochs, its line and the pattern that asks."""
    train = job.plan.questions["train"]
    variants = {variant.part_a: (each.number, n) for each in train for n, variant in enumerate(each.variants)}
    drawn = (job.questions_of(number) for number in range(epochs * job.batches))
    return [variants[each.part_a] for batch in drawn for each in batch]


def test_each_example_of_each_epoch_is_asked_by_one_pattern(make: Make) -> None:
    job = job_of(make(task=TWO, pattern="all"))
    found, alone = asked(job, 30), asked(job_of(make()), 30)
    assert [line for line, _ in found] == [line for line, _ in alone], "the order of examples stays what it was"
    drawn = {line: [pattern for number, pattern in found if number == line] for line in range(1, 9)}
    assert all(len(each) == 30 and 5 <= sum(each) <= 25 for each in drawn.values()), "a fair coin each"
    assert len({tuple(each) for each in drawn.values()}) == 8, "of their own"
    assert asked(job_of(make(task=TWO, pattern=[0, 1])), 30) == found
    halves = make(task=TWO, pattern="all", run={"accumulate": 2})
    assert asked(job_of(halves), 30) == found, "however batches are cut"
    assert asked(job_of(make(task=TWO, pattern="all"), seed=1), 30) != found
    rows = job.batch(3).candidates.input_ids.tolist()
    for row, question in zip(rows, job.questions_of(3), strict=True):
        assert row[: len(question.part_a)] == question.part_a.ids.tolist()


@pytest.mark.usefixtures("no_pictures")
def test_one_pattern_is_trained_as_if_there_were_no_others(make: Make, tmp_path: Path) -> None:
    kept = []
    for number, (task, pattern) in enumerate([(TASK, 0), (TWO, "0"), (TASK, "all"), (TWO, "all")]):
        output = tmp_path / f"run-{number}"
        settings = {"run": {"steps": 3, "evaluations": 1, "untuned": False}, "data": {"dev": (), "test": ()}}
        run(make(task=task, pattern=pattern, output=str(output), **settings), device="cpu", quiet=True)
        kept.append((output / "seed-0/best.safetensors").read_bytes())
    assert kept[0] == kept[1] == kept[2] != kept[3]


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("method", [{"name": "full"}, {"name": "prompt", "tokens": 4}], ids=lambda each: each["name"])
def test_a_run_remembers_its_patterns(
    make: Make, files: dict[str, str], tmp_path: Path, method: dict[str, Any]
) -> None:
    """The classifier says what the run has measured: the average over the patterns it was trained with."""
    result = run(make(task=TWO, pattern=[1, 0], method=method), device="cpu", quiet=True)
    assert json.loads((tmp_path / "run/model/finetune.json").read_text())["pattern"] == [0, 1]
    assert json.loads((tmp_path / "run/report.json").read_text())["recipe"]["pattern"] == [0, 1]
    classify = load_classifier(tmp_path / "run")
    assert classify.pattern == (0, 1)
    texts = [json.loads(line) for line in Path(files["test"]).read_text().splitlines()]
    rows = [json.loads(line) for line in (tmp_path / "run/test.predictions.jsonl").read_text().splitlines()]
    answers = classify.predict(texts)
    for row, answer in zip(rows, answers, strict=True):
        assert answer.probabilities == pytest.approx(row["probabilities"], abs=1e-5)
    right = [answer.label == text["label"] for answer, text in zip(answers, texts, strict=True)]
    assert result.test["accuracy"].mean == pytest.approx(100 * sum(right) / len(right))
    classify.pattern = 0
    assert classify.predict(texts[0]).probabilities != pytest.approx(answers[0].probabilities, rel=1e-2, abs=0)


def test_the_dev_file_is_measured_with_all_of_them(make: Make) -> None:
    job = job_of(make(task=TWO, pattern="all"))
    found = job.evaluate("dev")
    assert found is not None
    expected = predict(job.model, job.plan.tokenizer, job.plan.questions["dev"])
    assert all(len(each.question.variants) == 2 for each in expected)
    losses = [-each.scores[each.question.golds[0]] for each in expected]  # scores are normalised
    assert found.loss == pytest.approx(sum(losses) / len(losses), rel=1e-5)


@pytest.mark.usefixtures("no_pictures")
def test_other_patterns_are_another_run(make: Make) -> None:
    run(make(task=TWO, pattern="all", run={"steps": 2}), device="cpu", quiet=True)
    with pytest.raises(TrainingError, match="holds another run"):
        run(make(task=TWO, run={"steps": 2}), device="cpu", quiet=True)


def test_what_cannot_be_asked(make: Make, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="give the number of a pattern"):
        make(task=TWO, pattern=[])
    with pytest.raises(OptionError, match="names 1 twice"):
        make(task=TWO, pattern=[1, 1])
    with pytest.raises(OptionError, match="task has 2 patterns, 0 to 1; there is no pattern 2"):
        prepare(make(task=TWO, pattern=[0, 2]))
    lacking = {**TWO, "patterns": [TASK["pattern"], "{title}: [MASK]"]}
    with pytest.raises(DataError, match=r'train.jsonl, line 1: no field "title"'):
        prepare(make(task=lacking, pattern="all"))
    prepare(make(task=lacking))  # the pattern is there, but nobody asks by it
    settings = {"data": {"train": str(tmp_path / "train.jsonl"), "dev": (), "test": ()}}
    with pytest.raises(DataError, match="asked by one pattern"):
        prepare(make("seq2seq", task={"pattern": ["{source}[MASK]", "{source} [MASK]"]}, **settings))


def test_a_head_reads_the_fields_of_all_of_them(make: Make) -> None:
    task = {**TASK, "pattern": [TASK["pattern"], "[MASK]: {label}, {sentence}"]}
    plan, _ = prepare(make("classify", task=task, pattern="all"))
    assert plan.fields == ("sentence", "label")  # type: ignore[attr-defined]
