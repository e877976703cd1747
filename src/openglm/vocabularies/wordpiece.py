"""WordPiece of the published English models: BERT's vocabulary, uncased."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import TokenizerError
from .base import REPLACEMENT, SPECIAL_TEXT, Decoder, Tokenizer, checked_id
from .detokenize import Detokenizer
from .sources import Source, read_lines
from .writing import WritingRules

VOCAB_FILE = "vocab.txt"
CONTINUES = "##"  # in front of pieces that go on with a word
LONGEST_WORD = 100  # characters; longer words are [UNK]
_UNUSED = re.compile(r"\[unused\d+\]")


class BertTokenizer(Tokenizer):
    """BERT's uncased vocabulary of 30,522 pieces with the special tokens of the GLM models that use it.

    Not lossless: capitals, accents, control characters and the kind and number of spaces are
    forgotten, and words that cannot be spelled become `[UNK]`. `decode` puts spaces where
    English has them (`openglm.vocabularies.detokenize`), so its text has the same tokens again.

    The frame is BERT's own: `[CLS]`, `[SEP]`, `[MASK]`, and `[PAD]` for the end and padding.

    Args:
        vocab: `vocab.txt`, one piece per line.
        task_masks: `[sMASK]` and `[gMASK]` exist. The published weights never learnt them:
            their whole documents have `[MASK]` too.
        decoder_mask: `[dBLOCK]` exists.

    Raises:
        TokenizerError: the file is missing, damaged or not BERT's.
    """

    spells_text = False
    FRAME = ("[PAD]", "[CLS]", "[MASK]", "[UNK]", "[SEP]")

    def __init__(self, vocab: Source, *, task_masks: bool = False, decoder_mask: bool = False) -> None:
        from tokenizers import Tokenizer as Cutter
        from tokenizers import models, normalizers, pre_tokenizers

        self._flags = {"task_masks": task_masks, "decoder_mask": decoder_mask}
        self._pieces = _read_pieces(vocab, self.FRAME)
        ids = {piece: id_ for id_, piece in enumerate(self._pieces)}
        pad, cls, mask, unk, sep = (ids[piece] for piece in self.FRAME)
        special = {"pad": pad, "cls": cls, "mask": mask, "unk": unk, "sep": sep, "eos": pad}
        names = ["sop", "eop", *(["gmask", "smask"] if task_masks else []), *(["dblock"] if decoder_mask else [])]
        special |= {name: len(ids) + i for i, name in enumerate(names)}
        super().__init__(special, max(special.values()) + 1, {**SPECIAL_TEXT, "pad": "[PAD]", "eos": "[PAD]"})
        self._cutter = Cutter(models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=LONGEST_WORD))
        self._cutter.normalizer = normalizers.BertNormalizer(
            clean_text=True, handle_chinese_chars=True, strip_accents=True, lowercase=True
        )
        self._cutter.pre_tokenizer = pre_tokenizers.BertPreTokenizer()

    def _encode_plain(self, text: str) -> list[int]:
        return list(self._cutter.encode(_lower(text), add_special_tokens=False).ids)

    @property
    def num_pieces(self) -> int:
        """Lines of `vocab.txt`."""
        return len(self._pieces)

    def token_text(self, token: int) -> str:
        """How one token reads; pieces that go on with a word with `##` in front."""
        if token in self._text_of:
            return self._text_of[token]
        return self._pieces[token] if 0 <= token < self.num_pieces else REPLACEMENT

    def decode(self, ids: Iterable[int], *, skip_special: bool = False, after_special: str = "") -> str:
        """Text of `ids` as it is usually written (see `Tokenizer.decode`); `decode_spaced` does not guess."""
        decoder = _WordDecoder(self, skip_special=skip_special, after_special=after_special)
        return "".join([*map(decoder.push, ids), decoder.finish()])

    def decode_spaced(self, ids: Iterable[int]) -> str:
        """All words and marks with a space between, as the published code prints them.

        Raises:
            TokenizerError: a negative id.
        """
        return " ".join(self.token_text(checked_id(token)) for token in ids).replace(f" {CONTINUES}", "")

    def _decode_plain(self, ids: Sequence[int]) -> str:
        return self.decode(ids)

    def decoder(self) -> Decoder:
        """For text that appears token by token; constant work per token, one word behind."""
        return _WordDecoder(self)

    def trim_before_blank(self, literal: str) -> str:
        """The literal: spaces make no tokens."""
        return literal

    @cached_property
    def writing_rules(self) -> WritingRules:
        """As `Tokenizer.writing_rules`: no answer opens with the end of a word."""
        return WritingRules.of(self.spellings(), self.word_joins[1])

    @property
    def never_generated(self) -> list[int]:
        """Special ids but for the two that end a fill, and `[unused...]` pieces."""
        unused = (token for token, piece in enumerate(self._pieces) if _UNUSED.fullmatch(piece))
        return sorted({*super().never_generated, *unused})

    @cached_property
    def word_joins(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """As `Tokenizer.word_joins`; the vocabulary itself marks the pieces that go on with a word."""
        ordinary = np.array([token not in self._text_of for token in range(self.num_tokens)], np.bool_)
        begins = np.array([self.token_text(token).startswith(CONTINUES) for token in range(self.num_tokens)], np.bool_)
        return ordinary, ordinary & begins

    @property
    def model_bytes(self) -> bytes:
        """`vocab.txt`, with ends of lines as on Unix."""
        return "".join(f"{piece}\n" for piece in self._pieces).encode()

    def _vocabulary_files(self) -> dict[str, bytes]:
        return {VOCAB_FILE: self.model_bytes}

    def config(self) -> dict[str, Any]:
        """The kind of tokenizer and its table of special tokens."""
        return {"type": "bert", **self._flags}


class _WordDecoder(Decoder):
    def __init__(self, tokenizer: BertTokenizer, *, skip_special: bool = False, after_special: str = "") -> None:
        super().__init__(tokenizer)
        self._words = tokenizer
        self._skip, self._after = skip_special, after_special
        self._detokenizer = Detokenizer()

    def push(self, token: int) -> str:
        text = self._words.token_text(checked_id(token))
        if token in self._words._text_of:
            return "" if self._skip else self._detokenizer.push(text + self._after)
        if text.startswith(CONTINUES) and text != CONTINUES:
            return self._detokenizer.extend(text.removeprefix(CONTINUES))
        return self._detokenizer.push(text)

    def finish(self) -> str:
        return self._detokenizer.finish()


def _lower(text: str) -> str:
    """Python's lower case, which unlike the library's knows that a sigma ends a word differently.

    What does not count as text is dropped first, or it would end words.
    """
    if "Σ" in text:
        text = "".join(c for c in text if c in "\t\n\r" or (unicodedata.category(c)[0] != "C" and c != REPLACEMENT))
    return text.lower()


def _read_pieces(vocab: Source, frame: Sequence[str]) -> list[str]:
    """One piece per line; a blank line or a second one of the same would shift or hide ids."""
    pieces, name = read_lines(vocab)
    seen: dict[str, int] = {}
    for number, piece in enumerate(pieces, 1):
        if not piece.strip():
            raise TokenizerError(f"{name}, line {number}: empty; the file is damaged, copy or download it again")
        if seen.setdefault(piece, number) != number:
            raise TokenizerError(f"{name}, line {number}: {piece!r} stands in line {seen[piece]} already")
    missing = [piece for piece in frame if piece not in seen]
    if missing:
        raise TokenizerError(f"{name}: lacks {', '.join(missing)}; it is no BERT vocabulary, or cut short")
    return pieces
