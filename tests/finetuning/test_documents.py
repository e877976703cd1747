"""Documents of one's own: infilling, and going on writing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from openglm.errors import DataError, OptionError
from openglm.finetuning import run
from openglm.finetuning.documents import DocumentJob, DocumentPlan
from openglm.finetuning.runs import prepare
from openglm.finetuning.tuner import fresh_job

from .conftest import Make, write_lines


@pytest.fixture
def documents(tmp_path: Path, text_lines: list[str]) -> str:
    texts = ["\n".join(text_lines[i : i + 4]) for i in range(0, 80, 4)]
    return write_lines(tmp_path / "texts.jsonl", [{"text": text} for text in texts])


def plan_of(recipe: Any) -> DocumentPlan:
    plan, _ = prepare(recipe)
    assert isinstance(plan, DocumentPlan)
    return plan


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("kind", ["infilling", "lm"])
def test_the_loss_goes_down(make: Make, documents: str, kind: str) -> None:
    recipe = make(
        kind, data={"train": documents, "dev": documents, "test": documents},
        run={"steps": 25, "dropout": 0.0, "evaluations": 2, "batch_size": 4}, optimizer={"learning_rate": 0.01},
    )  # fmt: skip
    result = run(recipe, device="cpu", quiet=True)
    assert result.untuned["dev"]["loss"] > result.dev["loss"].mean + 1
    assert result.test["loss"].mean == pytest.approx(result.dev["loss"].mean, rel=1e-5)


def test_going_on_writing_is_the_end_of_a_document_behind_gmask(make: Make, documents: str) -> None:
    recipe = make("lm", data={"train": documents, "dev": (), "test": ()})
    plan, checkpoint = prepare(recipe)
    job = fresh_job(recipe, plan, checkpoint, 0, torch.device("cpu"))
    assert isinstance(job, DocumentJob)
    batch = job.batch(0)
    assert batch.counts[0] == batch.counts[1] == 0 < batch.counts[2]
    assert torch.equal(job.batch(3).input_ids, job.batch(3).input_ids)
    assert int((batch.input_ids == plan.tokenizer.special["gmask"]).sum()) >= 4


def test_documents_are_kept_for_evaluation_and_said_so(make: Make, documents: str) -> None:
    plan = plan_of(make("infilling", data={"train": documents, "dev": (), "test": ()}))
    assert (len(plan.shards["train"]), len(plan.shards["dev"])) == (18, 2)
    assert plan.notes == ["the last 2 of 20 documents are kept to choose the best weights by"]


def test_bad_input(make: Make, documents: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"run\.length 100 exceeds the model's context of 64"):
        plan_of(make("lm", data={"train": documents, "dev": (), "test": ()}, run={"length": 100}))
    with pytest.raises(DataError, match=r"body"):
        plan_of(make("lm", data={"train": documents, "dev": (), "test": (), "field": "body"}))
    with pytest.raises(OptionError, match="sum to 1"):
        make("infilling", spans={"token": 0.9})
