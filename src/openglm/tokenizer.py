"""Text <-> token ids, behind one interface, and the special tokens of each vocabulary.

`BilingualTokenizer` is openglm's own: lossless, every string decodes to exactly itself.
`ChineseTokenizer` is the 50,000-piece SentencePiece vocabulary of the published Chinese
models, with each published table of special tokens. Ordinary text never turns into a
special token unless the caller asks for it with `allow_special=True`.

Knows nothing about Part A and Part B (`openglm.blanks`) or models.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .blanks import BlankKind, Markers
from .errors import TokenizerError, UnsupportedBlankError

MODEL_FILE = "tokenizer.model"
CONFIG_FILE = "tokenizer_config.json"
SPACE_SIGN = "\u2581"  # SentencePiece writes a space as this sign

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


def _in_word(character: str) -> bool:
    """Letters and digits, but not the scripts that write no spaces (from the CJK blocks up)."""
    return character.isalnum() and ord(character) < 0x2E80


class Decoder:
    """Turns ids into text one at a time; `push` returns what has become certain."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._given = 0

    def push(self, token: int) -> str:
        """Add one id; the new text, or "" while a character is still incomplete."""
        self._ids.append(token)
        text = self._tokenizer.decode(self._ids)
        return "" if text.endswith("\ufffd") else self._advance(text)

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
        num_tokens: ids in use are 0 .. num_tokens - 1; models may have more rows.
    """

    special: Mapping[str, int]
    num_tokens: int

    def __init__(self, special: Mapping[str, int], num_tokens: int) -> None:
        self.special = dict(special)
        self.num_tokens = num_tokens
        # Where two names share an id the one registered last is printed, as in the original code.
        self._text_of = {id_: SPECIAL_TEXT[name] for name, id_ in special.items()}
        self._id_of = {SPECIAL_TEXT[name]: id_ for name, id_ in special.items()}
        self._split = re.compile("(" + "|".join(re.escape(text) for text in self._id_of) + ")")
        self._strip_before = {SPECIAL_TEXT[name] for name in _BLANK_NAMES.values() if name in special}

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

    def answer_in_place(self, literal: str, answer: str) -> str:
        """An answer as it would be written behind this literal (see `trim_before_blank`)."""
        return answer

    @property
    @abstractmethod
    def model_bytes(self) -> bytes:
        """The vocabulary file."""

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """What is needed beside the vocabulary file to build this tokenizer again."""

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
                if token < 0:
                    raise TokenizerError(f"token id {token} is negative")
                run.append(int(token))
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
    def never_generated(self) -> list[int]:
        """Special ids that must not appear inside a fill (all but the two that end one)."""
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
        joins = [[bool(text) and _in_word(text[edge]) for text in texts] for edge in (-1, 0)]
        return np.array(joins[0], np.bool_), np.array(joins[1], np.bool_)

    @cached_property
    def identity(self) -> str:
        """A fingerprint of vocabulary and special tokens (hex), to tell data and models apart."""
        digest = hashlib.sha256(self.model_bytes)
        digest.update(json.dumps(self.config(), sort_keys=True).encode())
        return digest.hexdigest()[:16]

    def files(self) -> dict[str, bytes]:
        """File name -> content, what `load_tokenizer` reads back."""
        config = json.dumps(self.config(), ensure_ascii=False, indent=2) + "\n"
        return {MODEL_FILE: self.model_bytes, CONFIG_FILE: config.encode()}


class _SentencePieceTokenizer(Tokenizer):
    """Shared by both vocabularies: holds the SentencePiece processor."""

    def __init__(self, loaded: tuple[Any, bytes], special: Mapping[str, int], num_tokens: int) -> None:
        super().__init__(special, num_tokens)
        self._processor, self._bytes = loaded

    @property
    def model_bytes(self) -> bytes:
        """The serialised SentencePiece model."""
        return self._bytes

    @property
    def num_pieces(self) -> int:
        """Pieces of the SentencePiece model, special tokens of GLM not counted."""
        return int(self._processor.get_piece_size())

    def token_text(self, token: int) -> str:
        """How one token reads, with a space for SentencePiece's space sign."""
        if token in self._text_of:
            return self._text_of[token]
        if not 0 <= token < self.num_pieces:
            return "\ufffd"
        if self._processor.is_byte(token):
            value = int(self._processor.id_to_piece(token)[1:-1], 16)
            return chr(value) if value < 128 else f"<0x{value:02X}>"
        return str(self._processor.id_to_piece(token)).replace(SPACE_SIGN, " ")


class BilingualTokenizer(_SentencePieceTokenizer):
    """The vocabulary of openglm's own models: unigram pieces with byte fallback, lossless.

    Special tokens follow the pieces in the order of `NAMES`.
    """

    NAMES = ("eos", "cls", "mask", "smask", "gmask", "sop", "eop", "dblock")

    def __init__(self, model: bytes | str | Path) -> None:
        loaded = _load_sentencepiece(model)
        pieces = loaded[0].get_piece_size()
        special = {name: pieces + i for i, name in enumerate(self.NAMES)}
        special["pad"] = special["eos"]
        super().__init__(loaded, special, pieces + len(self.NAMES))
        if not self._processor.is_byte(self._processor.piece_to_id("<0x00>")):
            raise TokenizerError(
                "this SentencePiece model has no byte pieces, so it cannot spell every text; "
                "train one with `openglm tokenizer train`"
            )
        self._spelling = [self._spell(i) for i in range(pieces)]
        # The sign that stands for a space cannot stand for itself: spell it in bytes.
        self._literal_sign = [self._processor.piece_to_id(f"<0x{b:02X}>") for b in SPACE_SIGN.encode()]

    def _spell(self, piece: int) -> bytes:
        if self._processor.is_byte(piece):
            return bytes([int(self._processor.id_to_piece(piece)[1:-1], 16)])
        if self._processor.is_unknown(piece) or self._processor.is_control(piece):
            return "\ufffd".encode()
        return str(self._processor.id_to_piece(piece)).replace(SPACE_SIGN, " ").encode()

    def _encode_plain(self, text: str) -> list[int]:
        if SPACE_SIGN not in text:
            return list(self._processor.encode(text))
        ids: list[int] = []
        for i, part in enumerate(text.split(SPACE_SIGN)):
            if i:
                ids += self._literal_sign
            ids += self._processor.encode(part)
        return ids

    def _decode_plain(self, ids: Sequence[int]) -> str:
        known = len(self._spelling)
        spelled = b"".join(self._spelling[i] if i < known else b"\xef\xbf\xbd" for i in ids)
        return spelled.decode("utf-8", errors="replace")

    def decoder(self) -> Decoder:
        """For text that appears token by token; constant work per token."""
        return _ByteDecoder(self)

    def trim_before_blank(self, literal: str) -> str:
        """One space is left to the fill: English pieces carry the space in front of them."""
        return literal[:-1] if literal.endswith(" ") else literal

    def answer_in_place(self, literal: str, answer: str) -> str:
        """The space that `trim_before_blank` took away belongs to the answer."""
        return f" {answer}" if literal.endswith(" ") else answer

    def config(self) -> dict[str, Any]:
        """The kind of tokenizer."""
        return {"type": "bilingual"}


class _ByteDecoder(Decoder):
    def __init__(self, tokenizer: BilingualTokenizer) -> None:
        super().__init__(tokenizer)
        self._bytes = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        if token in self._bytes._text_of:
            return self._utf8.decode(b"", final=True) + self._bytes._text_of[token]
        if token < 0:
            raise TokenizerError(f"token id {token} is negative")
        spelling = self._bytes._spelling
        return self._utf8.decode(spelling[token] if token < len(spelling) else b"\xef\xbf\xbd")

    def finish(self) -> str:
        return self._utf8.decode(b"", final=True)


class ChineseTokenizer(_SentencePieceTokenizer):
    """The 50,000-piece vocabulary of the published Chinese models.

    Not lossless: it normalises (NFKC, so full-width punctuation becomes half-width) and
    has no byte fallback (unknown characters read ` ⁇ `).

    Args:
        model: the SentencePiece file (`cog-pretrain.model`, `spiece.model`).
        fix_command_token: the repaired table of GLM-Large-Chinese. The older one, with
            which GLM-10B-Chinese was trained, gives `eop` and `[gMASK]` the same id.
        task_masks: `[sMASK]` and `[gMASK]` exist.
        decoder_mask: `[dBLOCK]` exists.
    """

    def __init__(
        self,
        model: bytes | str | Path,
        *,
        fix_command_token: bool = True,
        task_masks: bool = True,
        decoder_mask: bool = False,
    ) -> None:
        self._flags = {"fix_command_token": fix_command_token, "task_masks": task_masks, "decoder_mask": decoder_mask}
        loaded = _load_sentencepiece(model)
        special = self.special_ids(loaded[0].get_piece_size(), **self._flags)
        super().__init__(loaded, special, max(special.values()) + 1)

    @staticmethod
    def special_ids(pieces: int, fix_command_token: bool, task_masks: bool, decoder_mask: bool) -> dict[str, int]:
        """The published tables (their format description, section 4.1); `pieces` is 50,000."""
        names = ("pad", "sep", "cls", "mask", "unk")
        special = {name: pieces + i for i, name in enumerate(names)}
        special["eos"] = special["pad"]
        special |= {"sop": pieces + 6, "eop": pieces + 7}
        following = pieces + 8
        if task_masks:
            # The unrepaired table counts one id too few here, hence the collision with eop.
            masks = {"smask": pieces + 8, "gmask": pieces + 9 if fix_command_token else pieces + 7}
            special |= masks
            following = max(masks.values()) + 1
        if decoder_mask:
            special["dblock"] = following
        return special

    def _encode_plain(self, text: str) -> list[int]:
        return list(self._processor.encode(text)) if text.strip() else []

    def _decode_plain(self, ids: Sequence[int]) -> str:
        known = [i if i < self.num_pieces else self._processor.unk_id() for i in ids]
        return str(self._processor.decode(known))

    def trim_before_blank(self, literal: str) -> str:
        """White space in front of a blank is dropped, as in the original code."""
        return literal.rstrip()

    def config(self) -> dict[str, Any]:
        """The kind of tokenizer and its table of special tokens."""
        return {"type": "chinese", **self._flags}


def _load_sentencepiece(model: bytes | str | Path) -> tuple[Any, bytes]:
    import sentencepiece

    if isinstance(model, (str, Path)):
        path = Path(model)
        if not path.is_file():
            raise TokenizerError(f"{path}: no such vocabulary file")
        model = path.read_bytes()
    try:
        if not model:  # sentencepiece takes empty bytes for no model at all, without an error
            raise ValueError("empty file")
        return sentencepiece.SentencePieceProcessor(model_proto=model), model
    except Exception as error:  # sentencepiece raises RuntimeError or TypeError, by version
        raise TokenizerError("the vocabulary file is not a SentencePiece model, or is damaged") from error


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a model folder in openglm's own format.

    Raises:
        TokenizerError: a missing or damaged file, or an unknown kind of tokenizer.
    """
    path = folder / CONFIG_FILE
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        kind = config.pop("type")
    except FileNotFoundError as error:
        raise TokenizerError(f"{path}: no such file; a model folder needs {CONFIG_FILE} and {MODEL_FILE}") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise TokenizerError(f"{path}: not a tokenizer configuration (a JSON object with a `type`)") from error
    if kind == "bilingual":
        return BilingualTokenizer(folder / MODEL_FILE)
    if kind == "chinese":
        try:
            return ChineseTokenizer(folder / MODEL_FILE, **config)
        except TypeError as error:
            raise TokenizerError(f"{path}: unknown settings for a Chinese tokenizer: {sorted(config)}") from error
    raise TokenizerError(f"{path}: unknown tokenizer type {kind!r}; known are 'bilingual' and 'chinese'")
