"""Greedy decoding and sampling: rows in step, each on its own blank.

A row that ends a blank goes on with its next one at the next step; a row whose text is
done leaves the batch. Yields what was decided as it is decided, so that the same code
serves whole answers and streams.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from numpy.random import Generator
from torch import Tensor

from ..blanks import Writer
from .options import FillOptions
from .reader import Reader
from .sampling import choose, penalise_repetition

SHRINK_BELOW = 0.75  # share of rows still at work below which the finished ones are dropped


@dataclass(frozen=True)
class Ends:
    """Token ids that end a fill, and those that must never be part of one."""

    ending: tuple[int, ...]
    banned: Tensor  # [V] bool

    def mask(self, logits: Tensor, too_short: Sequence[bool]) -> Tensor:
        """Logits with banned tokens, and for rows that are too short the ends, at minus infinity."""
        logits = logits.masked_fill(self.banned, -torch.inf)
        if any(too_short):
            ends = torch.zeros_like(self.banned)
            ends[list(self.ending)] = True
            rows = torch.tensor(list(too_short), device=logits.device)
            logits = logits.masked_fill(rows[:, None] & ends, -torch.inf)
        return logits


@dataclass
class Row:
    """One answer being written.

    Attributes:
        number: which answer it is; goes into the events.
        limits: (fewest, most) tokens of each blank.
        logprobs: of each blank's tokens and its end, so far.
        reasons: finish reason of each finished blank.
    """

    number: int
    writer: Writer
    limits: Sequence[tuple[int, int]]
    generator: Generator
    logprobs: list[list[float]] = field(default_factory=lambda: [[]])
    reasons: list[str] = field(default_factory=list)
    settling: bool = False  # the last token of a fill cut off by its limit is being read

    @property
    def too_short(self) -> bool:
        """Whether the current fill may not end yet."""
        return len(self.writer.fills[-1]) < self.limits[self.writer.blank][0]

    @property
    def done(self) -> bool:
        """Whether every blank is closed."""
        return len(self.reasons) == len(self.limits)

    def finish_blank(self, reason: str) -> None:
        """Close the current blank and open the next one, if there is one."""
        self.reasons.append(reason)
        if not self.done:
            self.open_next()

    def open_next(self) -> None:
        """Begin the next blank."""
        self.writer.next_blank()
        self.logprobs.append([])


@dataclass(frozen=True)
class Event:
    """One decision: a token written (`token`), or a blank closed (`reason`)."""

    row: Row
    blank: int
    token: int | None
    reason: str | None


def decode(
    reader: Reader, rows: Sequence[Row], options: FillOptions, ends: Ends, *, read_last: bool = True
) -> Iterator[Event]:
    """Write every blank of every row; events in the order of decision.

    Args:
        reader: has read one layout per row.
        read_last: let later blanks see the last token of a fill that was cut off by its
            limit. The published code does not; with False neither does this.
    """
    held = list(rows)  # row i of the reader belongs to held[i]; done rows idle until they are dropped
    live = len(held)
    while live:
        logits = reader.step([row.writer for row in held])
        yield from _advance(logits, held, options, ends, read_last)
        keep = [i for i, row in enumerate(held) if not row.done]
        live = len(keep)
        if 0 < live <= SHRINK_BELOW * len(held):
            reader.select(torch.tensor(keep, device=reader.device))
            held = [held[i] for i in keep]


def _advance(logits: Tensor, held: Sequence[Row], options: FillOptions, ends: Ends, read_last: bool) -> Iterator[Event]:
    allowed = ends.mask(logits, [row.too_short for row in held])
    written = ([t for fill in row.writer.fills for t in fill] for row in held)
    allowed = penalise_repetition(allowed, written, options.repetition_penalty)
    # Only rows that need a token draw a number, so that a row's numbers are its own.
    wanting = [i for i, row in enumerate(held) if not (row.done or row.settling)]
    index = torch.tensor(wanting, dtype=torch.long, device=logits.device)
    tokens = choose(allowed[index], options, [held[i].generator for i in wanting]) if wanting else index
    own = logits[index]
    scores = own.gather(1, tokens[:, None])[:, 0] - own.logsumexp(-1) if wanting else own.new_empty(0)
    for row in held:
        if row.settling:
            row.settling = False
            row.open_next()
    for i, token, score in zip(wanting, tokens.tolist(), scores.tolist(), strict=True):
        row = held[i]
        blank = row.writer.blank
        row.logprobs[-1].append(score)
        if token in ends.ending:
            row.finish_blank("stop")
            yield Event(row, blank, None, "stop")
            continue
        row.writer.write(token)
        yield Event(row, blank, token, None)
        if len(row.writer.fills[-1]) >= row.limits[blank][1]:
            if read_last and not row.writer.is_last:
                row.reasons.append("length")
                row.settling = True
            else:
                row.finish_blank("length")
            yield Event(row, blank, None, "length")
