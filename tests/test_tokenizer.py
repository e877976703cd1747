"""The bilingual tokenizer gives every text back; special wording is special only on request."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openglm.blanks import BlankKind
from openglm.data.tokenizer_training import train_vocabulary
from openglm.errors import DataError, OptionError, TokenizerError
from openglm.tokenizer import CONFIG_FILE, MODEL_FILE, SPECIAL_TEXT, BilingualTokenizer, load_tokenizer

NAMES = [name for name in SPECIAL_TEXT if name in (*BilingualTokenizer.NAMES, "pad")]

# Everything that has ever been special to a tokenizer, and what is easily lost.
DELICATE = [
    *SPECIAL_TEXT.values(),
    *("\u2581", "\u2581\u2581", " ", "  ", "\n", "\r\n", "\t", "\0", "\x7f", "\u00a0", "\u3000", "\ufeff", "\u200b"),
    *("\ufffd", "\u2585", "\u2047", "<unk>", "<s>", "</s>", "<0x41>", "<0xE2>", "<n>", "▁the", "e\u0301", "é", "ﬁ"),
    *("，。？！", "ａｂｃ１２", "①", "中文", "繁體", "한국어", "العربية"),
    *("👩‍👩‍👧", "🇨🇳", "\U0010ffff", "\ue000", "the", "1984"),
]
delicate_texts = st.lists(st.one_of(st.sampled_from(DELICATE), st.text(max_size=4)), max_size=12).map("".join)


@settings(max_examples=400)
@given(text=st.one_of(st.text(), delicate_texts))
def test_text_comes_back_exactly(tokenizer: BilingualTokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(0 <= token < tokenizer.num_pieces for token in ids), "ordinary text became a special token"


@pytest.mark.parametrize("text", DELICATE)
def test_delicate_text_comes_back_exactly(tokenizer: BilingualTokenizer, text: str) -> None:
    for around in (text, f" {text}", f"{text} ", f"a{text}b", f"的{text}的", text * 3):
        assert tokenizer.decode(tokenizer.encode(around)) == around


def test_every_character_comes_back(tokenizer: BilingualTokenizer) -> None:
    """All of Unicode but the surrogates, in order."""
    everything = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    for start in range(0, len(everything), 50_000):
        text = "".join(everything[start : start + 50_000])
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_megabyte_comes_back(tokenizer: BilingualTokenizer, text_lines: list[str]) -> None:
    rng = random.Random(2)
    parts: list[str] = []
    size = 0
    while size < 1_000_000:
        part = rng.choice([*text_lines, *DELICATE, "x" * 200, " " * 100])
        parts.append(part)
        size += len(part.encode())
    text = "".join(parts)
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(text=st.text())
def test_trained_text_is_shorter_in_tokens(tokenizer: BilingualTokenizer, text: str) -> None:
    """Never more tokens than bytes."""
    assert len(tokenizer.encode(text)) <= len(text.encode())


def test_known_words_are_pieces(tokenizer: BilingualTokenizer, text_lines: list[str]) -> None:
    text = "\n".join(text_lines)
    assert len(tokenizer.encode(text)) < len(text.encode()) / 2


@given(before=st.text(max_size=10), after=st.text(max_size=10), name=st.sampled_from(NAMES))
def test_special_wording_is_ordinary_text(tokenizer: BilingualTokenizer, before: str, after: str, name: str) -> None:
    text = before + SPECIAL_TEXT[name] + after
    ids = tokenizer.encode(text)
    assert not set(ids) & set(tokenizer.special.values())
    assert tokenizer.decode(ids) == text


@given(before=st.text(max_size=10), after=st.text(max_size=10), name=st.sampled_from(NAMES))
def test_special_wording_on_request(tokenizer: BilingualTokenizer, before: str, after: str, name: str) -> None:
    ids = tokenizer.encode(before + SPECIAL_TEXT[name] + after, allow_special=True)
    token = tokenizer.special[name]
    left = ids[: ids.index(token)]
    # One space in front of a blank is left to what will fill it.
    blank = name in ("mask", "smask", "gmask")
    assert tokenizer.decode(left) == (before.removesuffix(" ") if blank else before)
    assert tokenizer.decode(ids[len(left) + 1 :]) == after
    assert tokenizer.decode(ids) == tokenizer.decode(left) + SPECIAL_TEXT[name] + after


def test_two_special_tokens_side_by_side(tokenizer: BilingualTokenizer) -> None:
    special = tokenizer.special
    ids = tokenizer.encode("[CLS] a  [MASK][sMASK] <|endoftext|>", allow_special=True)
    assert ids == [
        special["cls"],
        *tokenizer.encode(" a "),
        special["mask"],
        special["smask"],
        *tokenizer.encode(" "),
        special["eos"],
    ]


def test_special_ids(tokenizer: BilingualTokenizer) -> None:
    assert tokenizer.num_pieces == 600
    assert tokenizer.num_tokens == 600 + len(BilingualTokenizer.NAMES)
    assert sorted(set(tokenizer.special.values())) == list(range(600, tokenizer.num_tokens))
    assert tokenizer.special["pad"] == tokenizer.eos
    assert {tokenizer.blank_id(kind) for kind in BlankKind} == {
        tokenizer.special[name] for name in ("mask", "smask", "gmask")
    }
    assert (tokenizer.markers.sop, tokenizer.markers.eop) == (tokenizer.special["sop"], tokenizer.special["eop"])
    unknown = 0
    ending = {tokenizer.eos, tokenizer.markers.eop}
    assert set(tokenizer.never_generated) == {unknown, *tokenizer.special.values()} - ending


# Ids as a model may write them: half characters, special tokens, rows past the vocabulary.
any_ids = st.lists(st.one_of(st.integers(0, 639), st.integers(1, 256), st.integers(600, 608)), max_size=40)


@settings(max_examples=400)
@given(ids=any_ids)
def test_decoding_step_by_step(tokenizer: BilingualTokenizer, ids: list[int]) -> None:
    decoder = tokenizer.decoder()
    assert "".join([*map(decoder.push, ids), decoder.finish()]) == tokenizer.decode(ids)


@given(text=delicate_texts)
def test_nothing_half_finished_is_shown(tokenizer: BilingualTokenizer, text: str) -> None:
    """What has been pushed is always the beginning of the text."""
    decoder, shown = tokenizer.decoder(), ""
    for token in tokenizer.encode(text):
        shown += decoder.push(token)
        assert text.startswith(shown)
    assert shown + decoder.finish() == text


def test_broken_bytes_become_replacement_characters(tokenizer: BilingualTokenizer) -> None:
    def byte(value: int) -> int:
        found = [i for i in range(tokenizer.num_pieces) if tokenizer.token_text(i) == f"<0x{value:02X}>"]
        assert len(found) == 1
        return found[0]

    whole = [byte(b) for b in "鼎".encode()]
    assert tokenizer.decode(whole) == "鼎"
    assert tokenizer.decode(whole[:2]) == "\ufffd"
    assert tokenizer.decode([*whole[:1], *tokenizer.encode("a")]) == "\ufffda"
    decoder = tokenizer.decoder()
    assert [decoder.push(token) for token in whole] == ["", "", "鼎"]
    assert decoder.push(whole[0]) == ""
    assert decoder.finish() == "\ufffd"


def test_decoding_options(tokenizer: BilingualTokenizer) -> None:
    ids = [tokenizer.cls, *tokenizer.encode("ab"), tokenizer.special["mask"], *tokenizer.encode("c"), tokenizer.eos]
    assert tokenizer.decode(ids) == "[CLS]ab[MASK]c<|endoftext|>"
    assert tokenizer.decode(ids, skip_special=True) == "abc"
    assert tokenizer.decode(ids, after_special="_") == "[CLS]_ab[MASK]_c<|endoftext|>_"
    assert tokenizer.decode([]) == ""
    assert tokenizer.decode([tokenizer.num_tokens + 5]) == "\ufffd"


def test_negative_ids_are_refused(tokenizer: BilingualTokenizer) -> None:
    with pytest.raises(TokenizerError, match="-1"):
        tokenizer.decode([3, -1])
    with pytest.raises(TokenizerError, match="-1"):
        tokenizer.decoder().push(-1)


@pytest.mark.parametrize("text", ["\ud800", "ab\udc80cd", "\udfff\ud800"])
def test_lone_surrogates_are_refused(tokenizer: BilingualTokenizer, text: str) -> None:
    with pytest.raises(TokenizerError, match="surrogate at character"):
        tokenizer.encode(text)
    with pytest.raises(TokenizerError, match="surrogate at character"):
        tokenizer.encode(text, allow_special=True)


def test_sentence_ends(tokenizer: BilingualTokenizer) -> None:
    ends = tokenizer.sentence_ends
    assert ends.shape == (tokenizer.num_tokens,)
    assert not ends[tokenizer.num_pieces :].any(), "special tokens end no sentence"
    assert ends.any()
    for token in range(tokenizer.num_pieces):
        text = tokenizer.token_text(token)
        assert ends[token] == any(mark in text for mark in ".?!;:。？！；…\n"), text
    for text in (".", "?", "!", "。", "？", "！", "\n"):
        assert ends[tokenizer.encode(text)].any(), text
    assert not ends[tokenizer.encode("the old teacher，老师、")].any()


def write_files(tokenizer: BilingualTokenizer, folder: Path) -> None:
    for name, content in tokenizer.files().items():
        (folder / name).write_bytes(content)


def test_files_make_the_same_tokenizer(tokenizer: BilingualTokenizer, tmp_path: Path, text_lines: list[str]) -> None:
    write_files(tokenizer, tmp_path)
    again = load_tokenizer(tmp_path)
    assert isinstance(again, BilingualTokenizer)
    assert again.identity == tokenizer.identity
    assert again.special == tokenizer.special
    assert [again.encode(line) for line in text_lines] == [tokenizer.encode(line) for line in text_lines]
    assert again.files() == tokenizer.files()


def test_another_vocabulary_has_another_identity(
    tokenizer: BilingualTokenizer, tmp_path: Path, text_lines: list[str]
) -> None:
    path = tmp_path / "other.txt"
    path.write_text("\n\n".join(text_lines[:300]), encoding="utf-8")
    other = BilingualTokenizer(train_vocabulary([[path]], vocab_size=520, threads=1))
    assert other.identity != tokenizer.identity
    assert other.decode(other.encode("\u2581 鼎")) == "\u2581 鼎"


@pytest.mark.parametrize(
    "config",
    ["", "{", "[]", "null", '"bilingual"', "{}", '{"type": "unknown"}', '{"type": "chinese", "colour": 1}', "\x80"],
)
def test_damaged_configuration(tokenizer: BilingualTokenizer, tmp_path: Path, config: str) -> None:
    write_files(tokenizer, tmp_path)
    (tmp_path / CONFIG_FILE).write_bytes(config.encode("latin-1"))
    with pytest.raises(TokenizerError):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("size", [0, 1, 100, 5000, -1, -100])
def test_damaged_vocabulary(tokenizer: BilingualTokenizer, tmp_path: Path, size: int) -> None:
    write_files(tokenizer, tmp_path)
    (tmp_path / MODEL_FILE).write_bytes(tokenizer.model_bytes[:size])
    with pytest.raises(TokenizerError):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("content", [b"\0" * 1000, b"<html>not found</html>", b"version https://git-lfs", b"\xff" * 99])
def test_something_else_instead_of_a_vocabulary(content: bytes) -> None:
    with pytest.raises(TokenizerError):
        BilingualTokenizer(content)


@pytest.mark.parametrize("name", [MODEL_FILE, CONFIG_FILE])
def test_missing_file(tokenizer: BilingualTokenizer, tmp_path: Path, name: str) -> None:
    write_files(tokenizer, tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(TokenizerError, match=name):
        load_tokenizer(tmp_path)


def test_chinese_settings_are_read_from_the_configuration(tokenizer: BilingualTokenizer, tmp_path: Path) -> None:
    write_files(tokenizer, tmp_path)
    settings = {"type": "chinese", "fix_command_token": False, "task_masks": True, "decoder_mask": False}
    (tmp_path / CONFIG_FILE).write_text(json.dumps(settings), encoding="utf-8")
    assert load_tokenizer(tmp_path).special["gmask"] == load_tokenizer(tmp_path).special["eop"]


def test_training_errors(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("one line of text", encoding="utf-8")
    with pytest.raises(OptionError, match="512"):
        train_vocabulary([[path]], vocab_size=300)
    with pytest.raises(OptionError, match="too short"):
        train_vocabulary([[path]], vocab_size=5000)
    with pytest.raises(OptionError, match="groups"):
        train_vocabulary([[path]], vocab_size=600, characters=[1, 2])
    path.write_text("\n\n", encoding="utf-8")
    with pytest.raises(DataError, match="empty"):
        train_vocabulary([[path]], vocab_size=600)


def test_training_reports_a_bad_line(tmp_path: Path, text_lines: list[str]) -> None:
    good, bad = tmp_path / "good.txt", tmp_path / "bad.jsonl"
    good.write_text("\n\n".join(text_lines), encoding="utf-8")
    bad.write_text('{"text": "fine"}\n{"txt": "not fine"}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"bad\.jsonl, line 2"):
        train_vocabulary([[good, bad]], vocab_size=600, threads=1)
