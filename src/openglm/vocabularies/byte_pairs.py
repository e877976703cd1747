"""Byte-level BPE of the published English models: GPT-2's vocabulary, and RoBERTa's.

Both are lossless and cut texts the same way; they differ in their ids and in which entries
are special.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import OptionError
from .base import REPLACEMENT, SPECIAL_TEXT, in_word
from .byte_pair_files import BytePairs, read_byte_pairs
from .sources import Source
from .spelling import ByteSpelledTokenizer

# Whose ids `[gMASK]` and `[sMASK]` of the GPT-2 vocabulary get.
NUMBERINGS = ("thudm", "flagai")


class _BytePairTokenizer(ByteSpelledTokenizer):
    """Shared by both: cuts text, spells ids."""

    def __init__(
        self, pairs: BytePairs, special: Mapping[str, int], text: Mapping[str, str], leftovers: tuple[str, ...] = ()
    ) -> None:
        from tokenizers import Tokenizer, models, pre_tokenizers

        super().__init__(special, max(special.values()) + 1, text)
        self._pairs, self._leftovers = pairs, leftovers
        self._spelling = pairs.spelling
        self._cutter = Tokenizer(models.BPE(dict(pairs.vocab), list(pairs.merges)))
        self._cutter.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)

    def encode(self, text: str, *, allow_special: bool = False) -> list[int]:
        """Token ids of `text`; see `Tokenizer.encode`.

        With `allow_special` a text of white space alone has no tokens, as in the published code.
        """
        return [] if allow_special and not text.strip() else super().encode(text, allow_special=allow_special)

    def _bytes_of(self, piece: int) -> bytes:
        return self._spelling[piece]

    def _encode_plain(self, text: str) -> list[int]:
        return list(self._cutter.encode(text, add_special_tokens=False).ids)

    @property
    def num_pieces(self) -> int:
        """Entries of `vocab.json`."""
        return len(self._spelling)

    def token_text(self, token: int) -> str:
        """How one token reads; bytes that are only part of a character as `<0xE4>`."""
        if token in self._text_of:
            return self._text_of[token]
        return "".join(sign if (byte := _byte(sign)) is None else f"<0x{byte:02X}>" for sign in self._signs(token))

    def _signs(self, token: int) -> str:
        """The characters of a piece; bytes of incomplete ones as U+DC80 to U+DCFF."""
        if not 0 <= token < self.num_pieces:
            return REPLACEMENT
        return self._spelling[token].decode("utf-8", errors="surrogateescape")

    def trim_before_blank(self, literal: str) -> str:
        """White space in front of a blank is dropped, as in the published code: the fill brings its own."""
        return literal.rstrip()

    def brings_space(self, literal: str) -> bool:
        """Behind white space an answer starts with a space, for so words are written inside a text."""
        return literal[-1:].isspace()

    def answer_in_place(self, literal: str, answer: str) -> str:
        """As `Tokenizer.answer_in_place`; an answer that begins with white space has its own."""
        return answer if answer[:1].isspace() else super().answer_in_place(literal, answer)

    def spellings(self) -> list[bytes]:
        """As `Tokenizer.spellings`."""
        silent = {*self._text_of, *self.never_generated}
        return [b"" if token in silent else self._spell(token) for token in range(self.num_tokens)]

    @property
    def never_generated(self) -> list[int]:
        """Special ids but for the two that end a fill, and entries that stand for no text."""
        vocab = self._pairs.vocab
        nameless = set(range(self.num_pieces, self.num_tokens)) - set(self.special.values())
        leftovers = [vocab[piece] for piece in self._leftovers if piece in vocab]
        return sorted({*super().never_generated, *leftovers, *nameless})

    @cached_property
    def word_joins(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """As `Tokenizer.word_joins`; a character whose bytes lie in several pieces is never divided."""
        pieces = ["" if token in self._text_of else self._signs(token) for token in range(self.num_tokens)]
        ends = [bool(piece) and (_byte(piece[-1]) is not None or in_word(piece[-1])) for piece in pieces]
        begins = [bool(piece) and _begins_in_word(piece[0]) for piece in pieces]
        return np.array(ends, np.bool_), np.array(begins, np.bool_)

    @property
    def model_bytes(self) -> bytes:
        """Vocabulary and merges, however their files were formatted."""
        return b"\0".join(self._pairs.files.values())

    def _vocabulary_files(self) -> dict[str, bytes]:
        return self._pairs.files


class GPT2Tokenizer(_BytePairTokenizer):
    """GPT-2's vocabulary of 50,257 entries with the special tokens of GLM-2B and GLM-10B; lossless.

    Args:
        vocab, merges: `vocab.json` and `merges.txt`.
        numbering: "thudm", the ids the published weights were trained with; "flagai", those
            FlagAI's code gives (`[gMASK]` collides with `[UNK]`, `[sMASK]` is one too low,
            and there is an `<addnew>`), to reproduce what it does, not to fill blanks.
        task_masks: `[sMASK]` and `[gMASK]` exist.
        decoder_mask: `[dBLOCK]` exists.

    Raises:
        TokenizerError: a file is missing, damaged, or not GPT-2's.
        OptionError: an unknown numbering, or FlagAI's with other than its own tokens.
    """

    FRAME = ("<|endoftext|>",)

    def __init__(
        self,
        vocab: Source,
        merges: Source,
        *,
        numbering: str = "thudm",
        task_masks: bool = True,
        decoder_mask: bool = False,
    ) -> None:
        self._settings = {"numbering": numbering, "task_masks": task_masks, "decoder_mask": decoder_mask}
        pairs = read_byte_pairs(vocab, merges, frame=self.FRAME)
        special = self.special_ids(len(pairs.vocab), pairs.vocab[self.FRAME[0]], numbering, task_masks, decoder_mask)
        super().__init__(pairs, special, {**SPECIAL_TEXT, "addnew": "<addnew>"})

    @staticmethod
    def special_ids(pieces: int, eos: int, numbering: str, task_masks: bool, decoder_mask: bool) -> dict[str, int]:
        """The published tables (their format description, section 4.1); `pieces` is 50,257, `eos` 50,256."""
        if numbering not in NUMBERINGS:
            raise OptionError(f"numbering must be one of {', '.join(NUMBERINGS)}, not {numbering!r}")
        if numbering == "flagai" and (decoder_mask or not task_masks):
            raise OptionError("FlagAI's numbering is known with [gMASK] and [sMASK] and without [dBLOCK] only")
        names = ("sop", "eop", "cls", "mask", "sep", "unk")
        special = {"pad": eos, "eos": eos} | {name: pieces + i for i, name in enumerate(names)}
        following = pieces + len(names)
        if numbering == "flagai":  # counts one id too few behind [UNK]
            return special | {"gmask": following - 1, "smask": following, "addnew": following + 1}
        if task_masks:
            special |= {"gmask": following, "smask": following + 1}
            following += 2
        return special | ({"dblock": following} if decoder_mask else {})

    def config(self) -> dict[str, Any]:
        """The kind of tokenizer and its table of special tokens."""
        return {"type": "gpt2", **self._settings}


class RobertaTokenizer(_BytePairTokenizer):
    """RoBERTa's vocabulary of 50,265 entries with the special tokens of GLM-RoBERTa; lossless.

    A text is framed by RoBERTa's own `<s>` and `</s>` and a blank is its `<mask>`, written
    `[CLS]`, `[SEP]` and `[MASK]`; `</s>` is end, padding and separator at once.

    Args:
        vocab, merges: `vocab.json` and `merges.txt`.
        task_masks: `[sMASK]` and `[gMASK]` exist; the published weights never learnt them.
        decoder_mask: `[dBLOCK]` exists.

    Raises:
        TokenizerError: a file is missing, damaged, or not RoBERTa's.
    """

    FRAME = ("<s>", "</s>", "<unk>", "<mask>")
    LEFTOVERS = ("<pad>", "<|endoftext|>", "madeupword0000", "madeupword0001", "madeupword0002")

    def __init__(self, vocab: Source, merges: Source, *, task_masks: bool = False, decoder_mask: bool = False) -> None:
        self._settings = {"task_masks": task_masks, "decoder_mask": decoder_mask}
        pairs = read_byte_pairs(vocab, merges, frame=self.FRAME, leftovers=self.LEFTOVERS)
        cls, end, unk, mask = (pairs.vocab[piece] for piece in self.FRAME)
        special = {"pad": end, "eos": end, "sep": end, "cls": cls, "mask": mask, "unk": unk}
        names = ["sop", "eop", *(["gmask", "smask"] if task_masks else []), *(["dblock"] if decoder_mask else [])]
        special |= {name: len(pairs.vocab) + i for i, name in enumerate(names)}
        super().__init__(pairs, special, SPECIAL_TEXT, self.LEFTOVERS)

    def config(self) -> dict[str, Any]:
        """The kind of tokenizer and its table of special tokens."""
        return {"type": "roberta", **self._settings}


def _byte(sign: str) -> int | None:
    """The byte a sign of `_signs` stands for, if it is only part of a character."""
    return ord(sign) - 0xDC00 if 0xDC80 <= ord(sign) <= 0xDCFF else None


def _begins_in_word(sign: str) -> bool:
    """Whether a piece that starts with this sign may go on with a word.

    A continuation byte always does; a first byte does if its characters are mostly letters
    of scripts with spaces (C3 to E1: U+00C0 to U+1FFF).
    """
    byte = _byte(sign)
    return in_word(sign) if byte is None else byte < 0xC0 or 0xC3 <= byte <= 0xE1
