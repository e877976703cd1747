"""Every string recorded from the original Chinese tokenizers, under every table of special tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openglm.blanks import BlankKind
from openglm.errors import UnsupportedBlankError
from openglm.tokenizer import SPECIAL_TEXT, ChineseTokenizer, load_tokenizer

CONFIGS = 5
CASES = 260


@pytest.fixture(scope="module")
def recorded(reference: Path) -> list[dict[str, Any]]:
    configs: list[dict[str, Any]] = json.loads((reference / "tokenizer.json").read_text(encoding="utf-8"))["configs"]
    return configs


@pytest.fixture(scope="module", params=range(CONFIGS))
def pair(
    request: pytest.FixtureRequest, recorded: list[dict[str, Any]], chinese_vocabulary: Path
) -> tuple[ChineseTokenizer, dict[str, Any]]:
    """One recorded configuration and our tokenizer for it."""
    config = recorded[request.param]
    flags = config["flags"]
    tokenizer = ChineseTokenizer(
        chinese_vocabulary,
        fix_command_token=flags["fix_command_token"],
        task_masks=flags["add_task_mask"],
        decoder_mask=flags["add_decoder_mask"],
    )
    return tokenizer, config


@pytest.fixture(scope="module")
def chinese(chinese_vocabulary: Path) -> ChineseTokenizer:
    return ChineseTokenizer(chinese_vocabulary)


def test_all_configurations_are_there(recorded: list[dict[str, Any]]) -> None:
    assert len(recorded) == CONFIGS
    assert [len(config["cases"]) for config in recorded] == [CASES] * CONFIGS
    assert len({json.dumps(config["flags"], sort_keys=True) for config in recorded}) == CONFIGS
    assert all(config["flags"]["add_block_symbols"] for config in recorded)


def test_special_tokens(pair: tuple[ChineseTokenizer, dict[str, Any]]) -> None:
    tokenizer, config = pair
    assert tokenizer.special == {name.lower(): token for name, token in config["special_tokens"].items()}
    assert tokenizer.num_pieces == 50_000
    assert tokenizer.num_tokens == config["unified_num_tokens"] == config["legacy_num_tokens"]
    for name, text in config["special_token_text"].items():
        assert SPECIAL_TEXT[name.lower()] == text
        assert tokenizer.encode(text, allow_special=True) == [config["special_tokens"][name]]


def test_tokens_that_may_not_be_generated(pair: tuple[ChineseTokenizer, dict[str, Any]]) -> None:
    """The original also bans the end of text and, by its names, forgets [gMASK]; ours bans what spells nothing too."""
    tokenizer, config = pair
    special = tokenizer.special
    ours = set(tokenizer.never_generated)
    recorded = (set(config["banned_when_sampling"]) | set(special.values())) - {special["eop"], special["eos"]}
    assert recorded <= ours
    assert not ours & {special["eos"], special["eop"]}
    unknown_and_control = {0, 1, 2}
    nameless = set(range(tokenizer.num_pieces, tokenizer.num_tokens)) - set(special.values())
    assert ours - recorded == unknown_and_control | nameless


def test_ids(pair: tuple[ChineseTokenizer, dict[str, Any]]) -> None:
    tokenizer, config = pair
    wrong = {
        case["text"]: (found, case["ids"])
        for case in config["cases"]
        if (found := tokenizer.encode(case["text"], allow_special=True)) != case["ids"]
    }
    assert not wrong


def test_decoding(pair: tuple[ChineseTokenizer, dict[str, Any]]) -> None:
    """The older class puts nothing around special tokens, the newer one a space behind each."""
    tokenizer, config = pair
    wrong = {
        case["text"]: (older, newer)
        for case in config["cases"]
        if (older := tokenizer.decode(case["ids"])) != case["decoded_legacy"]
        or (newer := tokenizer.decode(case["ids"], after_special=" ").strip()) != case["decoded_unified"]
    }
    assert not wrong


def test_decoding_step_by_step(pair: tuple[ChineseTokenizer, dict[str, Any]]) -> None:
    tokenizer, config = pair
    for case in config["cases"]:
        decoder = tokenizer.decoder()
        pieces = [decoder.push(token) for token in case["ids"]]
        assert "".join(pieces) + decoder.finish() == case["decoded_legacy"]


def test_ordinary_text_is_never_special(pair: tuple[ChineseTokenizer, dict[str, Any]]) -> None:
    tokenizer, config = pair
    for case in config["cases"]:
        assert all(token < tokenizer.num_pieces for token in tokenizer.encode(case["text"]))


def test_blanks(pair: tuple[ChineseTokenizer, dict[str, Any]]) -> None:
    tokenizer, config = pair
    special = config["special_tokens"]
    assert tokenizer.blank_id(BlankKind.MASK) == special["mask"]
    if config["flags"]["add_task_mask"]:
        assert tokenizer.blank_id(BlankKind.SMASK) == special["sMASK"]
        assert tokenizer.blank_id(BlankKind.GMASK) == special["gMASK"]
    else:
        with pytest.raises(UnsupportedBlankError, match=r"\[gMASK\]"):
            tokenizer.blank_id(BlankKind.GMASK)


def test_files(pair: tuple[ChineseTokenizer, dict[str, Any]], tmp_path: Path) -> None:
    tokenizer, config = pair
    for name, content in tokenizer.files().items():
        (tmp_path / name).write_bytes(content)
    again = load_tokenizer(tmp_path)
    assert isinstance(again, ChineseTokenizer)
    assert again.special == tokenizer.special
    assert again.identity == tokenizer.identity
    text = config["cases"][0]["text"]
    assert again.encode(text) == tokenizer.encode(text)


def test_tables_have_different_identities(chinese_vocabulary: Path) -> None:
    """The same vocabulary file with another table of special tokens is another tokenizer."""
    tables = [
        ChineseTokenizer(chinese_vocabulary, fix_command_token=fix, decoder_mask=noise).identity
        for fix in (True, False)
        for noise in (True, False)
    ]
    assert len(set(tables)) == 4


@given(ids=st.lists(st.integers(0, 50_047), max_size=30))
def test_any_ids_decode_step_by_step(chinese: ChineseTokenizer, ids: list[int]) -> None:
    """Also ids of the padding rows, which no vocabulary knows."""
    decoder = chinese.decoder()
    assert "".join([*map(decoder.push, ids), decoder.finish()]) == chinese.decode(ids)
