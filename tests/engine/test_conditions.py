"""Conditions on blanks: every answer meets its own, and is drawn from the model's distribution over those that do."""

from __future__ import annotations

import json
import random
import re
import unicodedata
from typing import Any

import numpy as np
import pytest
import torch

from openglm.errors import InputError, OptionError
from openglm.infill.infiller import Infiller
from openglm.network.config import GLMConfig
from openglm.network.model import GLMModel
from openglm.tokenizer import BilingualTokenizer

pytest.importorskip("llguidance")
WAYS: list[dict[str, Any]] = [
    {},
    {"temperature": 1.3, "seed": 3, "num_return_sequences": 4},
    {"num_beams": 3, "num_return_sequences": 3},
]
TEXTS = ["Hello [MASK]", "老师[MASK]走到了", "[MASK]!", "in [MASK] on"]


@pytest.fixture(scope="module")
def infiller(tokenizer: BilingualTokenizer) -> Infiller:
    torch.manual_seed(3)
    rows = -(-tokenizer.num_tokens // 128) * 128
    config = GLMConfig(2, 32, 4, rows, max_sequence_length=96, initializer_range=0.15)
    return Infiller(GLMModel(config).eval().requires_grad_(False), tokenizer)


def are_words(text: str) -> bool:
    # SpecialIds younger than Python's tables have the category Cn there.
    signs = all(c in "'’ -" or unicodedata.category(c)[0] in "LMN" or unicodedata.category(c) == "Cn" for c in text)
    return bool(text) and signs and text == text.strip()


def answers(infiller: Infiller, text: Any, **options: Any) -> list[Any]:
    return [filled.blanks[0] for filled in infiller.fill(text, **options).answers]


# --- each of them ------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ({"choices": ["the old teacher", "医生", "x", ""]}, lambda t: t in ("the old teacher", "医生", "x", "")),
        ({"regex": r"\d{4}年\d{1,2}月"}, lambda t: re.fullmatch(r"\d{4}年\d{1,2}月", t)),
        ({"regex": r"[a-c/]{2,5}"}, lambda t: re.fullmatch(r"[a-c/]{2,5}", t)),
        ({"whole_words": True}, are_words),
        ({"min_chars": 3, "max_chars": 5}, lambda t: 3 <= len(t) <= 5),
        ({"min_chars": 7, "max_chars": 7}, lambda t: len(t) == 7),
        ({"bad_words": ["e", "a", "的", "一"], "max_chars": 9}, lambda t: not set(t) & set("ea的一")),
        ({"required": ["河", "q."], "max_chars": 9}, lambda t: "河" in t and "q." in t),
        ({"stop": ["e", "了"], "max_chars": 12}, lambda t: not re.search("[e了].", t, re.DOTALL)),
        ({"choices": ["ab", "abc", "b"], "min_chars": 2, "bad_words": ["c"]}, lambda t: t == "ab"),
        ({"regex": "[ab]*", "required": "ba", "max_chars": 4}, lambda t: re.fullmatch("[ab]{0,4}", t) and "ba" in t),
    ],
)
def test_every_answer_meets_its_condition(infiller: Infiller, condition: dict[str, Any], holds: Any, way: Any) -> None:
    for text, result in zip(TEXTS, infiller.fill(TEXTS, max_new_tokens=30, **condition, **way), strict=True):
        for filled in result.answers:
            (blank,) = filled.blanks
            if blank.finish_reason != "unmet":
                assert holds(blank.text), (text, blank)
            scored = infiller.score(text, [blank])
            assert scored.token_logprobs[0] == pytest.approx(blank.token_logprobs, abs=1e-3)
            assert filled.text == text.replace("[MASK]", blank.text)


def test_conditions_are_met_within_enough_tokens(infiller: Infiller) -> None:
    for condition in ({"regex": r"\d{4}年"}, {"min_chars": 3, "max_chars": 5}, {"choices": ["a", "老师"]}):
        found = answers(infiller, "[MASK] x", temperature=1.5, seed=1, num_return_sequences=20, **condition)
        assert {blank.finish_reason for blank in found} == {"stop"}


def test_several_blanks_with_conditions_of_their_own(infiller: Infiller) -> None:
    text = "On [MASK] the [MASK] paid [MASK] for [MASK]."
    options = {
        "regex": [r"\d{4}-\d{2}-\d{2}", None, r"[1-9]\d{0,2}", None],
        "choices": [None, ["doctor", "old teacher"], None, None],
        "max_chars": [None, None, None, 6],
    }
    alone = infiller.fill(text, **options)
    assert re.fullmatch(r"On \d{4}-\d\d-\d\d the (doctor|old teacher) paid [1-9]\d{0,2} for .{0,6}\.", alone.text, re.S)
    together = infiller.fill([text, "a [MASK] b [MASK] c [MASK][MASK]", text], **options)
    assert [str(together[0]), str(together[2])] == [alone.text] * 2


@pytest.mark.parametrize("way", WAYS)
def test_a_batch_gives_what_single_calls_give(infiller: Infiller, way: dict[str, Any]) -> None:
    options = {"regex": "[a-z ]{2,8}", "max_new_tokens": 12, **way}
    for text, together in zip(TEXTS, infiller.fill(TEXTS, **options), strict=True):
        assert [str(a) for a in infiller.fill(text, **options).answers] == [str(a) for a in together.answers]


def test_streams_keep_conditions(infiller: Infiller) -> None:
    options: dict[str, Any] = {"regex": r"\d{3}[a-z]{2}", "temperature": 1.0, "seed": 6}
    assert (
        "".join(p.text for p in infiller.stream("a [MASK]", **options))
        == infiller.fill("a [MASK]", **options).blanks[0].text
    )


# --- random ones ---------------------------------------------------------------------------------


def random_regex(rng: random.Random, depth: int = 3) -> str:
    kind = rng.randrange(6 if depth else 2)
    if kind == 0:
        return rng.choice(["a", "b", "的", "é", "7", r"\.", "/", "是"])
    if kind == 1:
        return rng.choice(["[a-c]", "[0-9]", "[^a-z]", "[的是一]", r"[A-Z ]"])
    inner = random_regex(rng, depth - 1)
    if kind == 2:
        return f"(?:{inner}|{random_regex(rng, depth - 1)})"
    if kind == 3:
        return f"(?:{inner}){rng.choice(['{1,2}', '?', '{2}'])}"
    return inner + random_regex(rng, depth - 1)


def test_random_regular_expressions_are_never_violated(infiller: Infiller) -> None:
    rng, met = random.Random(5), 0
    for number in range(500):
        regex = random_regex(rng)
        for blank in answers(infiller, TEXTS[number % 4], regex=regex, temperature=1.5, seed=number, max_new_tokens=40):
            if blank.finish_reason == "stop":
                met += 1
                assert re.fullmatch(regex, blank.text), (regex, blank.text)
            else:
                assert blank.finish_reason == "length" or len(blank.token_ids) == 40, (regex, blank)
    assert met > 490


def random_schema(rng: random.Random, depth: int = 2) -> dict[str, Any]:
    kind = rng.choice(["integer", "boolean", "enum", "string", *(["object", "array"] if depth else [])])
    if kind == "enum":
        return {"enum": rng.sample(["red", "绿", 3, None, "a b"], 3)}
    if kind == "string":
        return {"type": "string", "maxLength": rng.randint(1, 5)}
    if kind == "integer":
        return {"type": "integer", "minimum": 0, "maximum": rng.randint(1, 99)}
    if kind == "array":
        return {"type": "array", "items": random_schema(rng, depth - 1), "minItems": 1, "maxItems": 2}
    if kind == "object":
        names = rng.sample(["id", "name", "名"], rng.randint(1, 2))
        inner = {name: random_schema(rng, depth - 1) for name in names}
        return {"type": "object", "properties": inner, "required": names, "additionalProperties": False}
    return {"type": "boolean"}


def valid(value: Any, schema: dict[str, Any]) -> bool:
    if "enum" in schema:
        return value in schema["enum"]
    kind = schema["type"]
    if kind == "string":
        return isinstance(value, str) and len(value) <= schema["maxLength"]
    if kind == "integer":
        return type(value) is int and 0 <= value <= schema["maximum"]
    if kind == "boolean":
        return isinstance(value, bool)
    if kind == "array":
        return isinstance(value, list) and 1 <= len(value) <= 2 and all(valid(v, schema["items"]) for v in value)
    inner = schema["properties"]
    return isinstance(value, dict) and value.keys() == inner.keys() and all(valid(value[n], inner[n]) for n in inner)


def test_random_schemas_are_never_violated(infiller: Infiller) -> None:
    rng, met = random.Random(7), 0
    for number in range(200):
        schema = random_schema(rng)
        (blank,) = answers(
            infiller, TEXTS[number % 4], json_schema=schema, temperature=0.8, seed=number, max_new_tokens=90
        )
        if blank.finish_reason == "stop":
            met += 1
            assert valid(json.loads(blank.text), schema), (schema, blank.text)
    assert met > 100


# --- the distribution ----------------------------------------------------------------------------


def test_restricted_sampling_has_the_models_distribution(infiller: Infiller) -> None:
    """Against the products of the model's own probabilities over what each prefix may go on with."""
    choices, draws, text = ["的", "的一", "一", "the old", "the river", "a"], 3000, "老师[MASK]走到了"
    scored = {each.fills[0]: each for each in infiller.choose(text, choices)}
    stop = infiller.tokenizer.markers.eop
    paths = {choice: (*scored[choice].token_ids[0], stop) for choice in choices}
    expected = {}
    for choice, path in paths.items():
        probability = 1.0
        for step, own in enumerate(path):
            ways = {}  # of every token that may follow this prefix, its probability
            for other, tokens in paths.items():
                if tokens[:step] == path[:step] and len(tokens) > step:
                    ways[tokens[step]] = np.exp(scored[other].token_logprobs[0][step])
            probability *= ways[own] / sum(ways.values())
        expected[choice] = probability
    assert sum(expected.values()) == pytest.approx(1)
    drawn = [
        blank.text
        for seed in range(draws // 100)
        for blank in answers(infiller, text, choices=choices, temperature=1.0, seed=seed, num_return_sequences=100)
    ]
    counts = np.array([drawn.count(choice) for choice in choices])
    wanted = np.array([expected[choice] * draws for choice in choices])
    assert counts.sum() == draws
    kept = wanted > 5
    chi2 = float(((counts - wanted)[kept] ** 2 / wanted[kept]).sum())
    assert chi2 < 25  # five degrees of freedom: 0.0001


def test_thousands_of_choices(infiller: Infiller) -> None:
    rng = random.Random(2)
    choices = ["".join(rng.choice("的一是the old river ") for _ in range(6)).strip() for _ in range(5000)]
    found = answers(infiller, "a [MASK].", choices=choices, num_beams=4, num_return_sequences=4)
    ranked = {each.fills[0]: each.logprob for each in infiller.choose("a [MASK].", sorted(set(choices))[:300])}
    for blank in found:
        assert blank.text in choices
        assert blank.logprob == pytest.approx(ranked.get(blank.text, blank.logprob), abs=1e-3)


# --- what cannot be ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"regex": "[a"}, OptionError, "unclosed character class"),
        ({"regex": "a", "required": "b"}, OptionError, "exclude each other"),
        ({"min_chars": 4, "max_chars": 3}, OptionError, "min_chars 4 exceeds max_chars 3"),
        ({"choices": []}, OptionError, "at least one"),
        ({"choices": ["a", None]}, InputError, "one of choices must be text"),
        ({"choices": ["the old teacher of the river"], "max_new_tokens": 2}, OptionError, "max_new_tokens is 2"),
        ({"choices": ["ab"], "regex": "c"}, OptionError, "none of the answers"),
        ({"regex": ["a", "b"]}, OptionError, "regex lists 2 values for a text with 1 blanks"),
        ({"json_schema": "{"}, OptionError, "json_schema is not JSON"),
        ({"json_schema": {"type": "object", "unevaluatedProperties": False}}, OptionError, "unevaluatedProperties"),
        ({"json_schema": {"type": "integer"}, "regex": "1"}, OptionError, "leave out regex"),
        ({"grammar": "start: foo"}, OptionError, 'unknown name: "foo"'),
        ({"bad_words": [""]}, OptionError, "empty text"),
        ({"min_chars": -1}, OptionError, "min_chars must be at least 0"),
        ({"whole_words": "yes"}, OptionError, "whole_words must be True or False"),
    ],
)
def test_errors_come_before_anything_is_decoded(infiller: Infiller, options: Any, error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        infiller.check("a [MASK]", **options)


def test_whole_words_beside_letters(infiller: Infiller) -> None:
    for text in ("un[MASK]", "[MASK]able"):
        with pytest.raises(InputError, match="inside a word"):
            infiller.check(text, whole_words=True)
    infiller.check("an [MASK], and", whole_words=True)


def test_a_condition_that_is_cut_off_says_so(infiller: Infiller) -> None:
    for way in WAYS:
        for blank in answers(infiller, "a [MASK] b", regex="[0-9]{20}", max_new_tokens=4, **way):
            assert (blank.finish_reason, len(blank.token_ids)) == ("unmet", 4)


def test_a_grammar(infiller: Infiller) -> None:
    grammar = 'start: item ("," item)*\nitem: "x" | "y" /[0-9]/'
    for blank in answers(infiller, "a [MASK]", grammar=grammar, temperature=1.0, seed=1, num_return_sequences=10):
        if blank.finish_reason == "stop":
            assert re.fullmatch(r"(x|y\d)(,(x|y\d))*", blank.text)
