"""Scores and layouts of the original's cloze classes: recorded numbers and token ids."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from openglm.blanks import PartA
from openglm.checkpoints.resolve import open_checkpoint
from openglm.network.model import GLMModel
from openglm.scoring.candidates import CandidateBatch
from openglm.scoring.predict import Scoring, label_scores, predict
from openglm.scoring.question import Question
from openglm.tasks.examples import Example
from openglm.tasks.task_files import load_task
from openglm.tasks.transforms import prepared
from openglm.tokenizer import ChineseTokenizer, GPT2Tokenizer, Tokenizer

BLANK = 50003


@pytest.fixture(scope="module")
def model(reference: Path) -> GLMModel:
    return open_checkpoint(reference / "flagai-tiny").network(device="cpu", dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def chinese(chinese_vocabulary: Path) -> ChineseTokenizer:
    return ChineseTokenizer(chinese_vocabulary)


@pytest.fixture(scope="module")
def english(published_vocabularies: Path) -> GPT2Tokenizer:
    return GPT2Tokenizer(published_vocabularies / "gpt2" / "vocab.json", published_vocabularies / "gpt2" / "merges.txt")


@pytest.fixture(scope="module")
def cloze(reference: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((reference / "cloze.json").read_text(encoding="utf-8"))
    return values


def multi_token(cases: list[dict[str, Any]]) -> list[Question]:
    """Questions of the recorded found and answers; these end with `eop`."""
    out = []
    for case in cases:
        separator = case["separator"][0]
        part_a = np.array(case["input_ids"][0][:separator])
        answers = tuple((tuple(ids[:-1]),) for ids in case["choice_ids"])
        place = np.flatnonzero(part_a == BLANK)[-1:]
        out.append(Question(PartA(part_a, place), answers, tuple(range(len(answers))), tuple(case["choices"])))
    return out


def test_recorded_logits_of_several_tokens(model: GLMModel, chinese: ChineseTokenizer, cloze: dict[str, Any]) -> None:
    """Sums without softmax: the logits themselves, read where the batch says."""
    batch = CandidateBatch.of(multi_token(cloze["multi_token"]), chinese.markers, chinese.eos)
    with torch.no_grad():
        hidden = batch.hidden_states(model)
        logits = model.logits(hidden.reshape(-1, hidden.shape[-1])[batch.nodes])
        sums = torch.zeros(len(batch.lengths)).index_add(0, batch.candidate_of, logits[batch.read_of, batch.targets])
        logprobs = batch.candidate_logprobs(model, hidden=hidden)
    expected = [score for case in cloze["multi_token"] for score in case["scores_no_softmax"]]
    assert sums.tolist() == pytest.approx(expected, abs=1e-4)
    fast = [score for case in cloze["multi_token"] for score in case["scores_fast_decode"]]
    assert logprobs.tolist() == pytest.approx(fast, abs=1e-4)


@pytest.mark.parametrize("penalty", [0.0, 0.5, 1.0])
def test_recorded_scores_of_several_tokens(
    model: GLMModel, chinese: ChineseTokenizer, cloze: dict[str, Any], penalty: float
) -> None:
    cases = cloze["multi_token"]
    asked = multi_token(cases)
    scoring = Scoring(length_penalty=penalty)
    predictions = predict(model, chinese, asked, scoring=scoring)
    batch = CandidateBatch.of(asked, chinese.markers, chinese.eos)
    with torch.no_grad():
        together = label_scores(batch, batch.candidate_logprobs(model), scoring)
    for row, (case, prediction) in enumerate(zip(cases, predictions, strict=True)):
        expected = case[f"scores_length_penalty_{penalty}"]
        assert prediction.scores.tolist() == pytest.approx(expected, abs=1e-4)
        assert together[row, : len(expected)].tolist() == pytest.approx(expected, abs=1e-4)
        assert torch.isinf(together[row, len(expected) :]).all()


def test_recorded_scores_of_single_tokens(model: GLMModel, chinese: ChineseTokenizer, cloze: dict[str, Any]) -> None:
    compared = 0
    for case in cloze["single_token"]:
        part_a = np.array(case["input_ids"][: case["separator"]])
        answers = tuple(((token,),) for token in case["verbalizer_ids"])
        place = np.flatnonzero(part_a == BLANK)[-1:]
        question = Question(PartA(part_a, place), answers, tuple(range(len(answers))), tuple(case["verbalizers"]))
        batch = CandidateBatch.of([question], chinese.markers, chinese.eos, ends=False)
        assert batch.input_ids.shape[1] == case["separator"] + 1  # Part A and `<sop>`, nothing else
        with torch.no_grad():
            scores = batch.candidate_logprobs(model)
        assert scores.tolist() == pytest.approx(case["log_softmax"], abs=1e-4)
        raw = torch.tensor(case["logits"])
        torch.testing.assert_close(scores.softmax(0), raw.softmax(0), atol=1e-4, rtol=1e-4)
        compared += len(answers)
    assert compared > 40


# --- patterns ---------------------------------------------------------------------------------

TASKS = {
    "boolq": "superglue/boolq", "rte": "superglue/rte", "cb": "superglue/cb", "wic": "superglue/wic",
    "copa": "superglue/copa", "wsc": "superglue/wsc_candidates", "multirc": "superglue/multirc",
    "record": "superglue/record", "tnews": "fewclue/tnews", "cluewsc": "fewclue/cluewsc", "afqmc": "fewclue/bustm",
}  # fmt: skip
OURS = {"tnews": {0: 1}, "cluewsc": {0: 1, 1: 2}, "afqmc": {0: 1, 1: 0}}  # their pattern -> ours
MARKED = {"wsc": "mark_words", "cluewsc": "mark_characters"}
# Where we differ on purpose: from a text that is too long they cut the last of the fields that
# may be cut and we the longest; WiC's two sentences are one field to them; AFQMC's literal text
# is tokenized in two pieces.
DIFFERENT = {
    ("boolq", 0, 28), ("boolq", 1, 28), ("boolq", 2, 28), ("boolq", 3, 28), ("tnews", 0, 28),
    ("wic", 0, 64), ("wic", 0, 28), ("afqmc", 0, 64), ("afqmc", 0, 28),
}  # fmt: skip


def example_of(entry: dict[str, Any]) -> Example:
    """The recorded example with the fields of our task."""
    recorded, name = entry["example"], entry["task"]
    a, b, meta = recorded["text_a"], recorded["text_b"], recorded["meta"]
    values: dict[str, dict[str, Any]] = {
        "boolq": {"passage": a, "question": b},
        "rte": {"premise": a, "hypothesis": b},
        "cb": {"premise": a, "hypothesis": b},
        "wic": {"sentence1": a, "sentence2": b, **meta},
        "copa": {"premise": a, **meta},
        "wsc": {"text": a, "target": meta},
        "cluewsc": {"text": a, "target": meta},
        "multirc": {"text": a, "question": b, **meta},
        "record": {"text": a},
        "tnews": {"sentence": a, "keywords": b},
        "afqmc": {"sentence1": a, "sentence2": b},
    }
    if name == "record":
        before, _, after = b.partition("@placeholder")
        values[name] |= {"before": before.rstrip(), "after": after}
    example = Example(values[name])
    return prepared([example], [MARKED[name]])[0] if name in MARKED else example


def test_recorded_patterns(reference: Path, chinese: ChineseTokenizer, english: GPT2Tokenizer) -> None:
    recorded = json.loads((reference / "layouts.json").read_text(encoding="utf-8"))["pvp"]
    same, different = 0, set()
    for entry in recorded:
        if entry["task"] not in TASKS:
            continue
        task = load_task(TASKS[entry["task"]])
        tokenizer: Tokenizer = chinese if task.language == "zh" else english
        sample = entry["sample"] if isinstance(entry["sample"], dict) else entry["sample"][0]
        text = sample["text"][0] if isinstance(sample["text"][0], list) else sample["text"]
        expected = text[: text.index(tokenizer.markers.sop)]
        number = OURS.get(entry["task"], {}).get(entry["pattern_id"], entry["pattern_id"])
        pattern = task.template(number).pattern
        values = task.values(example_of(entry), pattern.fields)
        filled = pattern.fill(values, tokenizer, len(expected) if entry["max_seq_length"] == 28 else 64)
        found = filled.part_a(tokenizer)
        if found.ids.tolist() == expected:
            same += 1
            if not entry["multi_token"]:  # the position of `<sop>` is that of the blank
                assert found.blank_positions.tolist() == [sample["position"][0][sample["mask"]]]
        else:
            different.add((entry["task"], entry["pattern_id"], entry["max_seq_length"]))
            assert entry["max_seq_length"] == 64 or len(found) == len(expected)
    assert different == DIFFERENT
    assert same == 61


def test_recorded_verbalizers(reference: Path, chinese: ChineseTokenizer, english: GPT2Tokenizer) -> None:
    recorded = json.loads((reference / "layouts.json").read_text(encoding="utf-8"))["pvp"]
    compared = 0
    for entry in recorded:
        if entry["task"] not in TASKS or entry["multi_token"] or entry["task"] in ("tnews", "afqmc"):
            continue
        task = load_task(TASKS[entry["task"]])
        tokenizer: Tokenizer = chinese if task.language == "zh" else english
        number = OURS.get(entry["task"], {}).get(entry["pattern_id"], entry["pattern_id"])
        form = task.template(number)
        words = form.verbalizer or task.verbalizer
        assert words is not None
        filled = form.pattern.fill(task.values(example_of(entry), form.pattern.fields), tokenizer, 512)
        candidates, owner = words.candidates(tokenizer, filled.blanked)
        ours = {words.labels[label]: candidate for label, candidate in zip(owner, candidates, strict=True)}
        for label, token in zip(entry["labels"], entry["sample"]["target"], strict=True):
            assert ours[str(label)] == ((token,),), (entry["task"], entry["pattern_id"])
            compared += 1
    assert compared > 80
