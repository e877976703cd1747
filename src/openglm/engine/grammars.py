"""Regular expressions, JSON schemas and grammars as masks of tokens, by `llguidance`.

Knows patterns, bytes and the library; nothing about blanks.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..errors import OptionError
from ..extras import library
from ..tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

_SPECIAL = set(r"\.+*?()|[]{}^$#&-~/")
_SPACING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}  # as json.dumps writes
_NAMED = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def pattern_of(regex: str, *, around: bool = False, behind: bool = False) -> str:
    """A regular expression in Lark's notation.

    Args:
        around: it is a word, not an expression, with anything around it.
        behind: with something behind it.
    """
    if around:
        word = "".join(_NAMED.get(c, f"\\{c}" if c in _SPECIAL else c) for c in regex)
        return f"/(?s:.*{word}{'.+' if behind else '.*'})/"
    out, escaped = "", False
    for character in regex:
        out += _NAMED.get(character, "\\/" if character == "/" and not escaped else character)
        escaped = character == "\\" and not escaped
    return f"/{out}/"


class Grammars:
    """The grammars of one vocabulary; what was compiled once is kept."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._library: LLTokenizer | None = None
        self._compiled: dict[tuple[object, ...], LLMatcher] = {}
        self._empty: dict[int, bool] = {}

    def matcher(
        self, patterns: Sequence[str], json_schema: str | None, grammar: str | None, *, brings_space: bool
    ) -> LLMatcher:
        """For texts that match all patterns, the schema or the grammar; not to be changed (`deep_copy`).

        Args:
            brings_space: behind a space that the text brings.

        Raises:
            OptionError: what is wrong with it, or that no text matches; a vocabulary that cannot.
        """
        key = (tuple(patterns), json_schema, grammar, brings_space)
        if key not in self._compiled:
            if json_schema is not None:
                body: dict[str, Any] = {"json_schema": _json(json_schema)}
            else:
                body = {"lark_grammar": grammar or f"start: BODY\nBODY: {' & '.join(patterns)}"}
            plain = self._compile([body])
            space = '" "' if brings_space else '" "?' if self._tokenizer.drops_space else ""
            made = self._compile([{"lark_grammar": f"start: {space} @body"}, {"name": "body", **body}])
            self._compiled[key] = made
            self._empty[id(made)] = bool(plain.is_accepting())
        return self._compiled[key]

    def may_be_empty(self, matcher: LLMatcher) -> bool:
        """Whether the empty text matches."""
        return self._empty[id(matcher)]

    def _compile(self, grammars: list[dict[str, Any]]) -> LLMatcher:
        guidance = library("llguidance", extra="conditions", purpose="a condition on the text of a blank")
        matcher: LLMatcher = guidance.LLMatcher(self._vocabulary(), json.dumps({"grammars": grammars}))
        if matcher.is_error():
            raise OptionError(f"the condition on a blank cannot be read: {_reason(matcher.get_error())}")
        if not matcher.is_accepting() and not self._leads_on(matcher):
            raise OptionError("no text meets the conditions on a blank; they exclude each other")
        return matcher

    def _leads_on(self, matcher: LLMatcher) -> bool:
        import numpy as np

        bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little")
        bits[self._tokenizer.special["eop"]] = 0
        return bool(bits.any())

    def _vocabulary(self) -> LLTokenizer:
        if self._library is None:
            if not self._tokenizer.spells_text:
                raise OptionError(
                    "this model's vocabulary forgets spaces, so that only choices can be asked of a blank; list them"
                )
            guidance = library("llguidance", extra="conditions", purpose="a condition on the text of a blank")
            self._library = guidance.LLTokenizer(guidance.TokenizerWrapper(_Vocabulary(self._tokenizer)))
        return self._library


class _Vocabulary:
    """A vocabulary as llguidance wants it."""

    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.eos_token_id = tokenizer.special["eop"]
        # What stands for no text gets bytes that no text has.
        self.tokens = [spelling or b"\xff<%d>" % token for token, spelling in enumerate(tokenizer.spellings())]
        self.special_token_ids = sorted(set(tokenizer.special.values()))

    def __call__(self, text: str | bytes) -> list[int]:
        return self._tokenizer.encode(text.decode("utf-8", errors="ignore") if isinstance(text, bytes) else text)


def _json(schema: str) -> Any:
    try:
        values = json.loads(schema)
    except ValueError as error:
        raise OptionError(f"json_schema is not JSON ({error})") from error
    if isinstance(values, dict):
        values.setdefault("x-guidance", _SPACING)
    return values


def _reason(error: str) -> str:
    """What the library says, without the grammar that was made of the condition."""
    lines = [line.rstrip() for line in error.splitlines()]
    cut = next((i for i, line in enumerate(lines) if line.lstrip()[:1].isdigit() and " | " in line), len(lines))
    return "\n".join(lines[:cut]).strip()[:500]
