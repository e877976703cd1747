"""The text that is returned is the text that is scored, whole and spelled as it is read: every vocabulary and way."""

from __future__ import annotations

import re
import unicodedata

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from openglm.errors import InputError
from openglm.infill.infiller import Infiller
from openglm.infill.results import Filled
from openglm.network.config import GLMConfig
from openglm.network.model import GLMModel
from openglm.tokenizer import BilingualTokenizer, ChineseTokenizer, Tokenizer
from openglm.vocabularies.writing import MISSING, NOWHERE, WritingRules

TEXTS = [
    "Hello [MASK]",
    "the [MASK] bridge, the [MASK]",
    "老师[MASK]走到了 [MASK]。",
    "a\t[MASK] \n[MASK]",
    "表情：😀 [MASK] 🎉[MASK]",
    "[MASK]",
    "un[MASK]able  [MASK] x",
]
WAYS = [
    {"max_new_tokens": 6},
    {"max_new_tokens": 1, "min_new_tokens": 1},
    {"max_new_tokens": 9, "min_new_tokens": 2, "temperature": 1.5, "seed": 5, "num_return_sequences": 6},
    {"max_new_tokens": 5, "temperature": 0.7, "top_k": 30, "top_p": 0.95, "seed": 8, "repetition_penalty": 1.4},
    {"max_new_tokens": 4, "num_beams": 5, "num_return_sequences": 5},
]


@pytest.fixture(scope="module", params=["bilingual", "chinese", "gpt2", "roberta", "bert"])
def vocabulary(request: pytest.FixtureRequest) -> Tokenizer:
    found: Tokenizer = request.getfixturevalue({"bilingual": "tokenizer"}.get(request.param, request.param))
    return found


def random_infiller(tokenizer: Tokenizer, seed: int = 3) -> Infiller:
    torch.manual_seed(seed)
    rows = -(-tokenizer.num_tokens // 128) * 128
    config = GLMConfig(1, 32, 2, rows, max_sequence_length=64, blanks=("[MASK]",), initializer_range=0.2)
    return Infiller(GLMModel(config).eval().requires_grad_(False), tokenizer)


@pytest.fixture(scope="module")
def infiller(vocabulary: Tokenizer) -> Infiller:
    return random_infiller(vocabulary)


def same_numbers(infiller: Infiller, text: str, filled: Filled) -> None:
    scored = infiller.score(text, filled.blanks)
    assert scored.text == filled.text
    for own, blank in zip(scored.token_logprobs, filled.blanks, strict=True):
        assert own == pytest.approx(blank.token_logprobs, abs=1e-3)
    assert scored.logprob == pytest.approx(filled.logprob, abs=1e-2)
    if isinstance(infiller.tokenizer, ChineseTokenizer):
        return
    # Without their tokens: the text alone says the same, but where byte pairs divide a character.
    texts = [blank.text for blank in filled.blanks]
    rules, bilingual = infiller.tokenizer.writing_rules, isinstance(infiller.tokenizer, BilingualTokenizer)
    if not bilingual and any(rules.after[0, token] for blank in filled.blanks for token in blank.token_ids):
        return
    scored = infiller.score(text, texts)
    assert scored.token_ids == [blank.token_ids for blank in filled.blanks]
    for own, blank in zip(scored.token_logprobs, filled.blanks, strict=True):
        assert own[: len(blank.token_logprobs)] == pytest.approx(blank.token_logprobs, abs=1e-3)


@pytest.mark.parametrize("options", WAYS)
def test_score_of_a_fill_is_its_logprob(infiller: Infiller, options: dict[str, float]) -> None:
    for text, result in zip(TEXTS, infiller.fill(TEXTS, **options), strict=True):  # type: ignore[call-overload]
        for filled in result.answers:
            same_numbers(infiller, text, filled)


@pytest.mark.parametrize("options", WAYS)
def test_fills_are_whole_text(infiller: Infiller, options: dict[str, float]) -> None:
    for text, result in zip(TEXTS, infiller.fill(TEXTS, **options), strict=True):  # type: ignore[call-overload]
        parts = text.split("[MASK]")
        for filled in result.answers:
            for before, blank in zip(parts, filled.blanks, strict=False):
                assert "\ufffd" not in blank.text
                assert "⁇" not in blank.text
                assert not set(blank.token_ids) & set(infiller.tokenizer.never_generated)
                assert blank.token_ids or not options.get("min_new_tokens")
                assert blank.text or not blank.token_ids
                if infiller.tokenizer.brings_space(before) and blank.text:
                    assert not blank.text[0].isspace()
                    assert infiller.tokenizer.decode(blank.token_ids) == f" {blank.text}"


@given(st.integers(0, 2**31), st.sampled_from(TEXTS), st.integers(1, 8))
def test_samples_of_the_small_vocabulary(tokenizer: BilingualTokenizer, seed: int, text: str, most: int) -> None:
    infiller = random_infiller(tokenizer)
    result = infiller.fill(text, temperature=2.0, seed=seed, max_new_tokens=most)
    assert "\ufffd" not in result.text
    same_numbers(infiller, text, result)


def test_bytes_are_finished_within_the_limit(tokenizer: BilingualTokenizer) -> None:
    """With nothing but bytes to write, every length gives whole characters."""
    infiller = random_infiller(tokenizer)
    first = tokenizer.encode("\U0001f600")[0]
    infiller._planner._stop_tokens.banned[:] = True
    infiller._planner._stop_tokens.banned[[first + 1, first, *range(1, 257), *infiller._planner._stop_tokens.ids]] = (
        False
    )
    for most in range(1, 9):
        result = infiller.fill("a[MASK]", temperature=3.0, seed=most, num_return_sequences=40, max_new_tokens=most)
        for filled in result.answers:
            assert "\ufffd" not in filled.text
            assert len(filled.blanks[0].token_ids) <= most


def test_pieces_put_together_are_the_text(infiller: Infiller) -> None:
    for text in TEXTS:
        filled = infiller.fill(text, max_new_tokens=6, temperature=1.0, seed=4)
        pieces = list(infiller.stream(text, max_new_tokens=6, temperature=1.0, seed=4))
        for number, blank in enumerate(filled.blanks):
            assert "".join(piece.text for piece in pieces if piece.blank == number) == blank.text


def test_an_answer_of_unknown_characters_is_refused(infiller: Infiller) -> None:
    tokenizer = infiller.tokenizer
    unknown = "".join(
        c for c in map(chr, range(0x10300, 0x10360)) if unicodedata.category(c) == "Lo"
    )  # Old Italic and Gothic
    if tokenizer.unknown_id is None:
        assert re.sub(r"\s", "", tokenizer.decode(tokenizer.encode(unknown))) == unknown
        return
    with pytest.raises(InputError, match="vocabulary does not know"):
        infiller.choose("a [MASK]", ["b", unknown])
    with pytest.raises(InputError, match="vocabulary does not know"):
        infiller.score("a [MASK]", unknown)


def test_empty_answers_have_no_tokens(infiller: Infiller) -> None:
    assert infiller.score("the [MASK] bridge", "").token_ids == [[]]


def test_states_inside_characters_are_those_of_the_decoder() -> None:
    every = [bytes([b]) for b in range(256)]
    rules = WritingRules.of([*every, "é".encode(), b"\xbd\xa0a"], np.zeros(258, np.bool_))
    for code in (*range(0, 0x110000, 97), 0xD7FF, 0xE000, 0xFFFF, 0x10000, 0x10FFFF):
        if 0xD800 <= code < 0xE000:
            continue
        state, spelled = 0, chr(code).encode()
        for number, byte in enumerate(spelled):
            assert MISSING[state] == (len(spelled) - number if number else 0)
            state = int(rules.after[state, byte])
            assert state != NOWHERE
        assert state == 0
    for wrong in (b"\x80", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe4a", b"\xff", b"\xe0\x80\x80"):
        state = 0
        for byte in wrong:
            state = int(rules.after[state, byte]) if state != NOWHERE else NOWHERE
        assert state == NOWHERE
    assert rules.after[0, 257] == NOWHERE
    assert rules.after[4, 257] == 0
