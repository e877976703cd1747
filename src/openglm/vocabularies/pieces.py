"""SentencePiece vocabularies: openglm's own and that of the published Chinese models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import TokenizerError
from .base import REPLACEMENT, Decoder, Tokenizer, checked_id
from .sources import Source, read_source
from .spelling import ByteSpelledTokenizer

CANONICAL_WINDOW = 32  # pieces; those at its start are segmented alike with less in front of them
SPACE_SIGN = "\u2581"  # SentencePiece writes a space as this sign


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
    def never_generated(self) -> list[int]:
        """Special ids but for the two that end a fill, the unknown piece, and those that stand for no text."""
        processor, pieces = self._processor, list(range(self.num_pieces))
        kinds = [processor.is_unknown(pieces), processor.is_control(pieces), processor.is_unused(pieces)]
        silent = [piece for piece in pieces if any(kind[piece] for kind in kinds)]
        nameless = set(range(self.num_pieces, self.num_tokens)) - set(self.special.values())
        return sorted({*super().never_generated, *silent, *nameless})

    def spellings(self) -> list[bytes]:
        """As `Tokenizer.spellings`, read in one go."""
        pieces = self._processor.id_to_piece(list(range(self.num_pieces)))
        spelled = [piece.replace(SPACE_SIGN, " ").encode() for piece in pieces]
        if _has_bytes(self._processor):
            first = self._processor.piece_to_id("<0x00>")
            for piece in range(first, first + 256):
                spelled[piece] = bytes([int(pieces[piece][1:-1], 16)])
        spelled += [b""] * (self.num_tokens - len(spelled))
        for token in self.never_generated:
            spelled[token] = b""
        return spelled

    @property
    def num_pieces(self) -> int:
        """Pieces of the SentencePiece model, special tokens of GLM not counted."""
        return int(self._processor.get_piece_size())

    def token_text(self, token: int) -> str:
        """How one token reads, with a space for SentencePiece's space sign."""
        if token in self._text_of:
            return self._text_of[token]
        if not 0 <= token < self.num_pieces:
            return REPLACEMENT
        if self._processor.is_byte(token):
            value = int(self._processor.id_to_piece(token)[1:-1], 16)
            return chr(value) if value < 128 else f"<0x{value:02X}>"
        return str(self._processor.id_to_piece(token)).replace(SPACE_SIGN, " ")


class BilingualTokenizer(_SentencePieceTokenizer, ByteSpelledTokenizer):
    """The vocabulary of openglm's own models: unigram pieces with byte fallback, lossless.

    Special tokens follow the pieces in the order of `NAMES`.
    """

    NAMES = ("eos", "cls", "mask", "smask", "gmask", "sop", "eop", "dblock")

    def __init__(self, model: Source) -> None:
        loaded = _load_sentencepiece(model)
        pieces = loaded[0].get_piece_size()
        special = {name: pieces + i for i, name in enumerate(self.NAMES)}
        special["pad"] = special["eos"]
        super().__init__(loaded, special, pieces + len(self.NAMES))
        if not _has_bytes(self._processor):
            raise TokenizerError(
                "this SentencePiece model has no byte pieces, so it cannot spell every text; "
                "train one with `openglm tokenizer train`"
            )
        self._spelled: dict[int, bytes] = {}  # as they are asked for: spelling all would take longer than a fill
        # The sign that stands for a space cannot stand for itself: spell it in bytes.
        self._literal_sign = [self._processor.piece_to_id(f"<0x{b:02X}>") for b in SPACE_SIGN.encode()]

    def _bytes_of(self, piece: int) -> bytes:
        if piece not in self._spelled:
            self._spelled[piece] = self._look_up(piece)
        return self._spelled[piece]

    def _look_up(self, piece: int) -> bytes:
        if self._processor.is_byte(piece):
            return bytes([int(self._processor.id_to_piece(piece)[1:-1], 16)])
        if self._processor.is_unknown(piece) or self._processor.is_control(piece):
            return REPLACEMENT.encode()
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

    def trim_before_blank(self, literal: str) -> str:
        """One space is left to the fill: English pieces carry the space in front of them."""
        return literal[:-1] if literal.endswith(" ") else literal

    def brings_space(self, literal: str) -> bool:
        """The space that `trim_before_blank` took away belongs to the answer."""
        return literal.endswith(" ")

    def is_canonical(self, ids: Sequence[int]) -> bool:
        """As `Tokenizer.is_canonical`, by the last pieces: none reaches back farther than a word."""
        return super().is_canonical(ids[-CANONICAL_WINDOW:])

    def config(self) -> dict[str, Any]:
        """The kind of tokenizer."""
        return {"type": "bilingual"}


class ChineseTokenizer(_SentencePieceTokenizer):
    """The 50,000-piece vocabulary of the published Chinese models.

    Not lossless: it normalises (NFKC, so full-width punctuation becomes half-width), takes
    every run of white space for one space, and has no byte fallback (unknown characters
    read ` ⁇ `).

    Args:
        model: the SentencePiece file (`cog-pretrain.model`, `spiece.model`).
        fix_command_token: the repaired table of GLM-Large-Chinese. The older one, with
            which GLM-10B-Chinese was trained, gives `eop` and `[gMASK]` the same id.
        task_masks: `[sMASK]` and `[gMASK]` exist.
        decoder_mask: `[dBLOCK]` exists.
    """

    drops_space = True

    def __init__(
        self,
        model: Source,
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

    def decoder(self) -> Decoder:
        """For text that appears token by token; constant work per token (unless pieces are bytes)."""
        return Decoder(self) if _has_bytes(self._processor) else _PieceDecoder(self)

    def trim_before_blank(self, literal: str) -> str:
        """White space in front of a blank is dropped, as in the original code."""
        return literal.rstrip()

    @property
    def unknown_id(self) -> int | None:
        """The piece that SentencePiece writes for an unknown character."""
        return int(self._processor.unk_id())

    def is_canonical(self, ids: Sequence[int]) -> bool:
        """True: inside a text pieces lack the space that every text alone begins with."""
        return True

    def config(self) -> dict[str, Any]:
        """The kind of tokenizer and its table of special tokens."""
        return {"type": "chinese", **self._flags}


class _PieceDecoder(Decoder):
    """Piece by piece: only where a run of pieces begins does SentencePiece drop a space."""

    def __init__(self, tokenizer: ChineseTokenizer) -> None:
        super().__init__(tokenizer)
        self._pieces = tokenizer
        self._begins = True

    def push(self, token: int) -> str:
        token = checked_id(token)
        if token in self._pieces._text_of:
            self._begins = True
            return self._pieces._text_of[token]
        text = self._pieces._decode_plain([token]) if self._begins else self._inside(token)
        self._begins = self._begins and not text
        return text

    def finish(self) -> str:
        return ""

    def _inside(self, token: int) -> str:
        processor = self._pieces._processor
        if token >= self._pieces.num_pieces or processor.is_unknown(token):
            return self._pieces._decode_plain([processor.unk_id()])
        if processor.is_control(token):
            return ""
        return str(processor.id_to_piece(token)).replace(SPACE_SIGN, " ")


def _has_bytes(processor: Any) -> bool:
    return bool(processor.is_byte(processor.piece_to_id("<0x00>")))


def _load_sentencepiece(model: Source) -> tuple[Any, bytes]:
    import sentencepiece

    content, name = read_source(model)
    try:
        if not content:  # sentencepiece takes empty bytes for no model at all, without an error
            raise ValueError("empty file")
        return sentencepiece.SentencePieceProcessor(model_proto=content), content
    except Exception as error:  # sentencepiece raises RuntimeError or TypeError, by version
        raise TokenizerError(
            f"{name}: not a SentencePiece model, or damaged; copy or download the vocabulary again"
        ) from error
