"""A saved model of the modern architecture through what users hold in hand: loading, filling, choosing, int8."""

from __future__ import annotations

from pathlib import Path

import pytest

import openglm
from openglm.checkpoints.native import load_model, save_model
from openglm.network.config import GLMConfig
from openglm.tokenizer import BilingualTokenizer

from ..conftest import random_model

TEXT = "The old [MASK] walked to the river, and a [MASK] did not. [gMASK]"


@pytest.fixture
def folder(tmp_path: Path, tiny_config: GLMConfig, tokenizer: BilingualTokenizer) -> Path:
    names = ("num_layers", "hidden_size", "num_attention_heads", "vocab_size", "max_sequence_length")
    config = GLMConfig(**{name: getattr(tiny_config, name) for name in names}, architecture="modern")
    save_model(tmp_path / "modern", random_model(config, 0.2), tokenizer)
    return tmp_path / "modern"


def test_a_folder_holds_the_architecture(folder: Path) -> None:
    model = load_model(folder)
    assert model.config.architecture == "modern"
    assert model.config.num_parameters == sum(each.numel() for each in model.parameters())


def test_fills_are_scored_as_they_were_found(folder: Path) -> None:
    infiller = openglm.load(folder, dtype="float32")
    filled = infiller.fill(TEXT, max_new_tokens=4, num_beams=3)
    scored = infiller.score(TEXT, [blank.text for blank in filled.blanks])
    for blank, found in zip(filled.blanks, scored.token_logprobs, strict=True):
        if blank.finish_reason == "end":
            assert blank.logprob == pytest.approx(sum(found), abs=1e-3)
    together = infiller.fill([TEXT, "A [MASK]."], max_new_tokens=4, num_beams=3)
    assert together[0].text == filled.text


@pytest.mark.parametrize("options", [{"dtype": "bfloat16"}, {"quantize": "int8"}], ids=str)
def test_narrow_weights_choose_alike(folder: Path, options: dict[str, str]) -> None:
    choices = ["teacher", "two horses", "the market"]
    exact = openglm.load(folder, dtype="float32").choose("The old [MASK] walked.", choices)
    narrow = openglm.load(folder, **options).choose("The old [MASK] walked.", choices)
    found = {each.text: each.logprob for each in narrow}
    for each in exact:
        assert found[each.text] == pytest.approx(each.logprob, abs=0.35)
