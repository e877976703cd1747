"""Spaces come back where English and Chinese have them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openglm.vocabularies.detokenize import Detokenizer

TEXTS = [
    "it's the boys' room, isn't it? \"yes,\" he said, \"i don't think so.\"",
    "in the u.s.a. and the u.k., 3.14159 is about 3.14; at 7:30 p.m. 1,234,567.89 people paid $5.50 (50%).",
    "he said 'hello' at two o'clock; rock 'n' roll of the 1960's, and they've gone: we'll see.",
    "a well-known, state-of-the-art e-mail address is user@example.com!",
    "see http://www.example.com/path_to/file.txt, [1] or {x}, and/or 24/7.",
    "the scores were 3-2, on pages 10–15 – or later -- who knows...",
    "it fell to -5, (-7 in places), says item #1 of chapter 12 on covid-19.",
    "plan b. a man came with j.r.r. tolkien, e.g. by train, i.e. late.",
    "in 2010, 300 people saw “curly” and ‘inner’ quotes; it’s true.",
    "“to be, or not to be”: that is the question?!",
    "北京是中国的首都，“天安门”在那里。我love你！《红楼梦》（小说）……",
    "x == y ** 2 && z",
    "version v2.0 is 6'2 tall.",
    "こんにちは世界",
    "",
]


def words_of(text: str) -> list[str]:
    """Runs of letters and digits, single Chinese characters, single marks."""
    return re.findall(r"[a-z0-9ぁ-ん]+|[^\sa-z0-9ぁ-ん]", text)


def detokenized(words: list[str]) -> str:
    detokenizer = Detokenizer()
    return "".join([*map(detokenizer.push, words), detokenizer.finish()])


@pytest.mark.parametrize("text", TEXTS)
def test_text_comes_back(text: str) -> None:
    assert detokenized(words_of(text)) == text


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("' 90s .", "'90s."),  # a quotation mark that nothing closes stands before its word
        ('" open', '"open'),
        ("end '", "end'"),
        (". , !", ".,!"),
        ("[MASK] . [MASK]", "[MASK]. [MASK]"),
        ("北 [MASK] 京", "北[MASK]京"),
        ("says ' no '", "says 'no'"),
    ],
)
def test_corners(words: str, text: str) -> None:
    assert detokenized(words.split()) == text


words = st.lists(st.sampled_from([*"',.-–\"()#:$/*。中a", "s", "12", "345", "word", "com", "[MASK]"]), max_size=20)


@given(words=words, grown=st.sets(st.integers(0, 19)))
def test_words_that_grow(words: list[str], grown: set[int]) -> None:
    """A word given in parts stands where the whole word would."""
    detokenizer, text = Detokenizer(), ""
    for i, word in enumerate(words):
        text += detokenizer.push(word[:1] if i in grown else word)
        if i in grown and word[1:]:
            text += detokenizer.extend(word[1:])
    assert text + detokenizer.finish() == detokenized(words)


@given(words=words)
def test_only_spaces_are_added(words: list[str]) -> None:
    text = detokenized(words)
    assert text.replace(" ", "") == "".join(words)
    assert "  " not in text
    assert text == text.strip()


@given(words=words)
def test_words_are_never_joined(words: list[str]) -> None:
    """Two words side by side stay two: only marks and Chinese characters stand close."""
    plain = [word for word in words if word.isascii() and word.isalnum()]
    assert detokenized(plain).split(" ") == (plain or [""])


def test_an_ending_without_a_word() -> None:
    detokenizer = Detokenizer()
    assert detokenizer.extend("ness") + detokenizer.push("of") + detokenizer.finish() == "ness of"
