from __future__ import annotations

from collections.abc import Callable

import pytest

from openglm.errors import InputError
from openglm.evaluation.answers import cmrc, squad


@pytest.mark.parametrize(
    ("prediction", "gold", "em", "f1"),
    [
        ("The Denver Broncos!", "denver broncos", 100, 100),
        ("Denver Broncos team", "the Denver Broncos", 0, 80),  # 2 common of 3 and 2
        ("a b b", "b c", 0, 100 / 2.5),  # the article goes; b counts once: 2 * 1 / (2 + 2)
        ("", "something", 0, 0),
        ("the", "a", 100, 100),  # nothing is left of either
        ("1,000", "1000", 100, 100),
    ],
)
def test_squad(prediction: str, gold: str, em: float, f1: float) -> None:
    if prediction == "a b b":
        f1 = 50
    assert squad([prediction], [gold]) == pytest.approx({"em": em, "f1": f1})


@pytest.mark.parametrize(
    ("prediction", "gold", "em", "f1"),
    [
        ("《红楼梦》。", "红楼梦", 100, 100),
        ("曹雪芹写的", "曹雪芹", 0, 75),  # a substring of 3, of 5 and 3 characters
        ("芹雪曹", "曹雪芹", 0, 100 / 3),  # substrings, not bags of characters
        ("2022年3.5亿", "2022年3.5亿", 100, 100),
        ("GLM模型", "glm 模型", 0, 100),  # the official script keeps inner spaces in exact match
        ("", "红楼梦", 0, 0),
    ],
)
def test_cmrc(prediction: str, gold: str, em: float, f1: float) -> None:
    assert cmrc([prediction], [gold]) == pytest.approx({"em": em, "f1": f1})


def test_the_best_reference_counts_and_texts_are_averaged() -> None:
    assert squad(["x", "y z"], [["a", "x"], "y"]) == pytest.approx({"em": 50, "f1": 100 * (1 + 2 / 3) / 2})
    assert cmrc(["甲", "乙"], [["丙", "甲"], ["丁"]]) == pytest.approx({"em": 50, "f1": 50})


def test_bad_input() -> None:
    with pytest.raises(InputError, match="1 predictions for 2"):
        squad(["a"], ["a", "b"])
    with pytest.raises(InputError, match="no reference"):
        cmrc(["a"], [[]])


@pytest.mark.parametrize("metric", [squad, cmrc])
def test_marks_and_composed_letters(metric: Callable[[list[str], list[str]], dict[str, float]]) -> None:
    for first, second in (("किताब", "कितब"), ("เก่า", "เก้า"), ("كِتاب", "كُتاب")):
        assert metric([first], [second])["em"] == 0
        assert metric([first], [second])["f1"] == 0, "one word each, and another one"
        assert metric([first], [first]) == {"em": 100, "f1": 100}
    assert metric(["Zu\u0308rich, cafe\u0301"], ["Zürich, café"]) == {"em": 100, "f1": 100}


def test_an_article_with_a_mark_is_none() -> None:
    assert squad(["a\u0331 b"], ["b"]) == pytest.approx({"em": 0, "f1": 200 / 3})
