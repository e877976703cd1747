"""Scores of labels, and the metrics made of predictions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from openglm.blanks import PartA
from openglm.errors import DataError, OptionError
from openglm.infill.infiller import Infiller
from openglm.network.model import GLMModel
from openglm.scoring.candidates import CandidateBatch
from openglm.scoring.predict import Prediction, Scoring, label_scores, predict
from openglm.scoring.question import Question
from openglm.tasks.examples import Example
from openglm.tasks.metrics import evaluate
from openglm.tasks.renderer import QuestionRenderer
from openglm.tasks.task_files import task_from_flags
from openglm.tokenizer import BilingualTokenizer

from .conftest import plain_logprobs, questions

EMPTY = np.zeros(0, np.int64)


@given(st.data(), st.sampled_from([Scoring(), Scoring(1.0), Scoring(length_penalty=0.5), Scoring(ends=False)]))
@settings(max_examples=25)
def test_both_ways_to_scores_agree(
    tiny_model: GLMModel, tokenizer: BilingualTokenizer, data: st.DataObject, scoring: Scoring
) -> None:
    some = data.draw(st.lists(questions(tokenizer, empty=scoring.ends), min_size=1, max_size=4))
    batch = CandidateBatch.of(some, tokenizer.markers, tokenizer.eos, ends=scoring.ends)
    with torch.no_grad():
        together = label_scores(batch, batch.candidate_logprobs(tiny_model), scoring).double().numpy()
    for row, prediction in zip(together, predict(tiny_model, tokenizer, some, scoring=scoring), strict=True):
        question = prediction.question
        plain = np.array(plain_logprobs(tiny_model, tokenizer, question, scoring.ends))
        counts = np.array([sum(len(ids) + scoring.ends for ids in each) for each in question.candidates])
        plain = plain / counts**scoring.length_penalty
        expected = [
            np.logaddexp.reduce([s for s, own in zip(plain, question.owner, strict=True) if own == label])
            for label in range(3)
        ]
        np.testing.assert_allclose(prediction.scores, expected, atol=1e-4)
        np.testing.assert_allclose(row, expected, atol=1e-4)


def test_label_scores_have_the_gradients_of_a_softmax(tiny_model: GLMModel, tokenizer: BilingualTokenizer) -> None:
    part_a = PartA(np.array([tokenizer.cls, 30, tokenizer.eos]), np.array([1]))
    first = Question(part_a, (((40,),), ((41,),), ((42,),)), (0, 0, 1), ("a", "b"), 0, (0,))
    other = Question(part_a, (((40,),), ((41,),), ((42,),)), (0, 1, 2), ("a", "b", "c"), 2, (2,))
    batch = CandidateBatch.of([first, other], tokenizer.markers, tokenizer.eos)
    logprobs = torch.tensor([-1.0, -2.0, -3.0, -4.0, -5.0, -6.0], requires_grad=True)
    scores = label_scores(batch, logprobs, Scoring())
    assert torch.isinf(scores[0, 2])
    torch.nn.functional.cross_entropy(scores, batch.gold).backward()
    raw = logprobs.detach()[:3].softmax(0)
    within = logprobs.detach()[:2].softmax(0)
    assert logprobs.grad is not None
    torch.testing.assert_close(logprobs.grad[:2], (raw[:2] - within) / 2)
    assert torch.isfinite(logprobs.grad).all()


def test_calibration_takes_what_is_said_everywhere(infiller: Infiller) -> None:
    task = task_from_flags("{a:shorten}，[MASK]。", ["A=老师", "B=河边走到了"])
    model, tokenizer = infiller.model, infiller.tokenizer
    asked = [
        QuestionRenderer(task, tokenizer, model.config).question(Example({"a": text}))
        for text in ("", "老师走到了", "医生")
    ]
    found = predict(model, tokenizer, asked, scoring=Scoring(1.0, calibrate=True))
    assert found[0].scores == pytest.approx([0, 0], abs=1e-5)  # the empty context itself
    lengths = [len(c[0]) + 1 for c in asked[1].candidates]
    expected = (found[1].logprobs - found[0].logprobs) / lengths
    assert found[1].scores == pytest.approx(expected, abs=1e-5)
    without = Question(asked[0].part_a, asked[0].candidates, (0, 1), ("A", "B"))
    with pytest.raises(OptionError, match="empty context"):
        predict(model, tokenizer, [without], scoring=Scoring(calibrate=True))


def test_training_goes_on_after_a_prediction(tiny_model: GLMModel, tokenizer: BilingualTokenizer) -> None:
    model = GLMModel(tiny_model.config)
    context = PartA(np.array([tokenizer.cls, 30, tokenizer.eos]), np.array([1]))
    question = Question(context, (((40,),),), (0,), ("a",))
    model.train()
    once = predict(model, tokenizer, [question])[0].logprobs
    assert model.training
    assert predict(model, tokenizer, [question])[0].logprobs == pytest.approx(once)  # no dropout


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"calibrate": "yes"}, "calibrate must be True or False"),
        ({"length_penalty": float("nan")}, "number"),
        ({"ends": 1}, "ends must be True or False"),
    ],
)
def test_scoring_checks_itself(values: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Scoring(**values)  # type: ignore[arg-type]


# --- metrics ----------------------------------------------------------------------------------


def predicted(label: str, golds: str, labels: str = "ab", group: str | None = None) -> Prediction:
    """A prediction of `label` where each of `golds` is right."""
    right = tuple(labels.split("|").index(g) if "|" in labels else labels.index(g) for g in golds.split("|"))
    names = tuple(labels.split("|")) if "|" in labels else tuple(labels)
    question = Question(PartA(EMPTY), (), (), names, right[0], right, number=7, group=group)
    scores = np.array([float(name == label) for name in names])
    return Prediction(question, scores, np.zeros(0))


def test_accuracy_and_f1() -> None:
    found = [predicted("a", "a"), predicted("a", "b"), predicted("b", "b"), predicted("b", "b")]
    values = evaluate(["accuracy", "macro_f1", "f1"], found)
    assert values["accuracy"] == 75
    assert values["f1"] == pytest.approx(100 * 2 * 2 / (2 + 3))
    assert values["macro_f1"] == pytest.approx((100 * 2 / 3 + 80) / 2)
    assert evaluate(["macro_f1"], [predicted("a", "a", "abc")])["macro_f1"] == 100  # labels that never occur


def test_groups_must_be_right_as_a_whole() -> None:
    found = [
        predicted("b", "b", group="1"), predicted("a", "a", group="1"), predicted("b", "b", group="2"),
        predicted("b", "a", group="2"),
    ]  # fmt: skip
    assert evaluate(["f1a", "em"], found) == {"f1a": pytest.approx(80), "em": 50}
    assert evaluate(["qac", "pac"], found) == {"qac": 75, "pac": 50}
    with pytest.raises(DataError, match="by groups"):
        evaluate(["pac"], [predicted("a", "a")])


def test_record() -> None:
    labels = "The U.S. Army|US army|Navy of Chile"
    found = [
        predicted("The U.S. Army", "US army", labels),  # equal after normalising
        predicted("Navy of Chile", "US army|Navy of Chile", labels),  # one of several
        predicted("Navy of Chile", "US army", labels),
    ]
    values = evaluate(["record_em", "record_f1"], found)
    assert values["record_em"] == pytest.approx(200 / 3)
    marked = [predicted("किताब", "कितब", "किताब|कितब"), predicted("Cafe\u0301", "café", "Cafe\u0301|café")]
    assert evaluate(["record_em"], marked) == {"record_em": 50}
    half = evaluate(["record_f1"], [predicted("US navy", "US army", "US navy|US army")])
    assert half["record_f1"] == pytest.approx(50)


def test_metrics_need_right_answers() -> None:
    unknown = Prediction(Question(PartA(EMPTY), (), (), ("a",), number=3), np.zeros(1), np.zeros(1))
    with pytest.raises(DataError, match="example 3 has no label"):
        evaluate(["accuracy"], [unknown])
    with pytest.raises(DataError, match="no predictions"):
        evaluate(["accuracy"], [])
