"""A text on its way through the engine: its job, the pieces written so far, the result.

Knows how tokens become text; nothing about when the engine runs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..engine.job import Job, JobOutput
from ..engine.writing import BlankState
from ..tokenizer import Tokenizer
from .prompt import Prompt
from .results import Fill, Filled, Piece


@dataclass(frozen=True)
class FillPlan:
    """What is to be written into one text.

    Attributes:
        prompt: the text as the model reads it.
        limits: (fewest, most) tokens of each blank.
        starts: what may be written into each.
    """

    prompt: Prompt
    limits: list[tuple[int, int]]
    starts: Sequence[BlankState]


class Request:
    """What is asked for one text. `Infiller.request` makes it; give `job` to the engine.

    Attributes:
        prompt: the text as the model reads it.
        job: what the engine does for it.
        tokenizer: spells its tokens.
        spelled: for each answer and each of its blanks, the text that became certain with each
            token; filled by `pieces`. Put together it is the text of the fill.
    """

    def __init__(self, prompt: Prompt, job: Job, tokenizer: Tokenizer) -> None:
        self.prompt, self.job, self.tokenizer = prompt, job, tokenizer
        self._decoders = [tokenizer.decoder() for _ in range(job.num_answers)]
        self._fresh = [True] * job.num_answers  # nothing of the open fill was given out yet
        self.spelled: list[list[list[str]]] = [[[]] for _ in range(job.num_answers)]

    @property
    def prompt_tokens(self) -> int:
        """Tokens that are read: Part A."""
        return len(self.prompt.part_a)

    def pieces(self) -> Iterator[Piece]:
        """What was decided since the last call; nothing for beams, which have no order.

        The pieces of a blank, put together, are the text of its fill.
        """
        while self.job.events:
            event = self.job.events.popleft()
            answer = event.answer
            decoder, spelled, done = self._decoders[answer], self.spelled[answer], event.reason is not None
            new = decoder.finish() if event.token is None else decoder.push(event.token)
            if self._fresh[answer] and new:
                new, self._fresh[answer] = self._shown(event.blank, new), False
            if event.token is not None:
                spelled[-1].append(new)
            elif spelled[-1]:
                spelled[-1][-1] += new
            if new or done:
                yield Piece(event.blank, new, event.reason, answer)
            if done:
                self._decoders[answer], self._fresh[answer] = self.tokenizer.decoder(), True
                spelled.append([])

    def _shown(self, blank: int, written: str) -> str:
        return self.tokenizer.answer_shown(self.prompt.blanked.literals[blank], written)

    def result(self) -> Filled:
        """The answers, once the job is done.

        Raises:
            whatever kept the job from being done.
        """
        if self.job.error is not None:
            raise self.job.error
        answers = self.answers()
        if self.job.ranked:
            # The same text may be spelled in different tokens; the most probable spelling stands for it.
            different: dict[str, Filled] = {}
            for answer in answers:
                different.setdefault(answer.text, answer)
            answers = list(different.values())[: self.job.num_answers]
        return with_alternatives(answers)

    def answers(self) -> list[Filled]:
        """The samples in the order of drawing, or all beams, best first."""
        return [self._filled(output) for output in self.job.outputs()]

    def _filled(self, output: JobOutput) -> Filled:
        prompt, fills, logprobs = self.prompt, output.fills, output.logprobs
        texts = [self._shown(i, self.tokenizer.decode(fill)) for i, fill in enumerate(fills)]
        text, spans = prompt.blanked.substitute(texts)
        blanks = [
            Fill(texts[i], list(fills[i]), float(sum(logprobs[i])), list(logprobs[i]), start, end, output.reasons[i])
            for i, (start, end) in enumerate(spans)
        ]
        logprob = sum(fill.logprob for fill in blanks)
        return Filled(text, blanks, logprob, [], prompt.dropped, logprob if output.score is None else output.score)


def with_alternatives(answers: Sequence[Filled]) -> Filled:
    """The first answer, which holds the others."""
    first = answers[0]
    return dataclasses.replace(first, alternatives=list(answers[1:]))
