"""What the engine runs: a job continues one text, in one sequence of tokens or in several.

Knows what a job promises the engine and its caller; nothing about how a token is chosen.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from ..layouts import Layout
from .model_runner import Input, ModelRunner

if TYPE_CHECKING:
    from typing import Self


class RunningSequence(Protocol):
    """One way in which a text is continued.

    Attributes:
        kv: the handle of its keys and values in the model runner.
    """

    kv: Any

    def next_input(self) -> Input:
        """What the model reads next."""


@dataclass(frozen=True)
class Event:
    """One decision: a token written (`token`), or a blank closed (`reason`), in the answer of that number."""

    answer: int
    blank: int
    token: int | None
    reason: str | None


@dataclass(frozen=True)
class JobOutput:
    """What was written so far in one answer, a list per blank begun.

    Attributes:
        fills: token ids.
        logprobs: of the tokens, and of the end where it was chosen.
        reasons: why each closed blank ended, "stop" or "length".
        top_logprobs: for each of `logprobs`, the most probable tokens with theirs, if they were asked for.
        score: what answers are ranked by, where that is not the log-probability.
    """

    fills: Sequence[Sequence[int]]
    logprobs: Sequence[Sequence[float]]
    reasons: Sequence[str]
    top_logprobs: Sequence[Sequence[Sequence[tuple[int, float]]]] = ()
    score: float | None = None


class Job(ABC):
    """A text to be continued.

    Args:
        layout: what is read first, up to the first token whose successor is to be chosen.
        num_seqs: in how many sequences it is continued at most.
        max_tokens: how many tokens each of them grows by at most.
        num_answers: how many answers are wanted.

    Attributes:
        ranked: whether the answers come best first, and may spell one text in different tokens.
        events: decisions in their order, for whoever streams, who takes them out; none where answers are ranked.
        done: whether nothing is left to be done.
        error: what kept it from being done, if anything.
    """

    ranked: bool = False

    def __init__(self, layout: Layout, *, num_seqs: int, max_tokens: int, num_answers: int) -> None:
        self.layout, self.num_seqs, self.max_tokens, self.num_answers = layout, num_seqs, max_tokens, num_answers
        self.events: deque[Event] = deque()
        self.done = False
        self.error: BaseException | None = None

    # --- for the engine ------------------------------------------------------------------

    @abstractmethod
    def begin(self, runner: ModelRunner, kv: Any) -> None:
        """`layout` was read; the job now owns `kv`."""

    @abstractmethod
    def running_seqs(self) -> Sequence[RunningSequence]:
        """The sequences for which a token is to be chosen."""

    @abstractmethod
    def release(self, runner: ModelRunner) -> None:
        """Free whatever it owns; called once, when it is done or given up."""

    @property
    def batch_key(self) -> Hashable:
        """Jobs of one kind with equal keys may advance in one go."""
        return id(self)

    @classmethod
    @abstractmethod
    def advance(cls, batch: Sequence[tuple[Self, Tensor]], runner: ModelRunner) -> None:
        """Choose the next tokens of jobs whose keys are equal, given the logits [R, V] of their running sequences.

        Raises:
            whatever concerns all of them, with nothing changed; what concerns one is its `error`.
        """

    def fail(self, error: BaseException) -> None:
        """Give it up for this reason."""
        self.error, self.done = error, True

    # --- for the caller ------------------------------------------------------------------

    @abstractmethod
    def outputs(self) -> list[JobOutput]:
        """The answers, as far as they are written."""

    @property
    def tokens_written(self) -> int:
        """Tokens in all answers."""
        return sum(len(fill) for output in self.outputs() for fill in output.fills)

    def stop(self, answer: int) -> None:
        """End one answer where it is; its blank and all that follow are closed.

        Raises:
            NotImplementedError: answers that are ranked cannot be ended one by one.
        """
        raise NotImplementedError(f"{type(self).__name__} cannot end answer {answer} alone")
