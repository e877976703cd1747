"""What filling and scoring give back.

`to_dict` is what the command line writes and the server answers: one name for one thing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Fill:
    """What was written into one blank.

    Attributes:
        text: as it stands in the filled text.
        token_ids: its tokens, without the token that ended it.
        logprob: log-probability of the fill under the model in nats, its end included.
        token_logprobs: of each token, then of the end (absent when cut off by the limit).
        start, end: where it stands in `Filled.text`, in characters.
        finish_reason: "stop" (the model ended it), "length" (`max_new_tokens` reached), or "unmet"
            (so too, or with nothing left to write, before the conditions on it were met).
    """

    text: str
    token_ids: list[int]
    logprob: float
    token_logprobs: list[float]
    start: int
    end: int
    finish_reason: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, under the names of the attributes."""
        return dict(vars(self))


@dataclass(frozen=True)
class Filled:
    """A text with its blanks filled.

    Attributes:
        text: what is not a blank is exactly as it was given.
        blanks: the fills, in text order.
        logprob: of all fills together, in nats.
        alternatives: the other answers, best first for beams, in order of drawing for samples.
        truncated: tokens of the text that the model did not see (see `truncate`).
        score: what answers are ranked by: `logprob`, for beams divided by
            length ** length_penalty, the ends counted.
    """

    text: str
    blanks: list[Fill]
    logprob: float
    alternatives: list[Filled]
    truncated: int = 0
    score: float = field(default=math.nan, compare=False, repr=False)

    def __str__(self) -> str:
        return self.text

    @property
    def answers(self) -> list[Filled]:
        """All answers, this one among them, best first by `score`.

        >>> result = openglm.load().fill("I come from [MASK] York.", num_beams=3, num_return_sequences=2)
        >>> result.answers == [result, *result.alternatives]  # beams come best first
        True
        """
        return sorted((self, *self.alternatives), key=lambda answer: -answer.score)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, under the names of the attributes; without `score`."""
        own = {"text": self.text, "logprob": self.logprob, "blanks": [fill.to_dict() for fill in self.blanks]}
        alternatives = [_without_others(other.to_dict()) for other in self.alternatives]
        return {**own, "alternatives": alternatives, "truncated": self.truncated}


@dataclass(frozen=True)
class Scored:
    """Given fills and how probable the model finds them.

    Attributes:
        text: the text with these fills.
        fills: as given.
        logprob: of all fills together, their ends included, in nats.
        blank_logprobs: of each fill.
        token_logprobs: of each token of each fill, then of its end.
        token_ids: of each fill, without the end.
        probability: among the choices it was ranked with, summing to 1; 1.0 for a single score.
        index: its place in the list of choices that was given; 0 for a single score.
        truncated: tokens of the text that the model did not see (see `truncate`).

    >>> scored = openglm.load().score("[MASK] and [MASK]", ["salt", "pepper"])
    >>> scored.text, scored.fills, len(scored.blank_logprobs)
    ('salt and pepper', ['salt', 'pepper'], 2)
    """

    text: str
    fills: list[str]
    logprob: float
    blank_logprobs: list[float]
    token_logprobs: list[list[float]]
    token_ids: list[list[int]]
    probability: float = 1.0
    index: int = 0
    truncated: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, under the names of the attributes."""
        return dict(vars(self))


@dataclass(frozen=True)
class Piece:
    """A piece of a fill, as soon as it is certain.

    Attributes:
        blank: index of the blank it belongs to.
        text: may be empty in the last piece of a fill.
        finish_reason: None while the fill goes on, else as in `Fill`.
        answer: which of several answers it belongs to.
    """

    blank: int
    text: str
    finish_reason: str | None = None
    answer: int = 0


def _without_others(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if name not in ("alternatives", "truncated")}
