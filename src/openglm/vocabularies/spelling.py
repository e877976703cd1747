"""Vocabularies whose pieces are strings of bytes: decoding is joining, and nothing gets lost."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from .base import REPLACEMENT, Decoder, Tokenizer, checked_id

UNKNOWN = REPLACEMENT.encode()  # the spelling of ids past the vocabulary


class ByteSpelledTokenizer(Tokenizer):
    """Shared by the vocabularies that can spell every text in bytes.

    Attributes:
        _spelling: the bytes of each piece; set by the subclass.
    """

    _spelling: Sequence[bytes]

    def _decode_plain(self, ids: Sequence[int]) -> str:
        known = len(self._spelling)
        spelled = b"".join(self._spelling[i] if i < known else UNKNOWN for i in ids)
        return spelled.decode("utf-8", errors="replace")

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
        spelling = self._bytes._spelling
        return self._utf8.decode(spelling[token] if token < len(spelling) else UNKNOWN)

    def finish(self) -> str:
        return self._utf8.decode(b"", final=True)
