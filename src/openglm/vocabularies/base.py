"""What the rest of openglm asks of a vocabulary, and what is the same for all of them.

Special tokens are cut out of a text here and put back into one here; what lies between
them is the business of the modules beside this one.
"""

from __future__ import annotations

import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..blanks import BlankKind, Markers
from ..errors import TokenizerError, UnsupportedBlankError
from .writing import WritingRules

MODEL_FILE = "tokenizer.model"
CONFIG_FILE = "tokenizer_config.json"
# By which transformers knows whose folder it is, so that no other class claims it.
CLASS_KEY, TRANSFORMERS_CLASS = "tokenizer_class", "OpenGLMTokenizer"
REPLACEMENT = "\ufffd"  # how an id that no vocabulary knows reads

# How a special token is written in text. Names are those of the published code.
SPECIAL_TEXT = {
    "pad": "<|endoftext|>",
    "eos": "<|endoftext|>",
    "sep": "[SEP]",
    "cls": "[CLS]",
    "mask": "[MASK]",
    "unk": "[UNK]",
    "sop": "<|startofpiece|>",
    "eop": "<|endofpiece|>",
    "smask": "[sMASK]",
    "gmask": "[gMASK]",
    "dblock": "[dBLOCK]",
}
_BLANK_NAMES = {BlankKind.MASK: "mask", BlankKind.SMASK: "smask", BlankKind.GMASK: "gmask"}
_SENTENCE_END = re.compile("[.?!;:。？！；…\n]")


def in_word(character: str) -> bool:
    """Letters and digits, but not the scripts that write no spaces (from the CJK blocks up)."""
    return character.isalnum() and ord(character) < 0x2E80


class Decoder:
    """Turns ids into text one at a time; `push` returns what has become certain.

    This one decodes everything again for every id: right for every vocabulary, but the work
    grows with the square of the length. Vocabularies that can do better have their own.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._given = 0

    def push(self, token: int) -> str:
        """Add one id; the new text, or "" while a character is still incomplete."""
        self._ids.append(token)
        text = self._tokenizer.decode(self._ids)
        return "" if text.endswith(REPLACEMENT) else self._advance(text)

    def finish(self) -> str:
        """Whatever is still held back."""
        return self._advance(self._tokenizer.decode(self._ids))

    def _advance(self, text: str) -> str:
        new, self._given = text[self._given :], max(self._given, len(text))
        return new


class Tokenizer(ABC):
    """What the rest of openglm asks of a vocabulary.

    Attributes:
        special: name -> id of the special tokens it has (names as in `SPECIAL_TEXT`).
        special_text: name -> how each of them is written.
        num_tokens: ids in use are 0 .. num_tokens - 1; models may have more rows.

    Args:
        text: name -> how the token is written; by default `SPECIAL_TEXT`.
    """

    special: Mapping[str, int]
    special_text: Mapping[str, str]
    num_tokens: int

    def __init__(self, special: Mapping[str, int], num_tokens: int, text: Mapping[str, str] = SPECIAL_TEXT) -> None:
        self.special = dict(special)
        self.special_text = {name: text[name] for name in special}
        self.num_tokens = num_tokens
        # Where two names share an id the one registered last is printed, as in the original code.
        self._text_of = {id_: text[name] for name, id_ in special.items()}
        self._id_of = {text[name]: id_ for name, id_ in special.items()}
        self._split = re.compile("(" + "|".join(re.escape(wording) for wording in self._id_of) + ")")
        self._strip_before = {text[name] for name in _BLANK_NAMES.values() if name in special}

    # --- what a vocabulary provides -------------------------------------------------

    @abstractmethod
    def _encode_plain(self, text: str) -> list[int]:
        """Ids of text in which nothing is special."""

    @abstractmethod
    def _decode_plain(self, ids: Sequence[int]) -> str:
        """Text of ids none of which is special."""

    @abstractmethod
    def token_text(self, token: int) -> str:
        """How one token reads, for people; special tokens by their name."""

    @abstractmethod
    def trim_before_blank(self, literal: str) -> str:
        """The literal in front of a blank as the model should see it (white space at its end)."""

    def brings_space(self, literal: str) -> bool:
        """Whether an answer behind this literal brings the space in front of it (see `trim_before_blank`)."""
        return False

    def answer_in_place(self, literal: str, answer: str) -> str:
        """An answer as it would be written behind this literal; an empty one stays empty."""
        return f" {answer}" if answer and self.brings_space(literal) else answer

    def answer_shown(self, literal: str, written: str) -> str:
        """What was written behind this literal as it stands in the text: undoes `answer_in_place`."""
        return written[1:] if self.brings_space(literal) and written.startswith(" ") else written

    def spellings(self) -> list[bytes]:
        """The bytes of each of the `num_tokens`; special tokens, and others that stand for no text, have none."""
        return [b"" if t in self._text_of else self.token_text(t).encode() for t in range(self.num_tokens)]

    spells_text = True  # whether tokens put together are the text, but for a space at its start
    drops_space = False  # whether the space at the start of a text is left out when it is read back

    def is_canonical(self, ids: Sequence[int]) -> bool:
        """Whether a text is read in just these tokens; it may have been cut off between two of them."""
        return self.encode(self.decode(ids)) == list(ids)

    @cached_property
    def writing_rules(self) -> WritingRules:
        """What may be written next."""
        return WritingRules.of(self.spellings(), np.zeros(self.num_tokens, np.bool_))

    @property
    @abstractmethod
    def model_bytes(self) -> bytes:
        """The vocabulary, as bytes that are equal for equal vocabularies."""

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """What is needed beside the vocabulary to build this tokenizer again."""

    # --- what everyone uses -----------------------------------------------------------

    def encode(self, text: str, *, allow_special: bool = False) -> list[int]:
        """Token ids of `text`.

        Args:
            allow_special: read the wording of special tokens (`[MASK]`, `<|endofpiece|>`,
                ...) as those tokens. By default it is ordinary text.

        Raises:
            TokenizerError: the string holds half of a surrogate pair, which is not Unicode text.
        """
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise TokenizerError(
                f"the text is not valid Unicode (lone surrogate at character {error.start}); decode it as UTF-8 first"
            ) from error
        if not allow_special:
            return self._encode_plain(text)
        parts = self._split.split(text)
        ids: list[int] = []
        for i, part in enumerate(parts):
            if i % 2:
                ids.append(self._id_of[part])
                continue
            if i + 1 < len(parts) and parts[i + 1] in self._strip_before:
                part = self.trim_before_blank(part)
            ids += self._encode_plain(part)
        return ids

    def decode(self, ids: Iterable[int], *, skip_special: bool = False, after_special: str = "") -> str:
        """Text of `ids`; special tokens appear by their name unless skipped.

        Args:
            after_special: text put behind each special token (FlagAI's newer tokenizer
                puts a space there).

        Raises:
            TokenizerError: a negative id. Ids past the vocabulary (the padding rows of a
                model's embedding) decode to U+FFFD.
        """
        parts: list[str] = []
        run: list[int] = []
        for token in ids:
            if token in self._text_of:
                if run:
                    parts.append(self._decode_plain(run))
                    run = []
                if not skip_special:
                    parts.append(self._text_of[token] + after_special)
            else:
                run.append(checked_id(token))
        if run:
            parts.append(self._decode_plain(run))
        return "".join(parts)

    def decoder(self) -> Decoder:
        """For text that appears token by token."""
        return Decoder(self)

    @property
    def eos(self) -> int:
        """End of a text; also the padding id."""
        return self.special["eos"]

    @property
    def cls(self) -> int:
        """Opens every text."""
        return self.special["cls"]

    @property
    def markers(self) -> Markers:
        """The ids that frame Part B."""
        return Markers(self.special["sop"], self.special["eop"])

    def blank_id(self, kind: BlankKind) -> int:
        """The id that stands for a blank.

        Raises:
            UnsupportedBlankError: the vocabulary has no such token.
        """
        name = _BLANK_NAMES[kind]
        if name not in self.special:
            raise UnsupportedBlankError(f"this vocabulary has no {kind} token; use [MASK]")
        return self.special[name]

    @property
    def unknown_id(self) -> int | None:
        """What stands for characters that the vocabulary cannot spell; None where it can spell all."""
        return self.special.get("unk")

    @property
    def never_generated(self) -> list[int]:
        """Ids that must not appear inside a fill: special ones, but for the two that end one."""
        ending = {self.special["eop"], self.special["eos"]}
        return sorted(set(self.special.values()) - ending)

    @cached_property
    def sentence_ends(self) -> NDArray[np.bool_]:
        """[num_tokens] bool: pieces that hold a sentence end, Chinese or English, or a newline."""
        ends = [
            token not in self._text_of and bool(_SENTENCE_END.search(self.token_text(token)))
            for token in range(self.num_tokens)
        ]
        return np.array(ends, np.bool_)

    @cached_property
    def word_joins(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """[num_tokens] bool each: pieces that end, and pieces that begin, inside a word.

        Words are runs of letters and digits of scripts that write spaces between words; two
        neighbouring tokens belong to one word if the first may go on and the second goes on.
        """
        texts = ["" if t in self._text_of else self.token_text(t) for t in range(self.num_tokens)]
        joins = [[bool(text) and in_word(text[edge]) for text in texts] for edge in (-1, 0)]
        return np.array(joins[0], np.bool_), np.array(joins[1], np.bool_)

    @cached_property
    def identity(self) -> str:
        """A fingerprint of vocabulary and special tokens (hex), to tell data and models apart."""
        digest = hashlib.sha256(self.model_bytes)
        digest.update(json.dumps(self.config(), sort_keys=True).encode())
        return digest.hexdigest()[:16]

    def files(self) -> dict[str, bytes]:
        """File name -> content, what `load_tokenizer` reads back."""
        values = {**self.config(), CLASS_KEY: TRANSFORMERS_CLASS}
        config = json.dumps(values, ensure_ascii=False, indent=2) + "\n"
        return {**self._vocabulary_files(), CONFIG_FILE: config.encode()}

    def _vocabulary_files(self) -> dict[str, bytes]:
        return {MODEL_FILE: self.model_bytes}


def checked_id(token: int) -> int:
    """The id as an int.

    Raises:
        TokenizerError: it is negative.
    """
    if token < 0:
        raise TokenizerError(f"token id {token} is negative")
    return int(token)
