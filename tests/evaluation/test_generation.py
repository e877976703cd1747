from __future__ import annotations

import sys

import pytest

from openglm.errors import InputError, MissingLibraryError
from openglm.evaluation.generation import bleu, mean_length, rouge
from openglm.tasks.units import is_chinese, units, written_words


def test_units_are_chinese_characters_and_words() -> None:
    assert units("GLM-130B 是 don't 三维3D模型，2022年。") == [
        "glm", "130b", "是", "don't", "三", "维", "3d", "模", "型", "2022", "年",
    ]  # fmt: skip
    assert units("，。 ... ") == []


def test_written_words_keep_their_punctuation_and_their_place() -> None:
    text = "It's 3.5, 三D！ yes"
    assert [text[a:b] for a, b in written_words(text)] == ["It's", "3.5,", "三", "D！", "yes"]


def test_chinese_is_told_from_english() -> None:
    assert is_chinese(["GLM 模型很好"])
    assert not is_chinese(["a long English text with 一 sign"])
    assert not is_chinese([])


def test_rouge_counts_chinese_characters() -> None:
    assert rouge(["基于模型的研究"], ["基于模型的研究"]) == {"rouge1": 100, "rouge2": 100, "rougeL": 100}
    # 甲乙丙丁 / 甲乙丁: 3 of 4 and 3 of 3 characters; 1 of 3 and 1 of 2 pairs; subsequence of 3.
    found = rouge(["甲乙丁"], ["甲乙丙丁"])
    assert found["rouge1"] == pytest.approx(600 / 7)
    assert found["rouge2"] == pytest.approx(100 * 2 / 5)
    assert found["rougeL"] == pytest.approx(600 / 7)
    assert rouge(["丁丙乙甲"], ["甲乙丙丁"])["rougeL"] == pytest.approx(25)


def test_rouge_counts_english_words_and_means_over_texts() -> None:
    # "the cat sat" / "the cat lay down": 2 common words, 1 common pair.
    found = rouge(["The cat sat.", "no"], ["the cat lay down", "yes"])
    assert found["rouge1"] == pytest.approx(100 * (4 / 7) / 2)
    assert found["rouge2"] == pytest.approx(100 * (2 / 5) / 2)


def test_rouge_takes_the_best_of_several_references() -> None:
    assert rouge(["甲乙"], [["丙丁", "甲乙"]])["rouge2"] == 100


def test_rouge_agrees_with_the_library_on_plain_english() -> None:
    from rouge_score.rouge_scorer import RougeScorer

    prediction, reference = "a model of blank filling is trained", "the model of filling the blank was trained well"
    theirs = RougeScorer(["rouge1", "rougeL"]).score(reference, prediction)
    ours = rouge([prediction], [reference])
    assert ours["rouge1"] == pytest.approx(100 * theirs["rouge1"].fmeasure)
    assert ours["rougeL"] == pytest.approx(100 * theirs["rougeL"].fmeasure)


def test_bleu() -> None:
    assert bleu(["今天天气很好，适合出门"], ["今天天气很好，适合出门"]) == pytest.approx(100)
    # The value sacrebleu documents for its tokenizer "13a", of one sentence with two words changed:
    # 5 of 7, 3 of 6, 1 of 5 and (smoothed) half of 4 n-grams.
    found = bleu(["the cat sat on a mat today"], ["the cat sat on the mat"], tokenize="13a")
    assert found == pytest.approx(100 * ((5 / 7) * (3 / 6) * (2 / 5) * (1 / 4)) ** 0.25)
    # Without Chinese cutting, a sentence is one word and a change anywhere makes it 0.
    assert bleu(["今天天气很好，适合出门"], ["今天天气不好，适合出门"]) > 50
    assert bleu(["今天天气很好"], ["今天天气不好"], tokenize="none") == 0


def test_bleu_with_several_references() -> None:
    assert bleu(["a b c d e"], [["x", "a b c d e"]]) == pytest.approx(100)
    with pytest.raises(InputError, match="same number"):
        bleu(["a", "b"], [["a", "c"], ["b"]])


def test_mean_length() -> None:
    assert mean_length(["三维", "a b c d"]) == 3


@pytest.mark.parametrize("metric", [rouge, bleu])
def test_bad_input(metric: object, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="2 predictions for 1 references"):
        metric(["a", "b"], ["a"])
    with pytest.raises(InputError, match="0 predictions"):
        metric([], [])
    with pytest.raises(InputError, match="not one text"):
        metric("a", ["a"])
    with pytest.raises(InputError, match="text 2 has no reference"):
        metric(["a", "b"], ["a", []])
    for name in ("rouge_score", "rouge_score.rouge_scorer", "sacrebleu"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingLibraryError, match="pip install"):
        metric(["a"], ["a"])


def test_an_unknown_tokenizer() -> None:
    with pytest.raises(InputError, match="no tokenizer 'klingon'"):
        bleu(["a"], ["a"], tokenize="klingon")


# Two different texts, and two that are the same: composed or not, full-width or not.
DIFFERENT = [("किताब", "कितब"), ("हिन्दी", "हिन्दू"), ("தமிழ்", "தமழ"), ("มา", "มี"), ("كِتاب", "كُتاب"), ("x̱a", "xa")]
EQUAL = [("cafe\u0301 zu\u0308rich", "café zürich"), ("\u1112\u1161\u11ab", "한"), ("ＧＬＭ２", "GLM2")]


@pytest.mark.parametrize(("first", "second"), DIFFERENT)
def test_marks_belong_to_their_letters(first: str, second: str) -> None:
    assert units(first) == [first]
    assert rouge([first], [second])["rouge1"] == 0
    assert rouge([first], [first])["rougeL"] == 100
    assert bleu([" ".join([first] * 5)], [" ".join([second] * 5)]) == 0


@pytest.mark.parametrize(("first", "second"), EQUAL)
def test_texts_that_say_the_same_are_equal(first: str, second: str) -> None:
    long = [" ".join([each, "of the town", each, "is here"]) for each in (first, second)]
    assert rouge(long[:1], long[1:]) == {"rouge1": 100, "rouge2": 100, "rougeL": 100}
    assert bleu(long[:1], long[1:]) == pytest.approx(100)


def test_words_end_where_letters_end() -> None:
    assert units("snake_case, naïve–self's 10’s \u0301 हिन्दी।") == ["snake", "case", "naïve", "self's", "10’s", "हिन्दी"]
