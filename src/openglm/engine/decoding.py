"""Greedy decoding and sampling: the answers to one text, each on its own blank.

A row that ends a blank goes on with its next one at the next step; a row that is done
leaves. What was decided is noted as it is decided, so that the same code serves whole
answers and streams.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from numpy.random import Generator
from torch import Tensor
from torch.nn import functional as F

from ..blanks import Layout, Writer
from ..tokenizer import Tokenizer
from .engine import Job
from .memory import Input, Memory
from .options import FillOptions
from .sampling import choose, penalise_repetition


@dataclass(frozen=True)
class Ends:
    """Token ids that end a fill, and those that must never be part of one."""

    ending: tuple[int, ...]
    banned: Tensor  # [V] bool

    @classmethod
    def of(cls, tokenizer: Tokenizer, rows: int, device: torch.device) -> Ends:
        """Those of a vocabulary, for a model with `rows` rows: what has no token is never written."""
        banned = torch.zeros(rows, dtype=torch.bool)
        banned[tokenizer.never_generated] = True
        banned[tokenizer.num_tokens :] = True
        return cls((tokenizer.markers.eop, tokenizer.eos), banned.to(device))

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
    """One answer being written; a line of the engine.

    Attributes:
        limits: (fewest, most) tokens of each blank.
        logprobs: of each blank's tokens and its end, so far.
        reasons: finish reason of each finished blank.
        text: its handle in the memory.
        top: note that many of the most probable tokens at every step.
        best: of each blank's tokens and its end, those tokens with their log-probabilities.
    """

    writer: Writer
    limits: Sequence[tuple[int, int]]
    generator: Generator
    logprobs: list[list[float]] = field(default_factory=lambda: [[]])
    reasons: list[str] = field(default_factory=list)
    settling: bool = False  # the last token of a fill cut off by its limit is being read
    text: Any = None
    top: int = 0
    best: list[list[list[tuple[int, float]]]] = field(default_factory=lambda: [[]])

    @property
    def too_short(self) -> bool:
        """Whether the current fill may not end yet."""
        return len(self.writer.fills[-1]) < self.limits[self.writer.blank][0]

    @property
    def done(self) -> bool:
        """Whether every blank is closed."""
        return len(self.reasons) == len(self.limits)

    def next_input(self) -> Input:
        """Token id, position and block position of what the model reads next."""
        return self.writer.next_input()

    def finish_blank(self, reason: str) -> None:
        """Close the current blank and open the next one, if there is one."""
        self.reasons.append(reason)
        if not self.done:
            self.open_next()

    def open_next(self) -> None:
        """Begin the next blank."""
        self.writer.next_blank()
        self.logprobs.append([])
        self.best.append([])

    def stop(self) -> None:
        """End this answer where it is: its blank and all that follow are closed."""
        self.settling = False
        while not self.done:
            self.finish_blank("stop")


@dataclass(frozen=True)
class Event:
    """One decision: a token written (`token`), or a blank closed (`reason`)."""

    row: Row
    blank: int
    token: int | None
    reason: str | None


class Answers(Job):
    """The answers to one text.

    Args:
        layout: Part A and the `sop` of the first blank.
        rows: the answers, with nothing written.
        read_last: let later blanks see the last token of a fill that was cut off by its
            limit. The published code does not; with False neither does this.

    Attributes:
        events: decisions in their order, for whoever streams; it takes them out.
    """

    def __init__(
        self, layout: Layout, rows: Sequence[Row], options: FillOptions, ends: Ends, *, read_last: bool = True
    ) -> None:
        self.layout, self.rows, self.options, self.ends, self.read_last = layout, rows, options, ends, read_last
        self.lines = len(rows)
        self.tokens = sum(most + 1 for _, most in rows[0].limits)
        self.events: deque[Event] = deque()

    def begin(self, memory: Memory, text: Any) -> None:
        """As `Job`."""
        for row in self.rows[1:]:
            row.text = memory.fork(text)
        self.rows[0].text = text

    def open_lines(self) -> list[Row]:
        """As `Job`."""
        return [row for row in self.rows if not row.done]

    def release(self, memory: Memory) -> None:
        """As `Job`."""
        for row in self.rows:
            if row.text is not None:
                memory.free(row.text)
                row.text = None

    def note(self, event: Event) -> None:
        """Note a decision."""
        self.events.append(event)


def write_next(moved: Sequence[tuple[Answers, Tensor]], memory: Memory) -> None:
    """Choose the next token of every open row of jobs whose `FillOptions.drawing` is the same."""
    if not moved:
        return
    options, ends = moved[0][0].options, moved[0][0].ends
    held = [(job, row) for job, _ in moved for row in job.open_lines()]
    logits = torch.cat([values for _, values in moved]) if len(moved) > 1 else moved[0][1]
    rows = [row for _, row in held]
    # Rows that only read the last token of a fill draw no number, so that a row's numbers are its own.
    wanting = [i for i, row in enumerate(rows) if not row.settling]
    for row in rows:
        if row.settling:
            row.settling = False
            row.open_next()
    if wanting:
        if len(wanting) < len(rows):
            logits, held = logits[torch.tensor(wanting, device=logits.device)], [held[i] for i in wanting]
        tokens, scores = _choose(logits, [row for _, row in held], options, ends)
        _note_best(logits, [row for _, row in held])
        for (job, row), token, score in zip(held, tokens, scores, strict=True):
            _write(job, row, token, score)
    for job, _ in moved:
        for row in job.rows:
            if row.done and row.text is not None:
                memory.free(row.text)
                row.text = None
        job.done = all(row.done for row in job.rows)


def _choose(logits: Tensor, rows: Sequence[Row], options: FillOptions, ends: Ends) -> tuple[list[int], list[float]]:
    """The next token of each row and its log-probability under the model."""
    allowed = ends.mask(logits, [row.too_short for row in rows])
    written = ([t for fill in row.writer.fills for t in fill] for row in rows)
    allowed = penalise_repetition(allowed, written, options.repetition_penalty)
    tokens = choose(allowed, options, [row.generator for row in rows])
    scores = -F.cross_entropy(logits, tokens, reduction="none")
    return tokens.tolist(), scores.tolist()


def _note_best(logits: Tensor, rows: Sequence[Row]) -> None:
    """The most probable tokens under the model, for rows that want them."""
    wanting = [i for i, row in enumerate(rows) if row.top]
    if not wanting:
        return
    scores = logits[torch.tensor(wanting, device=logits.device)].log_softmax(-1)
    values, tokens = scores.topk(min(scores.shape[-1], max(rows[i].top for i in wanting)), dim=-1)
    for i, own, found in zip(wanting, values.tolist(), tokens.tolist(), strict=True):
        row = rows[i]
        row.best[-1].append(list(zip(found[: row.top], own[: row.top], strict=True)))


def _write(job: Answers, row: Row, token: int, score: float) -> None:
    blank = row.writer.blank
    row.logprobs[-1].append(score)
    if token in job.ends.ending:
        row.finish_blank("stop")
        job.note(Event(row, blank, None, "stop"))
        return
    row.writer.write(token)
    job.note(Event(row, blank, token, None))
    if len(row.writer.fills[-1]) >= row.limits[blank][1]:
        if job.read_last and not row.writer.is_last:
            row.reasons.append("length")
            row.settling = True
        else:
            row.finish_blank("length")
        job.note(Event(row, blank, None, "length"))
