"""Whatever a run consists of is applied by everything that takes a model, or refused by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from starlette.testclient import TestClient

import openglm
from openglm.checkpoints.convert import convert
from openglm.errors import CheckpointError, OptionError, TrainingError
from openglm.evaluation.evaluate import run_evaluation
from openglm.evaluation.models import load_model
from openglm.evaluation.options import EvalOptions
from openglm.finetuning import FinetuneRecipe, load_classifier, run
from openglm.finetuning.results import FinetuneResult
from openglm.network.prompt import prompt_of
from openglm.serve.app import build_app
from openglm.serve.settings import Settings

from .conftest import TASK, examples, write_lines
from .test_seq2seq import PAIRS

METHODS: dict[str, dict[str, Any]] = {
    "full": {"name": "full"},
    "lora": {"name": "lora", "rank": 4},
    "prompt": {"name": "prompt", "tokens": 5},
    "prompt and layers": {"name": "prompt", "tokens": 3, "encoder": "mlp", "layers": 1},
    "layers": {"name": "layers", "layers": 1},
    "bias": {"name": "bias"},
}
WORDS = {"yes": ["found", "the river"], "no": ["sold"]}


def tuned(kind: str, base: Path, folder: Path, data: Mapping[str, str], method: Mapping[str, Any], **more: Any) -> Any:
    """A run of a few updates with rates that change what the model says."""
    values = {
        "kind": kind, "model": str(base), "output": str(folder), "data": dict(data), "method": dict(method),
        "run": {"batch_size": 4, "steps": 12, "evaluations": 1, "dropout": 0.0, "untuned": False},
        "optimizer": {"learning_rate": 0.03}, **more,
    }  # fmt: skip
    import openglm.finetuning.report as report

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "draw_curves", lambda *args, **options: None)
        patch.setattr(report, "draw_confusion", lambda *args, **options: True)
        return run(FinetuneRecipe.from_dict(values), quiet=True)


@pytest.fixture(scope="module", params=METHODS)
def writer(request: pytest.FixtureRequest, base: Path, tmp_path_factory: pytest.TempPathFactory) -> FinetuneResult:
    """A sequence-to-sequence run of each method."""
    folder = tmp_path_factory.mktemp("writer")
    pairs = write_lines(folder / "pairs.jsonl", PAIRS)
    return tuned("seq2seq", base, folder / "run", {"train": pairs, "dev": pairs}, METHODS[request.param])


@pytest.fixture(scope="module", params=METHODS)
def chooser(
    request: pytest.FixtureRequest, base: Path, text_lines: list[str], tmp_path_factory: pytest.TempPathFactory
) -> FinetuneResult:
    """A cloze run of each method."""
    folder = tmp_path_factory.mktemp("chooser")
    data = {
        "train": write_lines(folder / "train.jsonl", examples(text_lines)),
        "dev": write_lines(folder / "dev.jsonl", examples(text_lines, 8, 6)),
    }
    return tuned("cloze", base, folder / "run", data, METHODS[request.param], task=TASK)


@pytest.fixture(scope="module")
def head(base: Path, text_lines: list[str], tmp_path_factory: pytest.TempPathFactory) -> FinetuneResult:
    """A run with a classification head."""
    folder = tmp_path_factory.mktemp("head")
    data = {
        "train": write_lines(folder / "train.jsonl", examples(text_lines)),
        "dev": write_lines(folder / "dev.jsonl", examples(text_lines, 8, 6)),
    }
    return tuned("classify", base, folder / "run", data, METHODS["full"])


@pytest.fixture
def converted(tmp_path: Path) -> Path:
    """Where a model may be converted to."""
    return tmp_path / "converted"


def loss_of(model: openglm.Infiller) -> float:
    """What the report calls the loss, out of what `score` says of the same targets."""
    found = [model.score(f"{pair['source']}[sMASK]", pair["target"]) for pair in PAIRS]
    return -sum(each.logprob for each in found) / sum(len(each.token_logprobs[0]) for each in found)


def predicted(result: FinetuneResult) -> list[dict[str, float]]:
    """The probabilities that the run itself left."""
    lines = (result.output / "dev.predictions.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["probabilities"] for line in lines]


def dev(result: FinetuneResult) -> list[dict[str, Any]]:
    path = result.output.parent / "dev.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_score_is_what_the_report_says(writer: FinetuneResult, base: Path, converted: Path) -> None:
    expected = writer.dev["loss"].mean
    assert loss_of(openglm.load(base)) > expected + 0.3, "the run has learnt something"
    assert loss_of(openglm.load(writer.output)) == pytest.approx(expected, abs=1e-4)
    assert writer.model is not None
    assert loss_of(openglm.load(writer.model)) == pytest.approx(expected, abs=1e-4)
    assert loss_of(openglm.load(writer.output, quantize="int8")) == pytest.approx(expected, abs=0.15)
    assert loss_of(load_model(EvalOptions(model=str(writer.output))).infiller) == pytest.approx(expected, abs=1e-4)
    convert(writer.model, converted, to="openglm")
    assert loss_of(openglm.load(converted)) == pytest.approx(expected, abs=1e-4)


def test_fills_choices_and_streams_are_of_the_same_model(writer: FinetuneResult) -> None:
    model = openglm.load(writer.output)
    text = f"{PAIRS[0]['source']}[sMASK]"
    for options in ({}, {"num_beams": 3}, {"temperature": 0.8, "seed": 5}):
        filled = model.fill(text, max_new_tokens=6, **options)
        [blank] = filled.blanks
        if blank.finish_reason == "stop":
            scored = model.score(text, blank.text.strip())
            if scored.token_ids[0] == blank.token_ids:
                assert blank.logprob == pytest.approx(scored.logprob, abs=1e-3)
    assert (
        "".join(piece.text for piece in model.stream(text, max_new_tokens=6))
        == model.fill(text, max_new_tokens=6).blanks[0].text
    )
    targets = [pair["target"] for pair in PAIRS]
    for choice in model.choose(text, targets):
        assert choice.logprob == pytest.approx(model.score(text, choice.fills[0]).logprob, abs=1e-4)


def test_the_server_answers_as_the_model_does(writer: FinetuneResult) -> None:
    model = openglm.load(writer.output)
    text = f"{PAIRS[1]['source']}[sMASK]"
    with TestClient(build_app(openglm.load(writer.output), Settings(name="run"))) as client:
        scored = client.post("/v1/score", json={"text": text, "fills": [PAIRS[1]["target"]]}).json()
        filled = client.post("/v1/fill", json={"text": text, "max_new_tokens": 6}).json()
    assert scored["logprob"] == pytest.approx(model.score(text, PAIRS[1]["target"]).logprob, abs=1e-4)
    assert filled["text"] == model.fill(text, max_new_tokens=6).text


def test_a_prompt_that_is_used_is_not_encoded_again(writer: FinetuneResult) -> None:
    model = openglm.load(writer.output)

    assert (writer.output / "prompt").is_dir() == bool(model.model.prompt_ids)
    assert prompt_of(model.model) is None, "what is loaded computes no encoder at every step"


def test_a_text_that_leaves_no_room_for_the_prompt_is_refused_or_cut(writer: FinetuneResult) -> None:
    model = openglm.load(writer.output)
    long = "the river " * 80 + "[sMASK]"
    with pytest.raises(openglm.errors.ContextLengthError, match=f"context holds {model.model.max_part_a - 3}"):
        model.fill(long)
    filled = model.fill(long, truncate="start", min_new_tokens=1, max_new_tokens=3)
    assert filled.blanks[0].token_ids


def test_classifiers_say_what_the_run_said(chooser: FinetuneResult, converted: Path) -> None:
    expected = predicted(chooser)
    assert chooser.model is not None
    convert(chooser.model, converted, to="openglm")
    for folder in (chooser.output, chooser.model, converted):
        for answer, shares in zip(load_classifier(folder).predict(dev(chooser)), expected, strict=True):
            assert dict(answer.probabilities) == pytest.approx(shares, abs=2e-5)


def test_choosing_by_hand_says_the_same(chooser: FinetuneResult) -> None:
    model = openglm.load(chooser.output)
    answers = [word for words in WORDS.values() for word in words]
    for example, shares in zip(dev(chooser), predicted(chooser), strict=True):
        if len(model.tokenizer.encode(example["sentence"])) > 40:
            continue  # a pattern shortens what a text of one's own may not be
        ranked = model.choose(f"{example['sentence']} That is [MASK].", answers)
        found = {each.fills[0]: each.probability for each in ranked}
        for label, words in WORDS.items():
            assert sum(found[word] for word in words) == pytest.approx(shares[label], abs=1e-3)


def test_evaluation_measures_the_run(chooser: FinetuneResult, tmp_path: Path) -> None:
    task = tmp_path / "mine.yaml"
    text = (chooser.output / "model" / "task.yaml").read_text(encoding="utf-8")
    task.write_text(text + "files: {test: dev.jsonl}\n")
    options = EvalOptions(model=str(chooser.output), data_dir=str(chooser.output.parent))
    [found] = run_evaluation([str(task)], options)
    assert found.metrics["accuracy"] == pytest.approx(chooser.dev["accuracy"].mean)


def test_what_cannot_apply_a_prompt_names_it(chooser: FinetuneResult, converted: Path, tmp_path: Path) -> None:
    assert chooser.model is not None
    has_prompt = (chooser.output / "prompt").is_dir()
    texts = tmp_path / "texts.txt"
    texts.write_text("the old teacher found the river\n")
    if not has_prompt:
        done = convert(chooser.model, converted, to="flagai")
        assert any("task.yaml, finetune.json" in note for note in done.notes)
        return
    with pytest.raises(CheckpointError, match=r"prompt\.json: this model has a trained prompt; the format flagai"):
        convert(chooser.model, converted, to="flagai")
    with pytest.raises(OptionError, match="has a trained prompt"):
        run_evaluation([f"perplexity={texts}"], EvalOptions(model=str(chooser.output)))
    with pytest.raises(TrainingError, match="has a trained prompt, which further training would leave out"):
        tuned("cloze", chooser.output, tmp_path / "again", {"train": "x"}, METHODS["full"], task=TASK)


def test_a_head_is_applied_or_named(head: FinetuneResult, converted: Path, tmp_path: Path) -> None:
    assert head.model is not None
    expected = predicted(head)
    convert(head.model, converted, to="openglm")
    for folder in (head.output, converted):
        for answer, shares in zip(load_classifier(folder).predict(dev(head)), expected, strict=True):
            assert dict(answer.probabilities) == pytest.approx(shares, abs=2e-5)
    with pytest.raises(CheckpointError, match=r"head\.json: .*load_classifier applies it; filling, choosing"):
        openglm.load(head.output)
    with pytest.raises(CheckpointError, match=r"head\.json: .*the format thudm cannot apply it"):
        convert(head.model, tmp_path / "other", to="thudm")
    again = tuned("classify", head.output, tmp_path / "again", {"train": str(head.output.parent / "train.jsonl")}, {})
    assert any("classification head" in note and "left out" in note for note in again.notes)


@torch.no_grad()
def test_int8_reads_the_prompt(writer: FinetuneResult) -> None:
    exact, rounded = openglm.load(writer.output), openglm.load(writer.output, quantize="int8")
    assert rounded.model.prompt_ids == exact.model.prompt_ids
    ids = torch.tensor([[*exact.model.prompt_ids, 5, 9]])
    assert torch.allclose(rounded.model(ids), exact.model(ids), atol=0.5)


def test_parts_of_a_run_are_called_what_they_are(writer: FinetuneResult, tmp_path: Path) -> None:
    """A folder that is no model by itself says what it is, and what to load instead."""
    for part, message in (("adapter", "holds an adapter. Load the model"), ("prompt", "holds a trained prompt alone")):
        if (writer.output / part).is_dir():
            with pytest.raises(CheckpointError, match=message):
                openglm.load(writer.output / part)
    (tmp_path / "begun/seed-0").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="a run that is not finished"):
        openglm.load(tmp_path / "begun")
