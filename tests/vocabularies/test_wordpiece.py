"""WordPiece cuts texts as the published code does, and its fills read like ordinary English."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openglm.errors import TokenizerError
from openglm.tokenizer import BertTokenizer, load_tokenizer


def published_ids(text: str, vocab: dict[str, int]) -> list[int]:
    """The published rules, written out plainly: clean, cut, spell with the longest pieces."""
    cleaned = ""
    for character in text:
        category = unicodedata.category(character)
        if character in " \t\n\r" or category == "Zs":
            cleaned += " "
        elif 0x4E00 <= ord(character) < 0xA000:
            cleaned += f" {character} "
        elif category[0] != "C" and character != "\ufffd":
            cleaned += character
    ids: list[int] = []
    for word in cleaned.split():
        plain = [c for c in unicodedata.normalize("NFD", word.lower()) if unicodedata.category(c) != "Mn"]
        spaced = [f" {c} " if unicodedata.category(c)[0] == "P" or c in "$+<=>^`|~" else c for c in plain]
        for part in "".join(spaced).split():
            ids += spelled(part, vocab)
    return ids


def spelled(word: str, vocab: dict[str, int]) -> list[int]:
    ids, start = [], 0
    while start < len(word) <= 100:
        fitting = (word[start:end] for end in range(len(word), start, -1))
        piece = next((p for p in (("##" if start else "") + part for part in fitting) if p in vocab), None)
        if piece is None:
            return [vocab["[UNK]"]]
        ids.append(vocab[piece])
        start += len(piece) - (2 if start else 0)
    return ids if len(word) <= 100 else [vocab["[UNK]"]]


# Only characters on which all versions of Unicode agree.
ranges = [
    (0, 0x24F),
    (0x300, 0x36F),
    (0x391, 0x3C9),
    (0x410, 0x44F),
    (0x2000, 0x203E),
    (0x3000, 0x303F),
    (0x4E00, 0x9F00),
]
characters = st.one_of([st.characters(min_codepoint=low, max_codepoint=high) for low, high in ranges])
PARTS = [
    *("the", "The", "river", "1984", "7:30", "don't", "ΟΔΥΣΣΕΥΣ", "Σ", "λόγος", "café", "E\u0301", "İ", "ß", "ﬁ", "😀"),
    *(
        "[CLS]",
        "[MASK]",
        "[gMASK]",
        "<|endofpiece|>",
        "[unused0]",
        "##er",
        " ",
        "\n",
        "\t",
        "\u3000",
        "\u00ad",
        "\0",
        "\ufffd",
    ),
    *("，", "。", "中", "国", "“", "—", "...", "-", "'", '"', "_", "@", "/", "$5", "x" * 99, "x" * 101),
]
texts = st.lists(st.one_of(st.sampled_from(PARTS), st.text(characters, max_size=4)), max_size=12).map("".join)


@pytest.fixture(scope="module")
def vocab(bert_folder: Path) -> dict[str, int]:
    lines = (bert_folder / "vocab.txt").read_text(encoding="utf-8").split("\n")[:-1]
    return {piece: number for number, piece in enumerate(lines)}


@settings(max_examples=200)
@given(text=texts)
def test_ids_are_the_published_ones(bert: BertTokenizer, vocab: dict[str, int], text: str) -> None:
    assert bert.encode(text) == published_ids(text, vocab)


MARKS = [" ", " ", " ", *"'\"-–—.,:;!?()[]/\\_@#$%*…“”‘’。，", "中", "国", "s", "don", "o", "www", "12", "345", "3"]


@settings(max_examples=150)
@given(words=st.lists(st.one_of(st.integers(7, 599), st.sampled_from(MARKS)), max_size=12))
def test_decoded_text_has_the_same_tokens(bert: BertTokenizer, words: list[int | str]) -> None:
    """Whatever is guessed about spaces."""
    known = [bert.token_text(word).removeprefix("##") if isinstance(word, int) else word for word in words]
    ids = [token for token in bert.encode("".join(known)) if token != bert.special["unk"]]
    assert bert.encode(bert.decode(ids)) == ids


def test_english_comes_back_but_for_capitals(bert: BertTokenizer, text_lines: list[str]) -> None:
    english = [line for line in text_lines if line.isascii()]
    assert len(english) > 100
    for line in english:
        assert bert.decode(bert.encode(line)) == line.lower()


def test_chinese_has_no_spaces(bert: BertTokenizer, text_lines: list[str]) -> None:
    chinese = [line for line in text_lines if line[0] not in "“" and not line.isascii()]
    assert len(chinese) > 50
    for line in chinese:
        ids = bert.encode(line)
        if bert.special["unk"] not in ids:
            assert bert.decode(ids) == line


def test_what_is_lost(bert: BertTokenizer) -> None:
    assert bert.encode("THE  Old\tRiver\n") == bert.encode("the old river")
    assert bert.encode("thé\u00ad \0old") == bert.encode("the old")
    assert bert.encode("😀 " + "x" * 101) == [bert.special["unk"]] * 2
    assert bert.encode("") == bert.encode(" \n\u3000") == bert.encode("   ", allow_special=True) == []


def test_both_decodings(bert: BertTokenizer) -> None:
    text = "[CLS]Isn't it (by 7:30) no. 12?[MASK][PAD]"
    ids = bert.encode(text, allow_special=True)
    assert bert.decode(ids) == "[CLS] isn't it (by 7:30) no. 12? [MASK] [PAD]"
    assert bert.decode(ids, skip_special=True) == "isn't it (by 7:30) no. 12?"
    assert bert.decode_spaced(ids) == "[CLS] isn ' t it ( by 7 : 30 ) no . 12 ? [MASK] [PAD]"
    assert bert.decode(ids[:1], after_special="_") == "[CLS]_"
    assert bert.decode([]) == bert.decode_spaced([]) == ""


def test_special_wording(bert: BertTokenizer) -> None:
    special = bert.special
    assert bert.encode("[MASK]") == bert.encode("[ mask ]")
    assert not set(bert.encode("[MASK] [CLS] <|endofpiece|>")) & set(special.values())
    ids = bert.encode("a [MASK]b<|endofpiece|>", allow_special=True)
    assert ids == [*bert.encode("a"), special["mask"], *bert.encode("b"), special["eop"]]
    # A vocabulary without the token reads its wording as text.
    assert bert.encode("[gMASK]", allow_special=True) == bert.encode("[gmask]")


def test_ids(bert: BertTokenizer, bert_folder: Path) -> None:
    n = bert.num_pieces
    assert bert.special == {"pad": 0, "eos": 0, "unk": 3, "cls": 4, "sep": 5, "mask": 6, "sop": n, "eop": n + 1}
    assert bert.num_tokens == n + 2
    masks = BertTokenizer(bert_folder / "vocab.txt", task_masks=True, decoder_mask=True)
    assert masks.special == {**bert.special, "gmask": n + 2, "smask": n + 3, "dblock": n + 4}
    assert bert.never_generated == [1, 2, 3, 4, 5, 6, n], "unused pieces, the frame, and the token that opens a span"
    assert masks.identity != bert.identity


any_ids = st.lists(st.one_of(st.integers(0, 640), st.integers(0, 60)), max_size=40)


@settings(max_examples=150)
@given(ids=any_ids)
def test_decoding_step_by_step(bert: BertTokenizer, ids: list[int]) -> None:
    decoder, text, shown = bert.decoder(), bert.decode(ids), ""
    for token in ids:
        shown += decoder.push(token)
        assert text.startswith(shown)
    assert shown + decoder.finish() == text
    # Nothing but spaces (and the signs of pieces that go on with a word) differs from the plain decoding.
    assert re.sub("[ #]", "", text) == re.sub("[ #]", "", bert.decode_spaced(ids))


def test_ids_out_of_range(bert: BertTokenizer) -> None:
    assert bert.decode([bert.num_tokens]) == bert.decode_spaced([10**6]) == "\ufffd"
    for refuse in (lambda: bert.decode([-1]), lambda: bert.decode_spaced([-1]), lambda: bert.decoder().push(-1)):
        with pytest.raises(TokenizerError, match="-1"):
            refuse()


def test_lone_surrogates_are_refused(bert: BertTokenizer) -> None:
    with pytest.raises(TokenizerError, match="surrogate at character 0"):
        bert.encode("\ud800")


@pytest.mark.parametrize("part", ["a", " ", "中", "\u0301", "the river, ", "-'", "[MASK] "])
def test_long_texts(bert: BertTokenizer, part: str) -> None:
    """No structure, or too much of it, makes a quarter of a megabyte slow or breaks it."""
    count = 250_000 // len(part.encode())
    ids = bert.encode(part * count, allow_special=True)
    assert len(ids) == {"a": 1, " ": 0, "中": count, "\u0301": 0}.get(
        part, len(bert.encode(part, allow_special=True)) * count
    )
    assert bert.decode(ids).count("[MASK]") == ids.count(bert.special["mask"])


def test_sentence_ends(bert: BertTokenizer) -> None:
    ends = bert.sentence_ends
    assert ends.shape == (bert.num_tokens,)
    for text in (".", "?", "!", ";", ":", "。"):
        assert ends[bert.encode(text)].all(), text
    assert not ends[bert.encode("the old teacher, yesterday")].any()


def test_words_are_joined(bert: BertTokenizer) -> None:
    goes_on, continues = bert.word_joins
    ids = np.array(bert.encode("theold the old"))
    pieces = [bert.token_text(int(token)) for token in ids]
    joints = goes_on[ids[:-1]] & continues[ids[1:]]
    assert joints.tolist() == [piece.startswith("##") for piece in pieces[1:]]
    assert joints.any()
    assert not goes_on[list(bert.special.values())].any()


def test_files_make_the_same_tokenizer(bert_folder: Path, tmp_path: Path, text_lines: list[str]) -> None:
    tokenizer = BertTokenizer(bert_folder / "vocab.txt", task_masks=True)
    for name, content in tokenizer.files().items():
        (tmp_path / name).write_bytes(content)
    again = load_tokenizer(tmp_path)
    assert isinstance(again, BertTokenizer)
    assert (again.identity, again.special, again.files()) == (
        tokenizer.identity,
        tokenizer.special,
        tokenizer.files(),
    )
    assert [again.encode(line) for line in text_lines[:40]] == [tokenizer.encode(line) for line in text_lines[:40]]


def test_ends_of_lines_do_not_matter(bert: BertTokenizer, bert_folder: Path) -> None:
    content = (bert_folder / "vocab.txt").read_bytes()
    for same in (content.replace(b"\n", b"\r\n"), content.rstrip(b"\n"), b"\xef\xbb\xbf" + content):
        assert BertTokenizer(same).identity == bert.identity


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "empty"),
        (b"\n", "line 1: empty"),
        (b"[PAD]\n[CLS]\n", "lacks .MASK.*UNK"),
        (b"[PAD]\n\n[CLS]\n", "line 2: empty"),
        (b"[PAD]\n[CLS]\n[PAD]\n", "line 3.*line 1"),
        (b"[PAD]\n\xff\n", "UTF-8"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    ],
)
def test_damaged_vocabulary(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "vocab.txt"
    path.write_bytes(content)
    with pytest.raises(TokenizerError, match=rf"vocab\.txt.*{problem}"):
        BertTokenizer(path)
    with pytest.raises(TokenizerError, match="no such"):
        BertTokenizer(tmp_path / "other.txt")
