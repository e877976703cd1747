"""Scores of given answers: against the fills the model writes, and against recorded ones."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from openglm.checkpoints.resolve import open_checkpoint
from openglm.cli.main import main
from openglm.errors import ContextLengthError, InputError, OptionError
from openglm.infill.infiller import Infiller
from openglm.network.model import GLMModel
from openglm.tokenizer import BilingualTokenizer, ChineseTokenizer

from .test_infiller import true_logprob


@pytest.fixture(scope="module")
def infiller(tiny_model: GLMModel, tokenizer: BilingualTokenizer) -> Infiller:
    return Infiller(tiny_model, tokenizer)


def test_scores_agree_with_one_pass_over_the_layout(infiller: Infiller) -> None:
    for text, fills in (
        ("老师[MASK]走到了[MASK]。", ["昨天", "一座小房子"]),
        ("Yesterday [MASK] walked.", ["the old teacher"]),
        ("[MASK] and [MASK]", ["", "two horses"]),
    ):
        scored = infiller.score(text, fills)
        expected = true_logprob(infiller, text, scored.token_ids, ["stop"] * len(fills))
        assert scored.logprob == pytest.approx(expected, abs=1e-3)
        assert scored.blank_logprobs == pytest.approx([sum(values) for values in scored.token_logprobs])
        assert [len(v) for v in scored.token_logprobs] == [len(ids) + 1 for ids in scored.token_ids]
        literals = text.split("[MASK]")
        assert scored.text == literals[0] + "".join(f + rest for f, rest in zip(fills, literals[1:], strict=True))


def test_choices_are_ranked_and_probabilities_sum_to_one(infiller: Infiller) -> None:
    choices = ["的", "一座小房子", "the old teacher", ""]
    ranked = infiller.choose("老师[MASK]。", choices)
    assert sorted(each.fills[0] for each in ranked) == sorted(choices)
    assert [r.logprob for r in ranked] == sorted((r.logprob for r in ranked), reverse=True)
    assert sum(r.probability for r in ranked) == pytest.approx(1.0)
    ratio = math.exp(ranked[1].logprob - ranked[0].logprob)
    assert ranked[1].probability / ranked[0].probability == pytest.approx(ratio, rel=1e-6)
    for each in ranked:
        alone = infiller.score("老师[MASK]。", each.fills[0])
        assert each.logprob == pytest.approx(alone.logprob, abs=1e-4)


def test_length_penalty(infiller: Infiller) -> None:
    choices = ["的", "一座小房子，一封信，两匹马"]
    mean = infiller.choose("老师[MASK]。", choices, length_penalty=1.0)
    values = [each.logprob / sum(map(len, each.token_logprobs)) for each in mean]
    assert values == sorted(values, reverse=True)


def test_space_before_the_blank_belongs_to_the_answer(infiller: Infiller) -> None:
    assert infiller.score("the [MASK] bridge", "old").logprob == pytest.approx(
        infiller.score("the[MASK] bridge", " old").logprob, abs=1e-5
    )
    assert infiller.score("the [MASK] bridge", "old").text == "the old bridge"


def test_bad_answers(infiller: Infiller) -> None:
    with pytest.raises(InputError, match="2 fills for a text with 1"):
        infiller.score("a [MASK]", ["x", "y"])
    with pytest.raises(InputError, match="no blank"):
        infiller.score("a", "x")
    with pytest.raises(ContextLengthError, match="at most 63"):
        infiller.score("a [MASK]", "的一是不" * 40)
    with pytest.raises(OptionError, match="choices"):
        infiller.choose("a [MASK]", [])
    with pytest.raises(OptionError, match="choices"):
        infiller.choose("a [MASK]", "yes")


def test_recorded_scores(reference: Path, chinese_vocabulary: Path) -> None:
    """Scores of the original's cloze classes, single and multiple tokens."""
    model = open_checkpoint(reference / "flagai-tiny").network(device="cpu", dtype=torch.float32)
    infiller = Infiller(model, ChineseTokenizer(chinese_vocabulary))
    recorded = json.loads((reference / "cloze.json").read_text(encoding="utf-8"))
    compared = 0
    for case in recorded["multi_token"]:
        for choice, ids, expected in zip(
            case["choices"], case["choice_ids"], case["scores_length_penalty_0.0"], strict=True
        ):
            scored = infiller.score(case["text"], choice)
            assert scored.token_ids[0] == ids[:-1]
            assert scored.logprob == pytest.approx(expected, abs=1e-4)
            compared += 1
        for penalty in (0.5, 1.0):
            for each in infiller.choose(case["text"], case["choices"], length_penalty=penalty):
                expected = case[f"scores_length_penalty_{penalty}"][case["choices"].index(each.fills[0])]
                assert each.logprob / len(each.token_logprobs[0]) ** penalty == pytest.approx(expected, abs=1e-4)
    for case in recorded["single_token"]:
        for word, ids, expected in zip(case["verbalizers"], case["verbalizer_ids"], case["log_softmax"], strict=True):
            scored = infiller.score(case["text"], word)
            if scored.token_ids[0] == [ids]:
                assert scored.token_logprobs[0][0] == pytest.approx(expected, abs=1e-4)
                compared += 1
    assert compared > 40


def test_choose_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    text = "He was born in the United [MASK] of America."
    assert main(["choose", text, "--choice", "States", "--choice", "bananas", "--device", "cpu"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert "States" in first
    assert "bananas" in second
    assert main(["choose", text, "--choice", "States", "--json", "--device", "cpu"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["probability"] == 1.0
    assert main(["choose", "no blank", "--choice", "x", "--device", "cpu"]) == 2
    assert "no blank" in capsys.readouterr().err


def test_a_list_of_texts_gives_what_each_gives_alone(infiller: Infiller) -> None:
    texts = ["老师[MASK]。", "昨天早上，医生[MASK]河边，他不记得。", "孩子[MASK]"]
    choices = ["的", "一座小房子", "the old teacher", "一座"]
    for options in ({}, {"length_penalty": 1.0}, {"calibrate": True, "length_penalty": 0.5}, {"ends": False}):
        together = infiller.choose(texts, choices, **options)  # type: ignore[arg-type]
        for text, ranked in zip(texts, together, strict=True):
            alone = infiller.choose(text, choices, **options)  # type: ignore[arg-type]
            assert [each.fills for each in ranked] == [each.fills for each in alone]
            assert [each.logprob for each in ranked] == pytest.approx([each.logprob for each in alone], abs=1e-4)
    with pytest.raises(InputError, match="text 2 of 2: no blank"):
        infiller.choose(["a [MASK]", "a"], choices)


def test_calibrated_by_an_empty_context(infiller: Infiller) -> None:
    text, choices = "老师[MASK]河边。", ["走到了", "的", "一座小房子"]
    for context, empty in ((None, "[MASK]"), ("孩子[MASK]", "孩子[MASK]")):
        ranked = infiller.choose(text, choices, calibrate=True, context=context)
        gains = {c: infiller.score(text, c).logprob - infiller.score(empty, c).logprob for c in choices}
        assert [each.fills[0] for each in ranked] == sorted(choices, key=lambda c: -gains[c])
        ratio = math.exp(gains[ranked[1].fills[0]] - gains[ranked[0].fills[0]])
        assert ranked[1].probability / ranked[0].probability == pytest.approx(ratio, rel=1e-3)
        assert ranked[0].logprob == pytest.approx(infiller.score(text, ranked[0].fills[0]).logprob, abs=1e-4)
    assert infiller.choose("[MASK]", choices, calibrate=True)[0].probability == pytest.approx(1 / 3, abs=1e-4)


def test_without_ends_an_answer_may_go_on(infiller: Infiller) -> None:
    ranked = infiller.choose("老师[MASK]河边[MASK]", [["走", "了"], ["走到", "一座小房子"]], ends=False)
    for each in ranked:
        scored = infiller.score("老师[MASK]河边[MASK]", each.fills)
        assert [len(values) for values in each.token_logprobs] == [len(ids) for ids in each.token_ids]
        tokens = sum(sum(values[:-1]) for values in scored.token_logprobs)
        assert each.logprob == pytest.approx(tokens, abs=1e-4)


def test_rankings_that_cannot_be(infiller: Infiller) -> None:
    with pytest.raises(OptionError, match="length_penalty must be a finite number, not nan"):
        infiller.choose("a [MASK]", ["x"], length_penalty=math.nan)
    with pytest.raises(OptionError, match="choose has no option 'normalize'"):
        infiller.choose("a [MASK]", ["x"], normalize="mean")  # type: ignore[call-overload]
    with pytest.raises(OptionError, match="of no use without calibrate"):
        infiller.choose("a [MASK]", ["x"], context="[MASK]")
    with pytest.raises(OptionError, match="calibrate must be True or False, not 'b"):
        infiller.choose("a [MASK]", ["x"], calibrate="b [MASK]")  # type: ignore[call-overload]
    with pytest.raises(OptionError, match="2 blanks, the text has 1"):
        infiller.choose("a [MASK]", ["x"], calibrate=True, context="[MASK][MASK]")
    with pytest.raises(OptionError, match="score the ends"):
        infiller.choose("a[MASK]", ["x", ""], ends=False)
