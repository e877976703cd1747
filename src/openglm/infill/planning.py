"""From a text and options to a request: what may be written into each blank, and the job that writes it.

Knows neither when the engine runs nor what becomes of the result.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.random import Generator

from ..blanks import BlankedText, BlankKind
from ..engine.beams import BeamSearchJob
from ..engine.conditions import Conditions, per_blank
from ..engine.decoding import SamplingJob, SamplingSequence
from ..engine.job import Job
from ..engine.options import FillOptions
from ..engine.stop_tokens import StopTokens
from ..engine.writing import BlankState, TextState, Writing
from ..layouts import PartBState, lay_out
from ..network.model import GLMModel
from ..tokenizer import Tokenizer
from .prompt import Text
from .request import FillPlan, Request
from .scoring import prompts_of


class Planner:
    """Makes requests for one model.

    Args:
        model: the network.
        tokenizer: its vocabulary.
    """

    def __init__(self, model: GLMModel, tokenizer: Tokenizer) -> None:
        self.model, self.tokenizer = model, tokenizer
        self._stop_tokens = StopTokens.of(tokenizer, model.config.vocab_size, model.word_embeddings.weight.device)

    def plan(self, text: Text, options: FillOptions) -> FillPlan:
        """What is to be written into a text. Raises as `Infiller.fill`."""
        prompt = prompts_of([text], self.tokenizer, self.model, options.truncate)[0]
        limits = options.limits(prompt.blanked.kinds, self.model.config.max_sequence_length)
        starts: list[BlankState] = [self._start(prompt.blanked, i, own) for i, own in enumerate(limits)]
        for blank, condition in enumerate(per_blank(options.conditions, len(limits))):
            if condition is not None:
                before, after = prompt.blanked.literals[blank : blank + 2]
                plain = self._start(prompt.blanked, blank, limits[blank])
                starts[blank] = self._conditions.start(condition, plain, before, after)
        return FillPlan(prompt, limits, starts)

    def _start(self, blanked: BlankedText, blank: int, limits: tuple[int, int]) -> TextState:
        """What may be written into a blank: the rest of a document may end with the document's end, others do not."""
        stop = self._stop_tokens.ids
        ends = stop if blanked.kinds[blank] is BlankKind.GMASK else stop[:1]
        brings_space = self.tokenizer.brings_space(blanked.literals[blank])
        return self._writing.start(limits, brings_space=brings_space, ends=ends)

    @cached_property
    def _conditions(self) -> Conditions:
        return Conditions(self._writing)

    @cached_property
    def _writing(self) -> Writing:
        """Made for the first fill."""
        return Writing(self.tokenizer, self._stop_tokens.banned, self._stop_tokens.ids)

    def request(self, plan: FillPlan, options: FillOptions, top_logprobs: int = 0) -> Request:
        """The text made ready for the engine."""
        return Request(plan.prompt, self._job(plan, options, top_logprobs), self.tokenizer)

    def _job(self, plan: FillPlan, options: FillOptions, top_logprobs: int) -> Job:
        markers = self.tokenizer.markers
        part_a = plan.prompt.part_a.behind(self.model.prompt_ids)
        positions = part_a.blank_positions.tolist()
        layout = lay_out(part_a, [[]], markers, blanks=[0])
        if options.num_beams > 1:
            state = PartBState(positions, markers)
            return BeamSearchJob(layout, state, plan.limits, options, self._stop_tokens, plan.starts)
        seqs = [
            SamplingSequence(
                PartBState(positions, markers),
                plan.limits,
                _generator(options.seed, copy),
                top_logprobs,
                starts=plan.starts,
                around=part_a.ids.tolist() if options.no_repeat_ngram_size else (),
            )
            for copy in range(options.num_return_sequences)
        ]
        return SamplingJob(layout, seqs, options, self._stop_tokens)


def _generator(seed: int | None, copy: int) -> Generator:
    return np.random.default_rng(None if seed is None else [seed, copy])
