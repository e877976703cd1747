"""The classification head: what it reads, what it learns, what is left of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from openglm.errors import CheckpointError, DataError, TrainingError
from openglm.finetuning import load_classifier, run
from openglm.finetuning.classify import class_metrics, encode_text
from openglm.finetuning.heads import HeadModel, TextBatch, load_head
from openglm.finetuning.runs import prepare
from openglm.network.model import GLMModel
from openglm.tokenizer import BilingualTokenizer

from .conftest import TASK, Make, examples, write_lines


@pytest.mark.usefixtures("no_pictures")
def test_eight_examples_are_learnt_and_kept(make: Make, files: dict[str, str], tmp_path: Path) -> None:
    recipe = make("classify", data={"dev": files["train"]}, run={"steps": 40, "dropout": 0.0, "evaluations": 2})
    result = run(recipe, device="cpu", quiet=True)
    assert result.dev["accuracy"].mean == 100
    assert result.dev["loss"].mean < 0.3
    assert result.labels == ("no", "yes")
    classify = load_classifier(tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run/dev.predictions.jsonl").read_text().splitlines()]
    texts = [json.loads(line)["sentence"] for line in Path(files["train"]).read_text().splitlines()]
    for row, answer in zip(rows, classify.predict(texts), strict=True):
        assert answer.label == row["predicted"] == row["label"]
        assert answer.probabilities == pytest.approx(row["probabilities"], abs=1e-4)


def test_padding_changes_nothing(tiny_model: GLMModel, tokenizer: BilingualTokenizer) -> None:
    head = HeadModel(tiny_model, 3).eval()
    texts = [
        encode_text(["the river"], tokenizer, 64)[0],
        encode_text(["a letter and the old queen"], tokenizer, 64)[0],
    ]
    together = head(TextBatch.of(texts, [0, 1], [1.0, 1.0], tokenizer.markers))
    for text, row in zip(texts, together, strict=True):
        alone = head(TextBatch.of([text], [0], [1.0], tokenizer.markers))
        assert torch.allclose(alone[0], row, atol=1e-5)


def test_the_longest_text_is_cut(tokenizer: BilingualTokenizer) -> None:
    short, long = "a letter", "the river " * 40
    ids, cut = encode_text([short, long], tokenizer, 40)
    assert len(ids) == 40
    assert cut == len(tokenizer.encode(short)) + len(tokenizer.encode(f" {long}")) + 2 - 40
    assert tokenizer.decode(ids[1:]).startswith(short)
    assert (ids[0], ids[-1]) == (tokenizer.cls, tokenizer.eos)


def test_fields_come_from_flags_task_or_example(make: Make, text_lines: list[str], tmp_path: Path) -> None:
    rows = [{"id": "x", "a": each["sentence"], "b": "found", "label": each["label"]} for each in examples(text_lines)]
    data = {"train": write_lines(tmp_path / "two.jsonl", rows), "dev": (), "test": ()}
    fields = [
        getattr(prepare(make("classify", data=data, **({"task": task} if task else {})))[0], "fields")  # noqa: B009
        for task in ({}, {"text_fields": "b"}, {**TASK, "pattern": "{b} and {a} [MASK]"})
    ]
    assert fields == [("a", "b"), ("b",), ("b", "a")]


def test_metrics_from_counts() -> None:
    assert class_metrics([[3, 1], [0, 4]]) == pytest.approx({"accuracy": 87.5, "macro_f1": 100 * (6 / 7 + 8 / 9) / 2})


def test_bad_input(make: Make, text_lines: list[str], tmp_path: Path, tiny_model: GLMModel) -> None:
    one = [{**each, "label": "yes"} for each in examples(text_lines)]
    with pytest.raises(DataError, match="all examples have the label 'yes'"):
        prepare(make("classify", data={"train": write_lines(tmp_path / "one.jsonl", one), "dev": (), "test": ()}))
    new = [*examples(text_lines), {"sentence": "a", "label": "maybe"}]
    with pytest.raises(DataError, match=r"new.jsonl, line 9: the label 'maybe' is not among no, yes"):
        prepare(make("classify", data={"dev": write_lines(tmp_path / "new.jsonl", new)}))
    with pytest.raises(TrainingError, match="measured by accuracy, macro_f1"):
        prepare(make("classify", run={"metric": "rouge"}))
    with pytest.raises(TrainingError, match="goes with cloze and seq2seq"):
        make("classify", method={"name": "prompt"})
    with pytest.raises(CheckpointError, match="not the folder of a fine-tuned model"):
        load_classifier(tmp_path)
    (tmp_path / "head.json").write_text('{"format": "openglm-head", "labels": ["a", "b"]}')
    with pytest.raises(CheckpointError, match="does not fit this network"):
        load_head(tiny_model, tmp_path)
