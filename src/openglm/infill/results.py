"""What filling gives back."""

from __future__ import annotations

from dataclasses import dataclass
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
        finish_reason: "stop" (the model ended it) or "length" (`max_new_tokens` reached).
    """

    text: str
    token_ids: list[int]
    logprob: float
    token_logprobs: list[float]
    start: int
    end: int
    finish_reason: str


@dataclass(frozen=True)
class Filled:
    """A text with its blanks filled.

    Attributes:
        text: what is not a blank is exactly as it was given.
        blanks: the fills, in text order.
        logprob: of all fills together, in nats.
        alternatives: the other answers, best first for beams, in order of drawing for samples.
        truncated: tokens of the text that the model did not see (see `truncate`).
    """

    text: str
    blanks: list[Fill]
    logprob: float
    alternatives: list[Filled]
    truncated: int = 0

    def __str__(self) -> str:
        return self.text

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        out: dict[str, Any] = {
            "text": self.text,
            "logprob": round(self.logprob, 6),
            "blanks": [
                {
                    "text": fill.text,
                    "logprob": round(fill.logprob, 6),
                    "token_ids": fill.token_ids,
                    "start": fill.start,
                    "end": fill.end,
                    "finish_reason": fill.finish_reason,
                }
                for fill in self.blanks
            ],
        }
        if self.alternatives:
            out["alternatives"] = [other.to_dict() for other in self.alternatives]
        if self.truncated:
            out["truncated"] = self.truncated
        return out


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
    """

    text: str
    fills: list[str]
    logprob: float
    blank_logprobs: list[float]
    token_logprobs: list[list[float]]
    token_ids: list[list[int]]
    probability: float = 1.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "filled": self.text,
            "fills": self.fills,
            "logprob": round(self.logprob, 6),
            "blank_logprobs": [round(value, 6) for value in self.blank_logprobs],
            "probability": round(self.probability, 6),
        }


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
