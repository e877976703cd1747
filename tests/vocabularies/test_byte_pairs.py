"""Byte-level BPE gives every text back; its two kinds differ in ids and special tokens only."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openglm.blanks import BlankKind
from openglm.errors import OptionError, TokenizerError, UnsupportedBlankError
from openglm.tokenizer import GPT2Tokenizer, RobertaTokenizer, load_tokenizer

Either = GPT2Tokenizer | RobertaTokenizer

DELICATE = [
    *("[CLS]", "[SEP]", "[MASK]", "[gMASK]", "[UNK]", "<|endoftext|>", "<|endofpiece|>", "<s>", "</s>", "<mask>"),
    *(" ", "  ", "\n", "\r\n", "\t", "\0", "\x85", "\u00a0", "\u3000", "\ufeff", "\u2028", "\u0120", "\u010a", "##"),
    *("，。", "中文", "한국어", "é", "e\u0301", "👩‍👩‍👧", "\U0010ffff", "\ufffd", "don't", "I'LL", "1984", "the", "_"),
]
delicate_texts = st.lists(st.one_of(st.sampled_from(DELICATE), st.text(max_size=4)), max_size=12).map("".join)


@pytest.fixture(scope="module", params=["gpt2", "roberta"])
def either(request: pytest.FixtureRequest) -> Either:
    tokenizer: Either = request.getfixturevalue(request.param)
    return tokenizer


@settings(max_examples=100)
@given(text=delicate_texts)
def test_text_comes_back_exactly(either: Either, text: str) -> None:
    ids = either.encode(text)
    assert either.decode(ids) == text
    assert all(0 <= token < either.num_pieces for token in ids)
    assert not set(ids) & set(either.special.values()), "ordinary text became a special token"
    assert len(ids) <= len(text.encode())


def test_every_byte_comes_back(either: Either) -> None:
    everything = "".join(chr(code) for code in [*range(0x3000), *range(0xFF00, 0x10400)] if not 0xD800 <= code < 0xE000)
    assert either.decode(either.encode(everything)) == everything


def test_known_words_are_pieces(either: Either) -> None:
    assert [either.token_text(token) for token in either.encode("by the old")][-2:] == [" the", " old"]


@pytest.mark.parametrize("part", ["a", " ", "\n", "中", "\u0301", "the river, ", "-'", "[MASK] "])
def test_long_texts(either: Either, part: str) -> None:
    """No structure, or too much of it, makes a quarter of a megabyte slow or breaks it."""
    text = part * (250_000 // len(part.encode()))
    assert either.decode(either.encode(text)) == text


@given(before=st.text(max_size=8), after=st.text(max_size=8), data=st.data())
def test_special_wording_on_request(either: Either, before: str, after: str, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(either.special)))
    ids = either.encode(before + either.special_text[name] + after, allow_special=True)
    token = either.special[name]
    place = ids.index(token)
    # White space in front of a blank is dropped, behind it is kept.
    assert either.decode(ids[:place]) == (before.rstrip() if name in ("mask", "smask", "gmask") else before)
    assert either.decode(ids[place + 1 :]) == after


def test_white_space_alone(either: Either) -> None:
    """The published code reads no tokens from it; as part of a text it counts."""
    assert either.encode(" \n ", allow_special=True) == []
    assert either.decode(either.encode(" \n ")) == " \n "
    assert either.encode("", allow_special=True) == either.encode("") == []
    eos = either.eos
    wording = either.special_text["eos"]
    assert either.encode(f"{wording} {wording}", allow_special=True) == [eos, *either.encode(" "), eos]


def test_ids_of_gpt2(gpt2: GPT2Tokenizer, gpt2_folder: Path) -> None:
    names = ("sop", "eop", "cls", "mask", "sep", "unk", "gmask", "smask")
    assert gpt2.special == {"pad": 599, "eos": 599} | {name: 600 + i for i, name in enumerate(names)}
    assert gpt2.num_tokens == 608
    files = gpt2_folder / "vocab.json", gpt2_folder / "merges.txt"
    noisy = GPT2Tokenizer(*files, decoder_mask=True)
    assert noisy.special == {**gpt2.special, "dblock": 608}
    plain = GPT2Tokenizer(*files, task_masks=False)
    assert plain.num_tokens == 606
    with pytest.raises(UnsupportedBlankError, match=r"\[gMASK\]"):
        plain.blank_id(BlankKind.GMASK)


def test_ids_of_flagai(gpt2: GPT2Tokenizer, gpt2_folder: Path) -> None:
    files = gpt2_folder / "vocab.json", gpt2_folder / "merges.txt"
    flagai = GPT2Tokenizer(*files, numbering="flagai")
    assert flagai.special == {**gpt2.special, "gmask": 605, "smask": 606, "addnew": 607}
    assert flagai.num_tokens == gpt2.num_tokens
    assert flagai.encode("[UNK][gMASK][sMASK]<addnew>", allow_special=True) == [605, 605, 606, 607]
    assert flagai.decode([605, 606, 607]) == "[gMASK][sMASK]<addnew>"
    assert flagai.identity != gpt2.identity
    with pytest.raises(OptionError, match="thudm"):
        GPT2Tokenizer(*files, numbering="other")
    with pytest.raises(OptionError, match="dBLOCK"):
        GPT2Tokenizer(*files, numbering="flagai", decoder_mask=True)


def test_ids_of_roberta(roberta: RobertaTokenizer, roberta_folder: Path) -> None:
    frame = {"cls": 0, "pad": 2, "eos": 2, "sep": 2, "unk": 3, "mask": 599}
    assert roberta.special == {**frame, "sop": 600, "eop": 601}
    files = roberta_folder / "vocab.json", roberta_folder / "merges.txt"
    masks = RobertaTokenizer(*files, task_masks=True, decoder_mask=True)
    assert masks.special == {**roberta.special, "gmask": 602, "smask": 603, "dblock": 604}
    assert roberta.never_generated == [0, 1, 3, 598, 599, 600], "frame, leftovers, and the token that opens a span"
    assert roberta.decode([0, 599, 2, 1]) == "[CLS][MASK][SEP]<pad>"


any_ids = st.lists(st.one_of(st.integers(0, 639), st.integers(0, 260), st.integers(596, 610)), max_size=40)


@settings(max_examples=100)
@given(ids=any_ids)
def test_decoding_step_by_step(either: Either, ids: list[int]) -> None:
    decoder = either.decoder()
    assert "".join([*map(decoder.push, ids), decoder.finish()]) == either.decode(ids)


def test_ids_out_of_range(either: Either) -> None:
    assert either.decode([either.num_tokens, 10**6]) == "\ufffd\ufffd"
    assert either.token_text(10**6) == either.token_text(-1) == "\ufffd"
    for refuse in (lambda: either.decode([3, -1]), lambda: either.decoder().push(-1)):
        with pytest.raises(TokenizerError, match="-1"):
            refuse()


def test_half_a_character(either: Either) -> None:
    ids = either.encode("鼎")
    assert len(ids) == 3
    assert [either.token_text(token) for token in ids] == ["<0xE9>", "<0xBC>", "<0x8E>"]
    assert either.decode(ids[:2]) == "\ufffd"


def test_lone_surrogates_are_refused(either: Either) -> None:
    for allow in (False, True):
        with pytest.raises(TokenizerError, match="surrogate at character 2"):
            either.encode("ab\udc80", allow_special=allow)


def test_sentence_ends(either: Either) -> None:
    ends = either.sentence_ends
    assert ends.shape == (either.num_tokens,)
    for text in (".", "?", "!", ";", ":", "\n", "。"):
        assert ends[either.encode(text)].any(), text
    assert not ends[either.encode("the old teacher, yesterday")].any()
    assert not ends[list(either.special.values())].any()


@given(character=st.characters(codec="utf-8"))
def test_no_character_is_divided(either: Either, character: str) -> None:
    """Where two pieces meet inside a character, both say so."""
    goes_on, continues = either.word_joins
    ids = either.encode(character)
    assert goes_on[ids[:-1]].all()
    assert continues[ids[1:]].all()


def test_words_are_joined(either: Either) -> None:
    goes_on, continues = either.word_joins
    assert goes_on.shape == continues.shape == (either.num_tokens,)

    def joints(text: str) -> list[bool]:
        ids = np.array(either.encode(text))
        return (goes_on[ids[:-1]] & continues[ids[1:]]).tolist()

    assert all(joints("xylophone"))
    assert all(joints("жизнь"))
    assert joints(" the old") == [False]
    assert not any(joints(", ;"))
    assert not goes_on[list(either.special.values())].any()


def test_literals_and_answers(either: Either) -> None:
    assert either.trim_before_blank("It is \n") == "It is"
    assert either.answer_in_place("It is ", "red") == " red"
    assert either.answer_in_place("It is ", " red") == " red"
    assert either.answer_in_place("It is", "red") == "red"
    assert either.answer_in_place("", "red") == "red"


def write_files(tokenizer: Either, folder: Path) -> Path:
    for name, content in tokenizer.files().items():
        (folder / name).write_bytes(content)
    return folder


def test_files_make_the_same_tokenizer(either: Either, tmp_path: Path, text_lines: list[str]) -> None:
    again = load_tokenizer(write_files(either, tmp_path))
    assert type(again) is type(either)
    assert (again.identity, again.special, again.files()) == (either.identity, either.special, either.files())
    assert [again.encode(line) for line in text_lines[:40]] == [either.encode(line) for line in text_lines[:40]]


def test_layout_of_the_files_does_not_matter(gpt2: GPT2Tokenizer, gpt2_folder: Path, tmp_path: Path) -> None:
    """The same vocabulary, written in another order, with other ends of lines and without a version line."""
    vocab = json.loads((gpt2_folder / "vocab.json").read_text(encoding="utf-8"))
    turned = json.dumps(dict(reversed(vocab.items())), indent=2, ensure_ascii=False)
    lines = (gpt2_folder / "merges.txt").read_text(encoding="utf-8").splitlines()
    merges = "\r\n".join(line for line in lines if not line.startswith("#version"))
    again = GPT2Tokenizer(turned.encode("utf-8-sig"), merges.encode())
    assert again.identity == gpt2.identity
    assert again.files() == gpt2.files()


# --- damaged files -------------------------------------------------------------------------


def changed(folder: Path, target: Path, **content: bytes) -> tuple[Path, Path]:
    files = {"vocab": "vocab.json", "merges": "merges.txt"}
    for key, name in files.items():
        (target / name).write_bytes(content.get(key, (folder / name).read_bytes()))
    return target / "vocab.json", target / "merges.txt"


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("name", ["vocab", "merges"])
def test_truncated_files(gpt2_folder: Path, tmp_path: Path, name: str, share: float) -> None:
    whole = (gpt2_folder / {"vocab": "vocab.json", "merges": "merges.txt"}[name]).read_bytes().rstrip()
    files = changed(gpt2_folder, tmp_path, **{name: whole[: int(share * len(whole))]})
    with pytest.raises(TokenizerError, match=name):
        GPT2Tokenizer(*files)


def test_merges_cut_at_a_line(gpt2_folder: Path, tmp_path: Path) -> None:
    """Nothing in the file itself is wrong then."""
    lines = (gpt2_folder / "merges.txt").read_bytes().splitlines(keepends=True)
    for count in (1, 2, len(lines) // 2, len(lines) - 1):
        with pytest.raises(TokenizerError, match="cut short"):
            GPT2Tokenizer(*changed(gpt2_folder, tmp_path, merges=b"".join(lines[:count])))


@pytest.mark.parametrize(
    ("vocab", "problem"),
    [
        (b"\xff\xfe{}", "UTF-8"),
        (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
        (b"<html>not found</html>", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "not a vocabulary"),
        (b"{}", "not a vocabulary"),
        (b'{"a": 0, "b": 2}', "not a vocabulary"),
        (b'{"a": 0, "b": 0}', "not a vocabulary"),
        (b'{"a": 0, "b": true}', "not a vocabulary"),
        (b'{"a": "0"}', "not a vocabulary"),
        (b'{"a": 0}', "lacks <.endoftext.>"),
        (b'{"a": 0, "<|endoftext|>": 1}', "byte-level"),
    ],
)
def test_something_else_instead_of_a_vocabulary(gpt2_folder: Path, tmp_path: Path, vocab: bytes, problem: str) -> None:
    with pytest.raises(TokenizerError, match=problem):
        GPT2Tokenizer(*changed(gpt2_folder, tmp_path, vocab=vocab))


@pytest.mark.parametrize("line", ["one", "one two three", " two", "one ", ""])
def test_lines_that_are_no_merges(gpt2_folder: Path, tmp_path: Path, line: str) -> None:
    merges = (gpt2_folder / "merges.txt").read_text(encoding="utf-8").splitlines()
    merges.insert(5, line)
    with pytest.raises(TokenizerError, match="line 6"):
        GPT2Tokenizer(*changed(gpt2_folder, tmp_path, merges="\n".join(merges).encode()))


def test_files_of_different_vocabularies(gpt2_folder: Path, roberta_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="different vocabularies"):
        GPT2Tokenizer(*changed(gpt2_folder, tmp_path, merges=b"#version: 0.2\nZ Q\n"))
    with pytest.raises(TokenizerError, match="lacks <s>"):
        RobertaTokenizer(gpt2_folder / "vocab.json", gpt2_folder / "merges.txt")
    with pytest.raises(TokenizerError, match=r"<.endoftext.>"):
        GPT2Tokenizer(roberta_folder / "vocab.json", roberta_folder / "merges.txt")


def test_missing_files(gpt2_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"merges\.txt: no such"):
        GPT2Tokenizer(gpt2_folder / "vocab.json", tmp_path / "merges.txt")
    with pytest.raises(TokenizerError, match="cannot be read"):
        GPT2Tokenizer(gpt2_folder / "vocab.json", tmp_path)
