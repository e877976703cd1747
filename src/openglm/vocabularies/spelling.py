"""Vocabularies whose pieces are strings of bytes: decoding is joining, and nothing gets lost."""

from __future__ import annotations

import codecs
from abc import abstractmethod
from collections.abc import Sequence

from .base import REPLACEMENT, Decoder, Tokenizer, checked_id

UNKNOWN = REPLACEMENT.encode()  # the spelling of ids past the vocabulary


class ByteSpelledTokenizer(Tokenizer):
    """Shared by the vocabularies that can spell every text in bytes."""

    @property
    @abstractmethod
    def num_pieces(self) -> int:
        """Pieces of the vocabulary."""

    @abstractmethod
    def _bytes_of(self, piece: int) -> bytes:
        """The bytes of a piece."""

    @property
    def unknown_id(self) -> int | None:
        """None: every text can be spelled."""
        return None

    def _spell(self, token: int) -> bytes:
        return self._bytes_of(token) if token < self.num_pieces else UNKNOWN

    def _decode_plain(self, ids: Sequence[int]) -> str:
        return b"".join(map(self._spell, ids)).decode("utf-8", errors="replace")

    def decoder(self) -> Decoder:
        """For text that appears token by token; constant work per token."""
        return _ByteDecoder(self)


class _ByteDecoder(Decoder):
    def __init__(self, tokenizer: ByteSpelledTokenizer) -> None:
        super().__init__(tokenizer)
        self._bytes = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        token = checked_id(token)
        if token in self._bytes._text_of:
            return self._utf8.decode(b"", final=True) + self._bytes._text_of[token]
        return self._utf8.decode(self._bytes._spell(token))

    def finish(self) -> str:
        return self._utf8.decode(b"", final=True)
