"""Every string recorded from the research code's and FlagAI's tokenizers, under every table of special tokens."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openglm.checkpoints.published import PUBLISHED, PublishedModel
from openglm.tokenizer import (
    BertTokenizer,
    ChineseTokenizer,
    GPT2Tokenizer,
    RobertaTokenizer,
    Tokenizer,
    load_tokenizer,
)

FOLDERS = {"gpt2": "gpt2", "roberta": "roberta", "bert": "bert-base-uncased"}
NAMES = {"ENC": "cls", "MASK": "mask"}  # what the research code calls them

# name in the recording -> (kind, settings)
THUDM: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2_task_mask": ("gpt2", {}),
    "gpt2_task_mask_decoder_mask": ("gpt2", {"decoder_mask": True}),
    "roberta": ("roberta", {}),
    "roberta_task_mask": ("roberta", {"task_masks": True}),
    "bert_base": ("bert", {}),
    "bert_task_mask": ("bert", {"task_masks": True, "decoder_mask": True}),
    "chinese_sp_fix": ("chinese", {}),
    "chinese_sp_nofix": ("chinese", {"fix_command_token": False}),
}
FLAGAI: dict[str, tuple[str, dict[str, Any]]] = {
    "GLM-10b-en": ("gpt2", {"numbering": "flagai"}),
    "GLM-large-en": ("bert", {"task_masks": True}),
    "GLM-large-en-decoder-mask": ("bert", {"task_masks": True, "decoder_mask": True}),
    "GLM-large-en-no-task-mask": ("bert", {}),
}
CASES = {"thudm": 239, "flagai": 134}


def build(vocabularies: Path, kind: str, settings: dict[str, Any]) -> Tokenizer:
    if kind == "chinese":
        return ChineseTokenizer(vocabularies / "cog-pretrain.model", **settings)
    folder = vocabularies / FOLDERS[kind]
    if kind == "bert":
        return BertTokenizer(folder / "vocab.txt", **settings)
    byte_pairs = GPT2Tokenizer if kind == "gpt2" else RobertaTokenizer
    return byte_pairs(folder / "vocab.json", folder / "merges.txt", **settings)


@pytest.fixture(scope="module")
def recorded(reference: Path) -> dict[str, dict[str, Any]]:
    files = {"thudm": "tokenizer_thudm.json", "flagai": "tokenizer_flagai_english.json"}
    return {code: json.loads((reference / name).read_text(encoding="utf-8")) for code, name in files.items()}


@pytest.fixture(scope="module", params=[*(("thudm", n) for n in THUDM), *(("flagai", n) for n in FLAGAI)], ids="-".join)
def pair(
    request: pytest.FixtureRequest, recorded: dict[str, dict[str, Any]], published_vocabularies: Path
) -> tuple[Tokenizer, dict[str, Any]]:
    """One recorded tokenizer and ours."""
    code, name = request.param
    content = recorded[code][name]
    assert len(content["cases"]) == CASES[code]
    return build(published_vocabularies, *{"thudm": THUDM, "flagai": FLAGAI}[code][name]), content


def test_all_recordings_are_there(recorded: dict[str, dict[str, Any]]) -> None:
    assert recorded["thudm"].keys() == THUDM.keys()
    assert recorded["flagai"].keys() == FLAGAI.keys()


def test_special_tokens(pair: tuple[Tokenizer, dict[str, Any]]) -> None:
    tokenizer, content = pair
    tokens = content["special_tokens"]
    if isinstance(tokens, dict):
        texts = content["special_token_text"]
        tokens = [(NAMES.get(name, name.lower()), texts[name], token) for name, token in tokens.items()]
    else:  # FlagAI registers one more that it calls `mask`
        lowered = [(name.lower(), text, token) for name, text, token in tokens]
        tokens = [("addnew" if text == "<addnew>" else name, text, token) for name, text, token in lowered]
    assert tokenizer.special == {name: token for name, _, token in tokens}
    assert tokenizer.special_text == {name: text for name, text, _ in tokens}
    assert tokenizer.num_tokens == content["num_tokens"]


def test_ids(pair: tuple[Tokenizer, dict[str, Any]]) -> None:
    tokenizer, content = pair
    wrong = {
        case["text"]: (found, case["ids"])
        for case in content["cases"]
        if (found := tokenizer.encode(case["text"], allow_special=True)) != case["ids"]
    }
    assert not wrong


def test_decoding(pair: tuple[Tokenizer, dict[str, Any]]) -> None:
    tokenizer, content = pair
    decode = tokenizer.decode_spaced if isinstance(tokenizer, BertTokenizer) else tokenizer.decode
    wrong = {
        case["text"]: (found, case["decoded"])
        for case in content["cases"]
        if (found := decode(case["ids"])) != case["decoded"]
    }
    assert not wrong


def test_decoding_step_by_step(pair: tuple[Tokenizer, dict[str, Any]]) -> None:
    tokenizer, content = pair
    for case in content["cases"]:
        decoder = tokenizer.decoder()
        pieces = [decoder.push(token) for token in case["ids"]]
        assert "".join(pieces) + decoder.finish() == tokenizer.decode(case["ids"])


def test_ordinary_text_is_never_special(pair: tuple[Tokenizer, dict[str, Any]]) -> None:
    tokenizer, content = pair
    special = set(tokenizer.special.values()) - {tokenizer.special["unk"]}
    for case in content["cases"]:
        assert not special & set(tokenizer.encode(case["text"]))


def test_ordinary_text_comes_back(pair: tuple[Tokenizer, dict[str, Any]]) -> None:
    """Byte pairs give back every recorded text; WordPiece its own tokens."""
    tokenizer, content = pair
    for case in content["cases"]:
        ids = tokenizer.encode(case["text"])
        if isinstance(tokenizer, (GPT2Tokenizer, RobertaTokenizer)):
            assert tokenizer.decode(ids) == case["text"]
        elif isinstance(tokenizer, BertTokenizer) and tokenizer.special["unk"] not in ids:
            assert tokenizer.encode(tokenizer.decode(ids)) == ids


def test_files(pair: tuple[Tokenizer, dict[str, Any]], tmp_path: Path) -> None:
    tokenizer, content = pair
    for name, written in tokenizer.files().items():
        (tmp_path / name).write_bytes(written)
    again = load_tokenizer(tmp_path)
    assert (type(again), again.identity, again.special) == (type(tokenizer), tokenizer.identity, tokenizer.special)
    for case in content["cases"][:20]:
        assert again.encode(case["text"], allow_special=True) == case["ids"]


# --- a model's own table ------------------------------------------------------------------------


def folder_of(model: PublishedModel, vocabularies: Path, target: Path) -> Path:
    if model.vocabulary == "chinese":
        shutil.copy(vocabularies / "cog-pretrain.model", target)
    else:
        shutil.copytree(vocabularies / FOLDERS[model.vocabulary], target, dirs_exist_ok=True)
    return target


@pytest.mark.parametrize("model", PUBLISHED, ids=lambda model: model.name)
def test_every_published_model(model: PublishedModel, published_vocabularies: Path, tmp_path: Path) -> None:
    """The table follows from the model and its vocabulary fits its rows."""
    folder = folder_of(model, published_vocabularies, tmp_path)
    tokenizer = load_tokenizer(folder, layout=model.layout, rows=model.rows)
    assert {name: id_ for name, id_ in tokenizer.special.items() if name != "pad"} == model.special_tokens
    assert tokenizer.special["pad"] == tokenizer.special["eos"]
    assert -(-tokenizer.num_tokens // 128) * 128 == model.rows
    # Without being told, from the model's configuration.
    sizes = {"num_layers": model.layers, "hidden_size": model.width, "vocab_size": model.rows}
    (folder / "config.json").write_text(json.dumps(sizes), encoding="utf-8")
    assert load_tokenizer(folder, rows=model.rows).identity == tokenizer.identity


def test_the_hub_s_chinese_folder(reference: Path) -> None:
    """As the hub's own code reads it: between `[CLS]` and the end of text.

    Only the wording `[UNK]` is another token there, by oversight: the vocabulary's own `<unk>`.
    """
    folder = reference / "hf-tiny"
    tokenizer = load_tokenizer(folder, rows=50_048)
    assert isinstance(tokenizer, ChineseTokenizer)
    assert tokenizer.special["gmask"] == 50_009
    cases = json.loads((folder / "cases.json").read_text(encoding="utf-8"))["tokenizer"]
    assert len(cases) > 5
    for case in cases:
        ids = tokenizer.encode(case["text"], allow_special=True)
        as_there = [0 if token == tokenizer.special["unk"] else token for token in ids]
        assert [tokenizer.cls, *as_there, tokenizer.eos] == case["ids"]


# --- the real vocabularies beyond the recorded texts ------------------------------------------------

ENGLISH = [
    "Ng is an adjunct professor at Stanford (formerly associate professor), isn't he?",
    "In the U.S., 3.14159 is about 3.14; at 7:30 p.m. 1,234,567 people paid $5.50 (50%).",
    "She said: \"I don't think so.\" It's the boys' room, a well-known e-mail address.",
]


@pytest.fixture(scope="module", params=["gpt2", "roberta", "bert"])
def english(request: pytest.FixtureRequest, published_vocabularies: Path) -> Tokenizer:
    return build(published_vocabularies, request.param, {})


@pytest.mark.parametrize("text", ENGLISH)
def test_english_comes_back(english: Tokenizer, text: str) -> None:
    found = english.decode(english.encode(text))
    assert found == (text.lower() if isinstance(english, BertTokenizer) else text)


@given(text=st.text(max_size=30))
def test_any_text(english: Tokenizer, text: str) -> None:
    ids = english.encode(text)
    assert all(0 <= token < english.num_tokens for token in ids)
    if not isinstance(english, BertTokenizer):
        assert english.decode(ids) == text


@given(ids=st.lists(st.integers(0, 50_303), max_size=30))
def test_any_ids_decode_step_by_step(english: Tokenizer, ids: list[int]) -> None:
    """Also those of a model's padding rows."""
    decoder = english.decoder()
    assert "".join([*map(decoder.push, ids), decoder.finish()]) == english.decode(ids)


def test_fills_read_naturally(english: Tokenizer, published_vocabularies: Path) -> None:
    """A fill decoded alone, as it stands behind `Ng is a `, and in the tokens a model gives."""
    for fill in ("professor at Stanford", "well-known, state-of-the-art teacher", "doctor's son (born 1976)"):
        placed = english.answer_in_place("Ng is a ", fill)
        ids = english.encode(placed)
        expected = fill.lower() if isinstance(english, BertTokenizer) else fill
        assert english.decode(ids).removeprefix(" ") == expected
        whole = english.encode(english.trim_before_blank("Ng is a ")) + ids
        assert whole == english.encode(f"Ng is a {fill}")


def test_the_whole_vocabulary_is_spelled(english: Tokenizer) -> None:
    """Every token reads as something."""
    assert all(english.token_text(token) for token in range(english.num_tokens))
    assert english.sentence_ends.any()
    assert english.word_joins[0].any()


def test_chinese_in_every_vocabulary(english: Tokenizer) -> None:
    text = "北京是中国的首都，“天安门”在那里。"
    found = english.decode(english.encode(text))
    if isinstance(english, BertTokenizer):
        assert " " not in found.replace(" [UNK]", "[UNK]").replace("[UNK] ", "[UNK]")
    else:
        assert found == text
