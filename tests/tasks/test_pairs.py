"""Minimal pairs: of a good and a bad text, the good one should be the more probable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openglm.blanks import BlankKind, PartA
from openglm.errors import DataError
from openglm.evaluation.evaluate import run_evaluation
from openglm.evaluation.options import EvalOptions
from openglm.infill.infiller import Infiller
from openglm.layouts import lay_out
from openglm.scoring.predict import Prediction, predict
from openglm.scoring.targets import target_logprobs
from openglm.tasks.examples import Example
from openglm.tasks.metrics import by_category
from openglm.tasks.renderer import QuestionRenderer
from openglm.tasks.task_files import from_values, load_task

VALUES: dict[str, Any] = {
    "name": "p", "kind": "pairs", "patterns": ["[gMASK]"], "scoring": {"ends": False}, "group": "paradigm",
    "category": "phenomenon", "metrics": ["group_accuracy"],
}  # fmt: skip
TEXTS = ["the old teacher walked to the river", "老师昨天走到了河边", "a river walked", "河边走到了老师", "x"]


def pair(good: str, bad: str, paradigm: str = "a", phenomenon: str = "order", number: int = 1) -> Example:
    values = {"good": good, "bad": bad, "paradigm": paradigm, "phenomenon": phenomenon}
    return Example(values, "pairs.jsonl", number)


def answers(infiller: Infiller, examples: list[Example]) -> list[Prediction]:
    task = from_values(VALUES)
    questions = QuestionRenderer(task, infiller.tokenizer, infiller.model.config).questions(examples)
    return predict(infiller.model, infiller.tokenizer, questions, scoring=task.scoring)


def whole_text_logprob(infiller: Infiller, text: str) -> float:
    """From one layout of its own: `[CLS] [gMASK] | <sop> text`, nothing but the text's tokens scored."""
    tokenizer = infiller.tokenizer
    part_a = np.array([tokenizer.cls, tokenizer.blank_id(BlankKind.GMASK)])
    layout = lay_out(PartA(part_a, np.array([1])), [tokenizer.encode(text)], tokenizer.markers, ends_with_eop=False)
    ((logprobs, _),) = target_logprobs(infiller.model, [layout], tokenizer.eos)
    return float(logprobs.sum())


def test_each_text_is_scored_as_a_whole(infiller: Infiller) -> None:
    examples = [pair(good, bad) for good in TEXTS for bad in TEXTS if good != bad]
    for example, found in zip(examples, answers(infiller, examples), strict=True):
        bad, good = (whole_text_logprob(infiller, str(example.get(name))) for name in ("bad", "good"))
        assert found.logprobs == pytest.approx([bad, good], abs=1e-4)
        assert found.correct == (good > bad)


def test_of_two_equal_texts_none_is_more_probable(infiller: Infiller) -> None:
    assert not any(each.correct for each in answers(infiller, [pair(text, text) for text in TEXTS]))


def test_accuracy_is_averaged_over_paradigms_and_told_by_phenomenon(infiller: Infiller) -> None:
    good, bad = sorted(TEXTS[:2], key=lambda text: -whole_text_logprob(infiller, text))
    examples = [pair(good, bad, "a"), pair(good, bad, "a"), pair(bad, good, "a"), pair(bad, good, "b", "other")]
    found = answers(infiller, examples)
    assert [each.correct for each in found] == [True, True, False, False]
    assert from_values(VALUES).evaluate(found) == {"group_accuracy": pytest.approx(100 * (2 / 3 + 0) / 2)}
    assert by_category(["group_accuracy"], found) == {
        "order": {"group_accuracy": pytest.approx(200 / 3)},
        "other": {"group_accuracy": 0.0},
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"options": ["{a}", "{b}"]}, "options: of no use with kind: pairs"),
        ({"label": "label"}, "label: of no use with kind: pairs"),
        ({"verbalizer": {"a": "b", "c": "d"}}, "verbalizer: of no use with kind: pairs"),
        ({"group": ["a"]}, "group: expected the name of a field"),
        ({"category": 3}, "category: expected the name of a field"),
        ({"kind": "pair"}, "kind: 'pair'"),
        ({"published": [{"system": "x", "setting": "y", "source": "z", "categories": 3, "accuracy": 1}]}, "categories"),
    ],
)
def test_mistakes_in_a_file(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        from_values({**VALUES, **change})


def test_a_pair_without_its_good_text_is_told_by_its_line(infiller: Infiller) -> None:
    lacking = Example({"bad": "a", "paradigm": "p", "phenomenon": "q"}, "pairs.jsonl", 7)
    with pytest.raises(DataError, match=r'pairs\.jsonl, line 7: no field "good"'):
        answers(infiller, [lacking])


@pytest.mark.parametrize("name", ["blimp", "zhoblimp"])
def test_those_that_come_along(name: str, tmp_path: Path) -> None:
    """The commands' own files, on two paradigms of one's own: a table by phenomenon, published figures beside it."""
    import json

    from openglm.evaluation.tables import render

    rows = [
        dict(pair(TEXTS[i], TEXTS[j], f"{i}", ("binding", "ellipsis")[i % 2]).values)
        for i, j in ((0, 2), (1, 3), (2, 0), (3, 1))
    ]
    (tmp_path / name).mkdir()
    (tmp_path / name / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (result,) = run_evaluation([name], EvalOptions(data_dir=tmp_path, device="cpu"))
    assert (result.count, result.chance) == (4, {"group_accuracy": 50.0})
    assert set(result.categories) == {"binding", "ellipsis"}
    text = render([result])
    assert f"### {load_task(name).title}, by category" in text
    assert "people" in text
