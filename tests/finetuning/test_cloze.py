"""Cloze fine-tuning: its losses, its batches, what it learns, whatever is trained."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from openglm.batches import pad
from openglm.finetuning import FinetuneRecipe, load_classifier, run
from openglm.finetuning.cloze import ClozeBatch, ClozeJob, question_losses
from openglm.finetuning.jobs import Epochs, confusion_of, weights_of
from openglm.finetuning.methods import count, trained
from openglm.finetuning.recipe import ObjectiveOptions
from openglm.finetuning.runs import prepare
from openglm.finetuning.tuner import fresh_job
from openglm.layouts import lay_out
from openglm.network.attention import dense_mask
from openglm.scoring.predict import Scoring, predict
from openglm.tensors import to_tensors

from .conftest import TASK, Make, examples, write_lines

CPU = torch.device("cpu")
SCORES = torch.tensor([[-1.0, -3.0, -2.0], [-4.0, -0.5, -torch.inf]])
RIGHT = torch.tensor([[True, False, False], [True, False, False]])


def options(loss: str) -> ObjectiveOptions:
    return ObjectiveOptions(loss=loss, margin=2.5)


def job_of(recipe: FinetuneRecipe, seed: int = 0) -> ClozeJob:
    plan, checkpoint = prepare(recipe)
    job = fresh_job(recipe, plan, checkpoint, seed, CPU)
    assert isinstance(job, ClozeJob)
    return job


def test_losses_are_the_published_ones() -> None:
    entropy = -torch.stack([SCORES[0].log_softmax(0)[0], SCORES[1, :2].log_softmax(0)[0]])
    score = SCORES[:, 0]
    assert torch.allclose(question_losses(SCORES, RIGHT, options("cross_entropy")), entropy)
    assert torch.allclose(question_losses(SCORES, RIGHT, options("generative")), -score)
    assert torch.allclose(question_losses(SCORES, RIGHT, options("mix")), entropy - score)
    assert torch.allclose(question_losses(SCORES, RIGHT, options("hinge")), torch.tensor([1.5, 6.0]))


def test_of_several_right_answers_the_probabilities_add_up() -> None:
    right = torch.tensor([[True, False, True]])
    shares = SCORES[:1].softmax(1)
    expected = -(shares[0, 0] + shares[0, 2]).log()
    assert torch.allclose(question_losses(SCORES[:1], right, options("cross_entropy")), expected)
    assert torch.allclose(question_losses(SCORES[:1], right, options("hinge")), torch.tensor([0.5]))


@pytest.mark.parametrize("loss", ["cross_entropy", "generative", "mix", "hinge"])
def test_losses_have_finite_gradients(loss: str) -> None:
    scores = SCORES.clone().requires_grad_(True)
    question_losses(scores, RIGHT, options(loss)).sum().backward()  # type: ignore[no-untyped-call]
    assert scores.grad is not None
    assert torch.isfinite(scores.grad).all()
    assert scores.grad[1, 2] == 0


def test_the_loss_is_that_of_one_pass_per_answer(make: Make) -> None:
    """The module against layouts of every answer by itself."""
    job = job_of(make(run={"dropout": 0.0}))
    plan = job.plan
    questions = plan.questions["train"][:3]
    batch = ClozeBatch.of(questions, np.array([1.0, 0.5, 2.0]), plan.tokenizer, Scoring())
    total, sums = job.module(batch)
    markers, expected = plan.tokenizer.markers, 0.0
    for question, weight in zip(questions, (1.0, 0.5, 2.0), strict=True):
        layouts = [lay_out(question.part_a, fills, markers) for fills in question.candidates]
        tensors = to_tensors(pad(layouts, plan.tokenizer.eos), CPU)
        logits = job.model(tensors.input_ids, tensors.position_ids, dense_mask(tensors.documents, tensors.in_part_a))
        picked = logits.log_softmax(-1).gather(2, tensors.targets[..., None])[..., 0]
        values = (picked * tensors.loss_mask).sum(1)
        owner = torch.tensor(question.owner)
        scores = torch.stack([values[owner == label].logsumexp(0) for label in range(2)])
        expected -= weight * scores.log_softmax(0)[question.golds[0]].item()
    assert total.item() == pytest.approx(expected, rel=1e-4)
    assert sums.tolist() == [total.item()]
    assert batch.counts == (3,)
    assert 0 < batch.tokens <= batch.positions


def test_calibration_is_learnt_with(make: Make) -> None:
    """The loss is that of the calibrated scores that `predict` gives, and its gradient goes both ways."""
    job = job_of(make(run={"dropout": 0.0}, objective={"calibrate": "yes"}))
    plan = job.plan
    questions = plan.questions["train"][:3]
    batch = ClozeBatch.of(questions, np.ones(3), plan.tokenizer, plan.scoring)
    assert batch.priors is not None
    assert len(batch.priors) == 1, "all ask the same in an empty context"
    total, _ = job.module(batch)
    predictions = predict(job.model, plan.tokenizer, questions, scoring=Scoring(calibrate=True))
    expected = -sum(float(np.log(each.probabilities[each.question.golds[0]])) for each in predictions)
    assert total.item() == pytest.approx(expected, rel=1e-4)
    without = job_of(make(run={"dropout": 0.0})).module
    plain, _ = without(ClozeBatch.of(questions, np.ones(3), plan.tokenizer, Scoring()))
    assert abs(plain.item() - total.item()) > 0.1
    total.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in job.model.parameters())


def test_every_epoch_sees_every_example_once() -> None:
    order = Epochs(7, 3, seed=5)
    assert order.batches == 3
    epochs = [np.concatenate([order(3 * epoch + i) for i in range(3)]).tolist() for epoch in range(3)]
    assert all(sorted(each) == list(range(7)) for each in epochs)
    assert epochs[0] != epochs[1]
    assert Epochs(7, 3, seed=5)(4).tolist() == order(4).tolist()
    assert Epochs(7, 3, seed=6)(4).tolist() != order(4).tolist()


def test_balanced_weights_make_labels_count_alike() -> None:
    gold = [0, 0, 0, 2]
    weights = weights_of(gold, 3, "balanced")
    assert weights.sum() == pytest.approx(4)
    assert weights[:3].sum() == pytest.approx(weights[3])
    assert weights_of(gold, 3, "none").tolist() == [1.0] * 4
    assert confusion_of([0, 0, 1], [0, 1, 1], 2) == [[1, 1], [0, 1]]


METHODS: list[dict[str, Any]] = [
    {"name": "full"},
    {"name": "lora", "rank": 4},
    {"name": "prompt", "tokens": 8},
    {"name": "layers", "layers": 1},
    {"name": "bias"},
]
# Learning rate, and the share of the loss that is left. A prompt before random weights can do least.
LEARNS = {"full": (0.005, 0.3), "lora": (0.02, 0.3), "prompt": (0.05, 0.8), "layers": (0.01, 0.3), "bias": (0.05, 0.5)}


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method["name"])
def test_eight_examples_are_learnt_and_kept(
    make: Make, files: dict[str, str], tmp_path: Path, method: dict[str, Any]
) -> None:
    """Whatever is trained: the loss goes down, and the folder gives the predictions of the run."""
    rate, left = LEARNS[method["name"]]
    recipe = make(
        method=method,
        data={"dev": files["train"], "test": ()},
        run={"steps": 40, "evaluations": 4, "dropout": 0.0, "log_every": 10},
        optimizer={"learning_rate": rate},
    )
    result = run(recipe, device="cpu", quiet=True)
    assert result.best is not None
    assert result.untuned["dev"]["loss"] > 0.5
    assert result.dev["loss"].mean < left * result.untuned["dev"]["loss"]
    if left < 0.5:
        assert result.dev["accuracy"].mean >= 87.5
    classify = load_classifier(tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run/dev.predictions.jsonl").read_text().splitlines()]
    texts = [json.loads(line) for line in Path(files["train"]).read_text().splitlines()]
    for row, answer in zip(rows, classify.predict([{"sentence": each["sentence"]} for each in texts]), strict=True):
        assert answer.label == row["predicted"]
        assert answer.probabilities == pytest.approx(row["probabilities"], abs=1e-4)
    assert classify.predict(texts[0]["sentence"]).label == rows[0]["predicted"]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method["name"])
def test_only_what_is_named_is_trained(make: Make, method: dict[str, Any]) -> None:
    job = job_of(make(method=method))
    before = {name: value.clone() for name, value in job.holder.state_dict().items()}
    job.module.train()
    optimizer = torch.optim.SGD([p for p in job.holder.parameters() if p.requires_grad], lr=0.5)
    for number in range(2):
        job.module(job.batch(number))[0].backward()
        optimizer.step()
    changed = {name for name, value in job.holder.state_dict().items() if not torch.equal(value, before[name])}
    names = set(trained(job.holder))
    assert changed <= names
    expected = {
        "full": lambda name: True,
        "lora": lambda name: name.endswith(("lora_a", "lora_b")),
        "prompt": lambda name: "prompt_spell" in name,
        "layers": lambda name: ".layers.1." in name or "final_layernorm" in name,
        "bias": lambda name: name.endswith("bias") or "layernorm" in name,
    }[method["name"]]
    assert names == {name for name, _ in job.holder.named_parameters() if expected(name)}
    share = count(job.holder)
    assert share[0] == sum(p.numel() for p in trained(job.holder).values())
    assert (share[0] < share[1]) == (method["name"] != "full")


@pytest.mark.usefixtures("no_pictures")
def test_an_adapter_is_left_beside_the_merged_model(make: Make, tmp_path: Path, base: Path) -> None:
    from openglm.checkpoints.native import load_model
    from openglm.finetuning.adapter_files import load_adapter

    run(make(method={"name": "lora"}, run={"steps": 4}), device="cpu", quiet=True)
    merged, other = load_model(tmp_path / "run/model"), load_model(base)
    ids = torch.tensor([[5, 9, 12]])
    assert not torch.allclose(merged(ids), other(ids), atol=1e-3)
    other = copy.deepcopy(other)
    load_adapter(other, tmp_path / "run/adapter")
    assert torch.allclose(merged(ids), other.eval()(ids), atol=1e-4)


@pytest.mark.usefixtures("no_pictures")
def test_examples_that_bring_their_own_answers(make: Make, text_lines: list[str], tmp_path: Path) -> None:
    rows = [
        {"sentence": each["sentence"], "options": ["sold it", "found", "the river"], "label": number % 3}
        for number, each in enumerate(examples(text_lines))
    ]
    path = write_lines(tmp_path / "own.jsonl", rows)
    task = {"pattern": TASK["pattern"], "options": "options"}
    recipe = make(task=task, data={"train": path, "dev": path, "test": ()}, run={"steps": 30, "dropout": 0.0})
    result = run(recipe, device="cpu", quiet=True)
    assert result.labels == ()
    assert result.best is not None
    assert not result.best.confusion
    assert result.dev["accuracy"].mean > 60
