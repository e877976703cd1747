"""The published Chinese vocabulary: what it keeps of a text, and its tables of special tokens."""

from __future__ import annotations

import itertools
import re
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openglm.blanks import BlankKind
from openglm.errors import TokenizerError, UnsupportedBlankError
from openglm.tokenizer import ChineseTokenizer, load_tokenizer

PARTS = [
    *("[CLS]", "[MASK]", "[gMASK]", "[UNK]", "<|endoftext|>", "<|endofpiece|>", "<unk>", "<s>", "<n>", "[ MASK ]"),
    *(" ", "  ", "\n", "\t", "\u3000", "\u2581", "\0", "\ufeff", "\ufffd", "😀", "鼎", "é", "ﬁ", "①"),
    *("老师", "北京的街道", "，", "。", "？", "ａｂｃ１２", "the old", "1984", "“"),
]
texts = st.lists(st.one_of(st.sampled_from(PARTS), st.text(max_size=4)), max_size=12).map("".join)
any_ids = st.lists(st.one_of(st.integers(0, 639), st.integers(598, 612)), max_size=40)


def test_chinese_comes_back_in_half_width(chinese: ChineseTokenizer, text_lines: list[str]) -> None:
    lines = [line for line in text_lines if not line.isascii()]
    assert len(lines) > 100
    for line in lines:
        assert chinese.decode(chinese.encode(line)) == unicodedata.normalize("NFKC", line)


@settings(max_examples=200)
@given(text=texts)
def test_ordinary_text_is_never_special(chinese: ChineseTokenizer, text: str) -> None:
    ids = chinese.encode(text)
    assert all(0 <= token < chinese.num_pieces for token in ids)
    # What has been read once is read the same way again.
    again = chinese.decode([token for token in ids if token != 0])
    assert chinese.decode(chinese.encode(again)) == " ".join(again.split())


def test_what_is_lost(chinese: ChineseTokenizer) -> None:
    assert chinese.encode("老师 \n\t 医生 ") == chinese.encode("老师 医生")
    assert chinese.encode("老师？") == chinese.encode("老师?")
    assert chinese.decode(chinese.encode("老师😀医生")) == "老师 ⁇ 医生"
    for text in ("", " ", "\n\u3000\t"):
        assert chinese.encode(text) == chinese.encode(text, allow_special=True) == []


def test_a_newline_sign_is_a_piece(chinese: ChineseTokenizer) -> None:
    assert 3 in chinese.encode("老师<n>医生")
    assert chinese.decode([3]) == "<n>"
    assert 3 not in chinese.encode("老师\n医生")


def test_every_part_begins_anew(chinese: ChineseTokenizer) -> None:
    """Text behind a special token has the space sign in front, as when the models were trained."""
    mask = chinese.special["mask"]
    ids = chinese.encode("老师 [MASK]医生", allow_special=True)
    assert ids == [*chinese.encode("老师"), mask, *chinese.encode("医生")]
    assert chinese.token_text(ids[ids.index(mask) + 1]).startswith(" ")
    assert chinese.decode(ids) == "老师[MASK]医生"
    assert chinese.decode(ids, skip_special=True) == "老师医生"
    assert chinese.decode(ids, after_special=" ") == "老师[MASK] 医生"


TABLES = {
    # (fix_command_token, task_masks, decoder_mask): offsets of smask, gmask, dblock; tokens behind the pieces
    (True, True, False): ({"smask": 8, "gmask": 9}, 10),
    (True, True, True): ({"smask": 8, "gmask": 9, "dblock": 10}, 11),
    (False, True, False): ({"smask": 8, "gmask": 7}, 9),
    (False, True, True): ({"smask": 8, "gmask": 7, "dblock": 9}, 10),
    (True, False, False): ({}, 8),
}


@pytest.mark.parametrize("flags", TABLES)
def test_tables(chinese_folder: Path, flags: tuple[bool, bool, bool]) -> None:
    fix, masks, noise = flags
    tokenizer = ChineseTokenizer(
        chinese_folder / "cog-pretrain.model", fix_command_token=fix, task_masks=masks, decoder_mask=noise
    )
    more, count = TABLES[flags]
    n = tokenizer.num_pieces
    offsets = {"pad": 0, "eos": 0, "sep": 1, "cls": 2, "mask": 3, "unk": 4, "sop": 6, "eop": 7, **more}
    assert tokenizer.special == {name: n + offset for name, offset in offsets.items()}
    assert tokenizer.num_tokens == n + count
    assert tokenizer.special["eop"] not in tokenizer.never_generated
    if not masks:
        with pytest.raises(UnsupportedBlankError, match=r"\[gMASK\]"):
            tokenizer.blank_id(BlankKind.GMASK)


def test_two_names_for_one_id(chinese_folder: Path) -> None:
    """In the older table the one registered last is printed."""
    older = ChineseTokenizer(chinese_folder / "cog-pretrain.model", fix_command_token=False)
    both = older.encode("<|endofpiece|>[gMASK]", allow_special=True)
    assert both == [older.markers.eop] * 2
    assert older.decode(both) == "[gMASK][gMASK]"


@settings(max_examples=150)
@given(ids=any_ids)
def test_decoding_step_by_step(chinese: ChineseTokenizer, ids: list[int]) -> None:
    decoder, text, shown = chinese.decoder(), chinese.decode(ids), ""
    for token in ids:
        shown += decoder.push(token)
        assert text.startswith(shown)
    assert shown + decoder.finish() == text


def test_runs_that_begin_with_nothing(chinese: ChineseTokenizer) -> None:
    """Control pieces and a lone space sign read as nothing there; the next piece may still drop its space."""
    lone = next(token for token in range(chinese.num_pieces) if chinese.token_text(token) == " ")
    word = chinese.encode("the")[0]
    assert chinese.token_text(word)[0] == " "
    for ids in itertools.product([0, 1, 2, 3, lone, word, chinese.special["mask"], 10**6], repeat=3):
        decoder = chinese.decoder()
        assert "".join([*map(decoder.push, ids), decoder.finish()]) == chinese.decode(ids), ids


def test_ids_out_of_range(chinese: ChineseTokenizer) -> None:
    """Rows that a model has beyond its vocabulary read as unknown; negative ids are mistakes."""
    assert chinese.decode([chinese.num_tokens]) == chinese.decode([10**6]) == chinese.decode([0])
    assert chinese.token_text(10**6) == "\ufffd"
    for refuse in (lambda: chinese.decode([-1]), lambda: chinese.decoder().push(-1)):
        with pytest.raises(TokenizerError, match="-1"):
            refuse()


def test_lone_surrogates_are_refused(chinese: ChineseTokenizer) -> None:
    for allow in (False, True):
        with pytest.raises(TokenizerError, match="surrogate at character 1"):
            chinese.encode("中\ud800", allow_special=allow)


@pytest.mark.parametrize("part", ["a", " ", "中", "老师", "the river, ", "😀", "[MASK] "])
def test_long_texts(chinese: ChineseTokenizer, part: str) -> None:
    """No structure, or too much of it, makes a quarter of a megabyte slow or breaks it."""
    text = part * (250_000 // len(part.encode()))
    ids = chinese.encode(text, allow_special=True)
    assert ids.count(chinese.special["mask"]) == text.count("[MASK]")
    decoded = chinese.decode(ids)
    assert re.sub(r"[ ⁇😀中]", "", decoded) == re.sub(r"[ ⁇😀中]", "", text)


def test_sentence_ends_and_words(chinese: ChineseTokenizer) -> None:
    ends = chinese.sentence_ends
    assert ends.shape == (chinese.num_tokens,)
    for text in ("老师。", "老师！", "老师？", "老师;", "old."):
        assert ends[chinese.encode(text)].any(), text
    assert not ends[chinese.encode("老师，the old")].any()
    assert not ends[list(chinese.special.values())].any()

    goes_on, continues = chinese.word_joins
    ids = np.array(chinese.encode("theold the 老师"))
    joints = goes_on[ids[:-1]] & continues[ids[1:]]
    first = chinese.token_text(int(ids[1]))
    assert joints[0] == (first[0] != " ")
    assert not joints[-1], "Chinese characters are words of their own"


def test_literals_and_answers(chinese: ChineseTokenizer) -> None:
    assert chinese.trim_before_blank("老师 \n") == "老师"
    assert chinese.answer_in_place("老师 ", "医生") == "医生"


def test_files_make_the_same_tokenizer(chinese_folder: Path, tmp_path: Path, text_lines: list[str]) -> None:
    tokenizer = ChineseTokenizer(chinese_folder / "cog-pretrain.model", fix_command_token=False, decoder_mask=True)
    for name, content in tokenizer.files().items():
        (tmp_path / name).write_bytes(content)
    again = load_tokenizer(tmp_path)
    assert isinstance(again, ChineseTokenizer)
    assert (again.identity, again.special, again.files()) == (
        tokenizer.identity,
        tokenizer.special,
        tokenizer.files(),
    )
    assert [again.encode(line) for line in text_lines[:40]] == [tokenizer.encode(line) for line in text_lines[:40]]
    assert again.identity != ChineseTokenizer(chinese_folder / "cog-pretrain.model").identity


@pytest.mark.parametrize("size", [0, 1, 100, 5000, -1, -100])
def test_truncated_vocabulary(chinese_folder: Path, tmp_path: Path, size: int) -> None:
    path = tmp_path / "spiece.model"
    path.write_bytes((chinese_folder / "cog-pretrain.model").read_bytes()[:size])
    with pytest.raises(TokenizerError, match=r"spiece\.model.*again"):
        ChineseTokenizer(path)


@pytest.mark.parametrize("content", [b"\0" * 1000, b"<html>not found</html>", b"\xff" * 99])
def test_something_else_instead_of_a_vocabulary(content: bytes) -> None:
    with pytest.raises(TokenizerError, match="not a SentencePiece model"):
        ChineseTokenizer(content)


def test_a_pointer_instead_of_the_file() -> None:
    with pytest.raises(TokenizerError, match="git lfs pull"):
        ChineseTokenizer(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1021864\n")
