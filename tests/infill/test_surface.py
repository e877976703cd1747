"""What users call: options by name, lists in and out, iterators, copies, and what is wrong with an input."""

from __future__ import annotations

import copy
import doctest
import importlib
import inspect
import math
import pickle
import pydoc
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import get_type_hints

import pytest
import torch

import openglm
from openglm.blanks import BlankedText, BlankKind
from openglm.checkpoints.native import save_model
from openglm.engine.options import FillKeywords, FillOptions
from openglm.errors import InputError, OpenGLMError, OptionError
from openglm.infill.infiller import Infiller
from openglm.infill.loading import load
from openglm.infill.scoring import ChooseKeywords
from openglm.network.model import GLMModel
from openglm.tokenizer import BilingualTokenizer

TEXT = "老师[MASK]走到了[MASK]。"


@pytest.fixture(scope="module")
def infiller(tiny_model: GLMModel, tokenizer: BilingualTokenizer) -> Infiller:
    return Infiller(tiny_model, tokenizer)


# --- options ---------------------------------------------------------------------------------


def test_keywords_for_type_checkers_are_the_options() -> None:
    assert get_type_hints(FillKeywords) == {
        each.name: get_type_hints(FillOptions)[each.name] for each in fields(FillOptions)
    }
    shown = inspect.signature(Infiller.choose).parameters
    assert list(ChooseKeywords.__annotations__) == [n for n, p in shown.items() if p.kind is p.KEYWORD_ONLY]


@pytest.mark.parametrize(
    "method", [Infiller.fill, Infiller.stream, Infiller.fill_iter, Infiller.request, Infiller.check]
)
def test_help_shows_every_option_with_its_default(method: object) -> None:
    page = pydoc.plain(pydoc.render_doc(method))
    for option in fields(FillOptions):
        assert f"{option.name}: '{option.type}' = {option.default!r}" in page


def test_an_unknown_option_names_the_nearest_and_no_private_class(infiller: Infiller) -> None:
    calls = [
        (lambda: infiller.fill(TEXT, max_new_token=3), "fill has no option 'max_new_token'.*'max_new_tokens'"),  # type: ignore[call-overload]
        (lambda: infiller.stream(TEXT, temprature=1), "stream has no option 'temprature'.*'temperature'"),  # type: ignore[call-arg]
        (lambda: infiller.choose(TEXT, [["a", "b"]], calibrated=True), "choose has no option.*'calibrate'"),  # type: ignore[call-overload]
        (lambda: infiller.score(TEXT, ["a", "b"], truncated="end"), "score has no option.*'truncate'"),  # type: ignore[call-overload]
        (lambda: load("default", devise="cpu"), "load has no option 'devise'.*'device'"),  # type: ignore[call-arg]
    ]
    for call, words in calls:
        with pytest.raises(OptionError, match=words) as caught:
            call()
        assert "FillOptions" not in str(caught.value)
        assert "__init__" not in str(caught.value)


# --- what is wrong with an input ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "texts must be text or a list, not None"),
        (b"a [MASK]", "must be text or a list, not b"),
        ({"text": "a [MASK]"}, "must be text or a list"),
        (["a [MASK]", None], "text 2 of 2: the text must be text"),
        (["a [MASK]", b"a [MASK]"], "text 2 of 2: the text is bytes; decode"),
        (["a [MASK]", math.nan], "text 2 of 2: the text must be text .a str., not nan"),
        ("a [MASK] \ud800", "lone surrogate at character 9"),
        (BlankedText(("a", "\udfff"), (BlankKind.MASK,)), "lone surrogate at character 0"),
    ],
)
def test_texts_that_are_none(infiller: Infiller, text: object, words: str) -> None:
    calls = [
        lambda: infiller.fill(text),  # type: ignore[call-overload]
        lambda: infiller.choose(text, ["x"]),  # type: ignore[call-overload]
        lambda: infiller.score(text, ["x", "y"]),  # type: ignore[call-overload]
    ]
    for call in calls:
        with pytest.raises(InputError, match=words):
            call()


@pytest.mark.parametrize(
    ("choices", "error", "words"),
    [
        ("Paris", OptionError, r"a list of answers, e.g. \['Paris'\]"),
        (None, OptionError, "a list of answers"),
        ([], OptionError, "at least one"),
        (["x", None], InputError, "an answer must be text .a str., not None"),
        (["x", math.nan], InputError, "not nan"),
        (["x", b"y"], InputError, "an answer is bytes"),
        (["x", [b"y"]], InputError, "an answer is bytes"),
        (["x", "\ud800"], InputError, "lone surrogate"),
        (["x", ["y", "z"]], InputError, "2 fills for a text with 1 blanks"),
    ],
)
def test_answers_that_are_none(infiller: Infiller, choices: object, error: type[OpenGLMError], words: str) -> None:
    with pytest.raises(error, match=words):
        infiller.choose("a [MASK]", choices)  # type: ignore[call-overload]


@pytest.mark.parametrize("value", [math.nan, math.inf, "1", None, True, -1])
def test_numbers_that_are_none(infiller: Infiller, value: object) -> None:
    for name in ("temperature", "top_p", "top_k", "repetition_penalty", "num_beams", "max_new_tokens"):
        if (name, value) != ("max_new_tokens", None):
            with pytest.raises(OptionError, match=f"{name} must be"):
                infiller.fill(TEXT, **{name: value})  # type: ignore[call-overload]


# --- results -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 1.5, "seed": 4, "num_return_sequences": 6},
        {"num_beams": 5, "num_return_sequences": 5, "length_penalty": 1.5},
    ],
)
def test_answers_are_all_and_best_first(infiller: Infiller, options: dict[str, float]) -> None:
    result = infiller.fill(TEXT, max_new_tokens=3, **options)  # type: ignore[call-overload]
    assert sorted(map(id, result.answers)) == sorted(map(id, (result, *result.alternatives)))
    values = [[v for blank in answer.blanks for v in blank.token_logprobs] for answer in result.answers]
    scores = [sum(each) / len(each) ** options.get("length_penalty", 0) for each in values]
    assert scores == sorted(scores, reverse=True)
    assert len({answer.text for answer in result.answers}) > 1


def test_choices_carry_their_place(infiller: Infiller) -> None:
    choices = ["的", "一座小房子", "了", "河边"]
    ranked = infiller.choose("老师[MASK]河边。", choices)
    assert [choices[each.index] for each in ranked] == [each.fills[0] for each in ranked]
    assert [each.index for each in ranked] != [0, 1, 2, 3]


def test_score_takes_lists(infiller: Infiller) -> None:
    texts, fills = [TEXT, "孩子[MASK]", "a [MASK]"], [["昨天", "河边"], "的", ["house"]]
    together = infiller.score(texts, fills)
    for text, own, scored in zip(texts, fills, together, strict=True):
        alone = infiller.score(text, own)
        assert (alone.fills, alone.token_ids) == (scored.fills, scored.token_ids)
        assert alone.logprob == pytest.approx(scored.logprob, abs=1e-4)
    assert infiller.score([], []) == []
    with pytest.raises(InputError, match="2 fills for 3 texts"):
        infiller.score(texts, fills[:2])


def test_what_was_not_seen_is_said(infiller: Infiller) -> None:
    text = "the river " * 40 + "[MASK]"
    dropped = infiller.fill(text, truncate="start", max_new_tokens=1).truncated
    assert dropped > 0
    assert infiller.score(text, "x", truncate="start").truncated == dropped
    ranked = infiller.choose([text, "a [MASK]"], ["x", "y"], truncate="start")
    assert [[each.truncated for each in one] for one in ranked] == [[dropped] * 2, [0] * 2]
    assert ranked[0][0].to_dict()["truncated"] == dropped
    with pytest.raises(OptionError, match="truncate must be one of start, end, around"):
        infiller.score(text, "x", truncate="middle")


# --- many ----------------------------------------------------------------------------------------


def test_an_iterator_gives_what_a_list_gives(infiller: Infiller) -> None:
    texts = [TEXT, "孩子[MASK]", "a [MASK]", "[MASK] b"] * 5
    options = {"max_new_tokens": 3, "temperature": 1.0, "seed": 2}
    wanted = [str(each) for each in infiller.fill(texts, **options)]  # type: ignore[call-overload]
    for ahead in (1, 3, 100):
        assert [str(each) for each in infiller.fill_iter(iter(texts), ahead=ahead, **options)] == wanted  # type: ignore[call-overload]


def test_errors_stand_in_their_place_or_are_raised(infiller: Infiller) -> None:
    texts = ["a [MASK]", "plain", None, "b [MASK]", "c " * 500 + "[MASK]"]
    found = list(infiller.fill_iter(texts, on_error="return", max_new_tokens=2))  # type: ignore[type-var]
    assert [type(each).__name__ for each in found] == [
        "Filled",
        "InputError",
        "InputError",
        "Filled",
        "ContextLengthError",
    ]
    assert list(infiller.fill_iter(["plain"] * 5, on_error="return", ahead=2))[4].args == found[1].args  # type: ignore[union-attr]
    with pytest.raises(InputError, match="text 2: no blank"):
        list(infiller.fill_iter(["a [MASK]", "plain"], max_new_tokens=2))
    with pytest.raises(OptionError, match="on_error"):
        infiller.fill_iter([], on_error="ignore")  # type: ignore[call-overload]
    assert not infiller.engine.running
    assert not infiller.engine.queued


def test_no_more_is_read_than_ahead(infiller: Infiller) -> None:
    read = 0

    def endless() -> Iterator[str]:
        nonlocal read
        while True:
            read += 1
            yield "a [MASK]"

    results = infiller.fill_iter(endless(), ahead=4, max_new_tokens=1)
    for given in range(1, 9):
        next(results)
        assert given <= read <= given + 4
    results.close()  # type: ignore[attr-defined]
    assert not infiller.engine.running
    assert not infiller.engine.queued


# --- copies --------------------------------------------------------------------------------------


def test_a_loaded_model_is_pickled_by_its_name(
    infiller: Infiller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(tmp_path / "model", infiller.model, infiller.tokenizer)
    monkeypatch.chdir(tmp_path)
    loaded = load("model", dtype="bfloat16")
    sent = pickle.dumps(loaded)
    assert len(sent) < 1000
    monkeypatch.chdir("/")  # another process may have another folder
    opened = pickle.loads(sent)
    assert str(opened.fill(TEXT, max_new_tokens=3)) == str(loaded.fill(TEXT, max_new_tokens=3))
    assert next(opened.model.parameters()).dtype == next(loaded.model.parameters()).dtype


def test_what_cannot_be_pickled_says_why(infiller: Infiller, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="only an Infiller that openglm"):
        pickle.dumps(infiller)
    save_model(tmp_path, infiller.model, infiller.tokenizer)
    loaded = load(tmp_path)

    with torch.no_grad():
        next(loaded.model.parameters()).add_(1)
    with pytest.raises(InputError, match="changed since they were loaded"):
        pickle.dumps(loaded)


def test_copies(infiller: Infiller) -> None:
    wanted = str(infiller.fill(TEXT, max_new_tokens=3))
    shallow, deep = copy.copy(infiller), copy.deepcopy(infiller)
    assert shallow.model is infiller.model
    assert shallow.engine is not infiller.engine
    assert deep.model is not infiller.model
    assert str(shallow.fill(TEXT, max_new_tokens=3)) == str(deep.fill(TEXT, max_new_tokens=3)) == wanted


# --- examples ------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", ["infill.infiller", "infill.loading", "infill.results", "blanks", "engine.options"])
def test_the_examples_of_docstrings(module: str) -> None:
    found = doctest.testmod(importlib.import_module(f"openglm.{module}"), extraglobs={"openglm": openglm})
    assert found.failed == 0
    assert found.attempted
