"""Blanks are filled with every published vocabulary: what is not a blank stays, fills are plain text."""

from __future__ import annotations

import pytest
import torch

from openglm.data.tokenize import encode_documents
from openglm.errors import ContextLengthError, UnsupportedBlankError
from openglm.infill.infiller import Infiller
from openglm.network.config import GLMConfig
from openglm.network.model import GLMModel
from openglm.tokenizer import BertTokenizer, Tokenizer

TEXTS = [
    "Did the [MASK] walk to the river?",
    "[MASK] and [MASK].",
    "the old teacher [MASK]",
    " Two  spaces , [MASK]\n",
    "老师[MASK]医生。",
    "[CLS] is text, <|endofpiece|> too: [MASK]",
]


@pytest.fixture(scope="module", params=["chinese", "gpt2", "roberta", "bert"])
def published(request: pytest.FixtureRequest) -> Tokenizer:
    tokenizer: Tokenizer = request.getfixturevalue(request.param)
    return tokenizer


@pytest.fixture(scope="module")
def infiller(published: Tokenizer) -> Infiller:
    config = GLMConfig(
        num_layers=2,
        hidden_size=32,
        num_attention_heads=4,
        vocab_size=640,
        max_sequence_length=64,
        initializer_range=0.2,
        blanks=("[MASK]",),
    )
    torch.manual_seed(3)
    return Infiller(GLMModel(config).eval().requires_grad_(False), published)


@pytest.mark.parametrize("text", TEXTS)
def test_only_blanks_change(infiller: Infiller, text: str) -> None:
    filled = infiller.fill(text, max_new_tokens=8)
    rest, banned = filled.text, set(infiller.tokenizer.never_generated)
    for literal, blank in zip(text.split("[MASK]"), [*filled.blanks, None], strict=True):
        assert rest.startswith(literal)
        rest = rest.removeprefix(literal)
        if blank is not None:
            assert rest.startswith(blank.text)
            rest = rest.removeprefix(blank.text)
            assert not banned & set(blank.token_ids)
            assert all(0 <= token < infiller.tokenizer.num_tokens for token in blank.token_ids)
    assert not rest


@pytest.mark.parametrize("text", TEXTS)
def test_streaming_gives_the_same_text(infiller: Infiller, text: str) -> None:
    filled = infiller.fill(text, max_new_tokens=8)
    streamed = [""] * len(filled.blanks)
    for piece in infiller.stream(text, max_new_tokens=8):
        streamed[piece.blank] += piece.text
    assert streamed == [blank.text for blank in filled.blanks]


def test_scored_fills_have_the_tokens_of_running_text(infiller: Infiller) -> None:
    """An answer behind a space is scored as it would be written there."""
    tokenizer = infiller.tokenizer
    scored = infiller.score("Did the [MASK] walk?", "old teacher")
    assert scored.token_ids == [tokenizer.encode("the old teacher")[len(tokenizer.encode("the")) :]]
    assert scored.text == "Did the old teacher walk?"


def test_blanks_the_model_does_not_know(infiller: Infiller) -> None:
    with pytest.raises(UnsupportedBlankError, match=r"\[gMASK\]"):
        infiller.fill("the old [gMASK]")


def test_a_text_that_is_too_long(infiller: Infiller) -> None:
    with pytest.raises(ContextLengthError, match="context"):
        infiller.fill("the old teacher " * 100 + "[MASK]")


def test_documents_are_encoded(published: Tokenizer, text_lines: list[str]) -> None:
    """Training text: all ids fit, empty documents have no tokens, sentence ends are found."""
    texts = ["", *text_lines[:20]]
    encoded = encode_documents(texts, published)
    assert encoded.lengths.tolist() == [len(published.encode(text)) for text in texts]
    assert encoded.tokens.max() < published.num_tokens
    assert published.decode(encoded.tokens[: encoded.lengths[1]].tolist()) == (
        texts[1].lower() if isinstance(published, BertTokenizer) else texts[1]
    )
