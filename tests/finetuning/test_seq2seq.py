"""Pairs of texts: the layout, label smoothing, what is learnt and written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from openglm.errors import DataError
from openglm.finetuning import Measure, run
from openglm.finetuning.runs import prepare
from openglm.finetuning.seq2seq import Seq2SeqJob, Seq2SeqPlan, by_length
from openglm.finetuning.tuner import fresh_job
from openglm.layouts import fills_of
from openglm.network.attention import dense_mask

from .conftest import Make, write_lines

PAIRS = [
    {"source": "the old teacher", "target": "found the river"},
    {"source": "a young doctor", "target": "sold a letter"},
    {"source": "我的邻居", "target": "走到了河边"},
    {"source": "船长", "target": "卖掉了木桥"},
]


@pytest.fixture
def pairs(tmp_path: Path) -> str:
    return write_lines(tmp_path / "pairs.jsonl", PAIRS)


def job_of(recipe: Any) -> tuple[Seq2SeqPlan, Seq2SeqJob]:
    plan, checkpoint = prepare(recipe)
    job = fresh_job(recipe, plan, checkpoint, 0, torch.device("cpu"))
    assert isinstance(plan, Seq2SeqPlan)
    assert isinstance(job, Seq2SeqJob)
    return plan, job


def test_the_target_fills_a_blank_behind_the_source(make: Make, pairs: str) -> None:
    plan, _ = job_of(make("seq2seq", data={"train": pairs, "dev": (), "test": ()}))
    tokenizer, layout = plan.tokenizer, plan.pairs["train"][0].layout
    [(position, target)] = fills_of(layout)
    assert position == layout.separator - 2
    assert int(layout.input_ids[position]) == tokenizer.special["smask"]
    assert tokenizer.decode(layout.input_ids[1:position]).strip() == "the old teacher"
    assert tokenizer.decode(target).strip() == "found the river"
    assert int(layout.targets[-1]) == tokenizer.markers.eop


def test_a_pattern_of_ones_own(make: Make, pairs: str) -> None:
    recipe = make("seq2seq", data={"train": pairs, "dev": (), "test": ()}, task={"pattern": "{source}, [gMASK]"})
    plan, _ = job_of(recipe)
    ids = plan.pairs["train"][0].layout.input_ids
    assert plan.tokenizer.special["gmask"] in ids
    assert plan.tokenizer.decode(ids[1:8]).startswith("the old")


@pytest.mark.parametrize("prompt", [False, True])
def test_smoothing_is_the_published_formula(make: Make, pairs: str, prompt: bool) -> None:
    method = {"name": "prompt", "tokens": 3} if prompt else {"name": "full"}
    recipe = make(
        "seq2seq", data={"train": pairs, "dev": (), "test": ()}, method=method, run={"dropout": 0.0},
        objective={"label_smoothing": 0.2},
    )  # fmt: skip
    _, job = job_of(recipe)
    batch = job.batch(0)
    logits = job.model(batch.input_ids, batch.position_ids, dense_mask(batch.documents, batch.in_part_a))
    logprobs = logits.flatten(0, 1)[batch.chosen].log_softmax(-1)
    entropy = -logprobs.gather(1, batch.chosen_targets[:, None])[:, 0]
    expected = (0.8 * entropy - 0.2 * logprobs.mean(1)).sum()
    job.module.train()
    total, sums = job.module(batch)
    assert total.item() == pytest.approx(expected.item(), rel=1e-5)
    assert sums.sum().item() == pytest.approx(entropy.sum().item(), rel=1e-5)
    trained = [p for p in job.holder.parameters() if p.requires_grad]
    one = torch.autograd.grad(total, trained, allow_unused=True)
    other = torch.autograd.grad(expected, trained, allow_unused=True)
    for a, b in zip(one, other, strict=True):
        assert (a is None) == (b is None)
        assert a is None or torch.allclose(a, b, atol=1e-3, rtol=1e-3)
    job.module.eval()
    assert job.module(batch)[0].item() == pytest.approx(entropy.sum().item(), rel=1e-5)


@pytest.mark.usefixtures("no_pictures")
def test_pairs_are_learnt_by_heart_and_written(make: Make, pairs: str, tmp_path: Path) -> None:
    def exact(written: Sequence[str], wanted: Sequence[str]) -> dict[str, float]:
        return {"exact": 100 * sum(a == b for a, b in zip(written, wanted, strict=True)) / len(wanted)}

    recipe = make(
        "seq2seq", data={"train": pairs, "dev": pairs, "test": ()}, objective={"label_smoothing": 0.0},
        run={"steps": 60, "dropout": 0.0, "evaluations": 3, "log_every": 20}, optimizer={"learning_rate": 0.01},
    )  # fmt: skip
    result = run(recipe, device="cpu", quiet=True, measure=Measure(exact))
    assert result.dev["loss"].mean < 0.2
    assert result.dev["exact"].mean == 100
    assert result.untuned["dev"]["exact"] == 0
    rows = [json.loads(line) for line in (tmp_path / "run/dev.predictions.jsonl").read_text().splitlines()]
    assert [row["written"] for row in rows] == [row["target"] for row in rows] == [pair["target"] for pair in PAIRS]


def test_what_cannot_be_laid_out_is_refused(make: Make, tmp_path: Path) -> None:
    def prepared(rows: list[dict[str, Any]], **task: str) -> Seq2SeqPlan:
        path = write_lines(tmp_path / "bad.jsonl", rows)
        recipe = make("seq2seq", data={"train": path, "dev": (), "test": ()}, **({"task": task} if task else {}))
        plan, _ = prepare(recipe)
        assert isinstance(plan, Seq2SeqPlan)
        return plan

    with pytest.raises(DataError, match=r"bad.jsonl, line 2: .*target"):
        prepared([PAIRS[0], {"source": "a"}])
    with pytest.raises(DataError, match=r"bad.jsonl, line 1: the field 'source' must be text, not 3"):
        prepared([{"source": 3, "target": "a"}])
    with pytest.raises(DataError, match=r"line 1: a target of \d+ tokens; a blank of this model holds at most 63"):
        prepared([{"source": "a", "target": "the river " * 80}])
    with pytest.raises(DataError, match=r"line 1: the field 'target' is empty"):
        prepared([{"source": "a", "target": ""}])
    with pytest.raises(DataError, match="exactly one blank"):
        prepared(PAIRS, pattern="{source} [MASK] [MASK]")
    plan = prepared([{"source": "the river " * 80, "target": "a letter"}])
    assert plan.notes[0].startswith("train: 1 of 1 sources shortened by ")
    [pair] = plan.pairs["train"]
    read = plan.tokenizer.decode(pair.layout.input_ids[1 : pair.layout.separator - 2])
    assert str(pair.blanked) == f"{read}[sMASK]", "what the model writes from is what it has learnt from"


def test_layouts_of_similar_length_share_a_batch(make: Make, pairs: str) -> None:
    plan, _ = job_of(make("seq2seq", data={"train": pairs, "dev": (), "test": ()}))
    groups = by_length([pair.layout for pair in plan.pairs["train"]])
    assert sorted(i for group in groups for i in group) == [0, 1, 2, 3]


def test_the_card_shows_a_text_of_the_kind_it_has_learnt(
    make: Make, pairs: str, tmp_path: Path, no_pictures: None
) -> None:
    run(make("seq2seq", data={"train": pairs, "dev": (), "test": ()}, run={"untuned": False}), quiet=True)
    card = (tmp_path / "run/model/README.md").read_text(encoding="utf-8")
    assert '"the old teacher[sMASK]"' in card
    assert "capital of France" not in card


def test_an_example_is_short_and_safe_to_type(tmp_path: Path) -> None:
    from openglm.blanks import BlankedText
    from openglm.finetuning.seq2seq import example_of
    from openglm.reporting.card import _usage

    assert example_of(BlankedText.parse("a" * 90 + "[gMASK]")) == "a" * 59 + "…[gMASK]"
    shown = _usage("model", 'He paid $5 for "it" [MASK]')
    assert """'He paid $5 for "it" [MASK]'""" in shown
    assert 'model.fill("He paid $5 for \\"it\\" [MASK]")' in shown
