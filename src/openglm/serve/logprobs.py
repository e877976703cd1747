"""Log-probabilities as OpenAI's completions give them: tokens as text, each with its alternatives."""

from __future__ import annotations

from collections.abc import Sequence

from ..tokenizer import Tokenizer
from .schemas import Json


def named(tokenizer: Tokenizer, best: Sequence[tuple[int, float]], written: tuple[int, str, float]) -> dict[str, float]:
    """Tokens by their text with their log-probabilities, the best first.

    Args:
        best: the most probable tokens.
        written: token, text and log-probability of the one that was written; it is among them, by that text.
    """
    token, text, logprob = written
    out = {text: logprob}
    for other, value in best:
        if other != token:
            out.setdefault(tokenizer.decode([other]), value)
    return dict(sorted(out.items(), key=lambda each: -each[1]))


def joined(first: Json, second: Json) -> Json:
    """`CompletionLogprobs` of two texts, one behind the other."""
    moved = {**second, "text_offset": [offset + sum(map(len, first["tokens"])) for offset in second["text_offset"]]}
    return {name: None if first[name] is None else first[name] + moved[name] for name in first}
