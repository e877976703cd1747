"""Several patterns of one task: how they are chosen, asked, and averaged."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from openglm.blanks import PartA
from openglm.errors import OptionError
from openglm.infill.infiller import Infiller
from openglm.scoring.predict import Prediction, Scoring, averaged, predict
from openglm.scoring.question import Question
from openglm.tasks.examples import Example
from openglm.tasks.parts import PromptTemplate
from openglm.tasks.pattern_indices import as_plain, parse_indices, resolve_indices
from openglm.tasks.renderer import QuestionRenderer
from openglm.tasks.task import Task
from openglm.tasks.task_files import from_values
from openglm.tasks.verbalizer import Verbalizer

EMPTY = np.zeros(0, np.int64)
PATTERNS = ["{a:shorten}，[MASK]。", "[MASK]！{a:shorten}", "{b}的{a:shorten}[MASK]"]
TASK: dict[str, Any] = {"name": "t", "patterns": PATTERNS, "verbalizer": {"A": ["老师", "医生"], "B": "河边走到了"}}
EXAMPLES = [Example({"a": text, "b": "船长", "label": "A"}) for text in ("老师走到了", "医生", "河边的桥")]


def test_choices_in_their_plainest_form() -> None:
    assert [parse_indices(value) for value in (2, "2", [2], (2,), " 2 ")] == [2] * 5
    assert [parse_indices(value) for value in ("3,0", "0, 3", [3, 0], (0, 3))] == [(0, 3)] * 4
    assert parse_indices("all") == "all"
    assert [as_plain(value) for value in (1, (2, 0), "all")] == [1, [0, 2], "all"]
    assert resolve_indices("all", 1, "t") == resolve_indices(0, 4, "t") == (0,)
    assert resolve_indices("all", 3, "t") == (0, 1, 2)


@pytest.mark.parametrize("value", ["", "a", "1,", "0;1", "-1", [], (), [0, "1"], [True], True, 1.0, None])
def test_choices_that_are_none(value: object) -> None:
    with pytest.raises(OptionError, match="give the number of a pattern, several such as 0,2,3, or all"):
        parse_indices(value)


def test_numbers_that_a_task_does_not_have() -> None:
    with pytest.raises(OptionError, match="t has 3 patterns, 0 to 2; there is no pattern 3"):
        resolve_indices("0,3", 3, "t")
    with pytest.raises(OptionError, match="t has one pattern, 0; there is no pattern -1"):
        resolve_indices(-1, 1, "t")
    with pytest.raises(OptionError, match="names 2 twice"):
        resolve_indices([2, 0, 2], 3, "t")


def prediction(*scores: float) -> Prediction:
    return Prediction(Question(PartA(EMPTY), (), (), ("A", "B")), np.array(scores), np.array(scores))


def test_the_average_by_hand() -> None:
    """Shares of 3:1 and of 1:27 make sqrt(3) to sqrt(27), so 1:3, whatever the scores are beside that."""
    variants = [prediction(np.log(3) - 40, -40), prediction(7, np.log(27) + 7)]
    found = averaged(variants)
    assert found.probabilities == pytest.approx([0.25, 0.75])
    assert np.exp(found.scores).sum() == pytest.approx(1)
    assert found.question is variants[0].question
    assert averaged(variants[:1]) is variants[0]


@pytest.mark.parametrize("scoring", [Scoring(), Scoring(calibrate=True), Scoring(1.0, ends=False)])
def test_what_several_patterns_say_is_averaged(infiller: Infiller, scoring: Scoring) -> None:
    model, tokenizer, task = infiller.model, infiller.tokenizer, from_values(TASK)

    def answers(pattern: Any) -> list[Prediction]:
        questions = QuestionRenderer(task, tokenizer, model.config, pattern).questions(EXAMPLES)
        return predict(model, tokenizer, questions, scoring=scoring)

    alone, together = {number: answers(number) for number in range(3)}, answers([0, 2])
    for row, found in enumerate(together):
        logs = np.mean([np.log(alone[number][row].probabilities) for number in (0, 2)], axis=0)
        assert found.probabilities == pytest.approx(np.exp(logs) / np.exp(logs).sum(), rel=1e-4)
        assert [variant.part_a.ids.tolist() for variant in found.question.variants] == [
            alone[number][row].question.part_a.ids.tolist() for number in (0, 2)
        ]
    single = answers((1,))
    for one, same in zip(alone[1], single, strict=True):
        assert one.scores.tolist() == same.scores.tolist()
        assert same.question.others == ()
    assert len(answers("all")[0].question.variants) == 3
    assert 0 <= task.evaluate(together)["accuracy"] <= 100


def test_the_way_that_lost_most_counts_as_cut(infiller: Infiller) -> None:
    task = from_values(TASK)
    long = Example({"a": "老师走到了河边" * 40, "b": "船长和一位老师", "label": "A"})
    question = QuestionRenderer(task, infiller.tokenizer, infiller.model.config, "all").question(long)
    cuts = [variant.cut for variant in question.variants]
    assert 0 < min(cuts) < max(cuts) == question.most_cut.cut


def test_fields_of_several_patterns() -> None:
    task = from_values(TASK)
    assert task.fields() == ("a",)
    assert task.fields((1, 2)) == ("a", "b")


def test_words_of_their_own_may_stand_in_any_order(infiller: Infiller) -> None:
    own = {"pattern": "[MASK]！{a}", "verbalizer": {"B": "河边", "A": "船长"}}
    task = from_values({**TASK, "patterns": [PATTERNS[0], own]})
    first, second = (
        QuestionRenderer(task, infiller.tokenizer, infiller.model.config, "all").question(EXAMPLES[0]).variants
    )
    assert first.labels == second.labels == ("A", "B")
    assert (first.gold, second.gold) == (0, 0)


def test_labels_that_differ_cannot_be_averaged() -> None:
    """A file with such patterns is refused when it is read; tasks made in Python when they ask."""
    first, second, third = from_values(TASK).templates
    other = PromptTemplate(third.pattern, Verbalizer.of({"A": "x", "C": "y"}))
    task = Task("t", "choice", (first, second, other), Verbalizer.of(TASK["verbalizer"]))
    assert task.pattern_indices((0, 1)) == (0, 1)
    with pytest.raises(OptionError, match="the patterns 0 and 2 have different labels"):
        task.pattern_indices("all")


def test_examples_that_bring_their_own_answers(infiller: Infiller) -> None:
    task = from_values({"name": "t", "kind": "options", "patterns": PATTERNS[:2], "options": "options"})
    examples = [Example({"a": "老师", "options": ["河边", "医生", "桥"][:n], "label": 1}) for n in (2, 3)]
    questions = QuestionRenderer(task, infiller.tokenizer, infiller.model.config, "all").questions(examples)
    found = predict(infiller.model, infiller.tokenizer, questions)
    assert [len(each.scores) for each in found] == [2, 3]
    assert [each.question.labels for each in found] == [("河边", "医生"), ("河边", "医生", "桥")]
