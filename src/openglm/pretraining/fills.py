"""What the model under training writes into blanks: a few fixed samples, filled again and again.

    en/token  The Nordic Green Left【 (NGL)→ of the】 merged …        original → written

Losses say that a model learns; these lines show what it has learnt. Filling is greedy and
draws no random number, so training goes on exactly as if nobody had looked. This is the one
place where training looks into the engine.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..blanks import PartA
from ..data.inspect import visible as visible
from ..engine.decoding import SamplingJob, SamplingSequence
from ..engine.engine import Engine
from ..engine.job import JobOutput
from ..engine.options import FillOptions
from ..engine.runners import runner_for
from ..engine.stop_tokens import StopTokens
from ..layouts import Layout, PartBState, fills_of, lay_out
from ..network.model import GLMModel
from ..tokenizer import Tokenizer

MAX_NEW_TOKENS = 32  # per blank
MAX_BLANKS = 4  # per text, the first ones
BEFORE, AFTER, WIDTH = 48, 48, 240  # characters: in front of the first blank, behind the last one shown, in all
SHOWN_FILL = 60  # characters of an original or a fill


@dataclass(frozen=True)
class _Sample:
    """A text to fill.

    Attributes:
        name: what it is shown under.
        part_a: the text with its blanks.
        blanks: position and original tokens of its first blanks, in text order.
        end: where the text stops being shown: its end, or the first blank left out.
    """

    name: str
    part_a: PartA
    blanks: Sequence[tuple[int, list[int]]]
    end: int


class FillSamples:
    """Fixed samples that a model fills whenever asked.

    Args:
        samples: (name, layout) pairs, the name such as `source/objective`; the first layout
            with a blank is taken for each name, the rest is not looked at.
        tokenizer: the model's.
        max_new_tokens: most tokens per blank, which bounds the time a look takes.
    """

    def __init__(
        self, samples: Iterable[tuple[str, Layout]], tokenizer: Tokenizer, *, max_new_tokens: int = MAX_NEW_TOKENS
    ) -> None:
        self.tokenizer, self.max_new_tokens = tokenizer, max_new_tokens
        chosen: dict[str, _Sample] = {}
        for name, layout in samples:
            if name not in chosen and layout.spans:
                chosen[name] = _sample(name, layout)
        self._samples = list(chosen.values())

    def __len__(self) -> int:
        return len(self._samples)

    @torch.no_grad()
    def lines(self, model: GLMModel, *, precision: str = "fp32") -> list[str]:
        """One line per sample: its name and the text with original and written fills marked.

        Every blank shown reads `【original→written】`, with … where something was left out.
        Modules keep the mode (training or evaluation) they are in; random generators and
        gradients are left alone.

        Args:
            precision: "bf16" computes under autocast, as training does; else as the weights are.
        """
        if not self._samples:
            return []
        kind = model.word_embeddings.weight.device.type
        with _evaluating(model), _eagerly(), torch.autocast(kind, torch.bfloat16, enabled=precision == "bf16"):
            outputs = self._fill(model)
        return [self._line(sample, output) for sample, output in zip(self._samples, outputs, strict=True)]

    def _fill(self, model: GLMModel) -> list[JobOutput]:
        tokenizer, most = self.tokenizer, min(self.max_new_tokens, model.config.max_sequence_length - 1)
        runner, options = runner_for(model, tokenizer.eos), FillOptions()
        stop_tokens = StopTokens.of(tokenizer, model.config.vocab_size, runner.device)
        jobs = []
        for sample in self._samples:
            positions = [position for position, _ in sample.blanks]
            generator = np.random.default_rng(0)  # never asked: greedy decoding draws nothing
            seq = SamplingSequence(PartBState(positions, tokenizer.markers), [(0, most)] * len(positions), generator)
            layout = lay_out(sample.part_a, [[]], tokenizer.markers, blanks=[0])
            jobs.append(SamplingJob(layout, [seq], options, stop_tokens))
        # Not in inference mode, which wrappers that gather weights do not bear.
        return [job.outputs()[0] for job in Engine(runner, mode=torch.no_grad).run(jobs)]

    def _line(self, sample: _Sample, output: JobOutput) -> str:
        ids = sample.part_a.ids
        width = max(len(each.name) for each in self._samples)
        first = sample.blanks[0][0]
        before = self._text(ids[:first].tolist())
        out = before if len(before) <= BEFORE else "…" + before[-BEFORE:]
        ends = [position for position, _ in sample.blanks[1:]] + [sample.end]
        for k, ((position, original), end) in enumerate(zip(sample.blanks, ends, strict=True)):
            written = _shorten(self._text(output.fills[k]), cut=output.reasons[k] == "length")
            out += f"【{_shorten(self._text(original))}→{written}】"
            literal = self._text(ids[position + 1 : end].tolist())
            if k + 1 == len(sample.blanks) or len(out) + len(literal) > WIDTH:
                out += literal[:AFTER] + ("…" if len(literal) > AFTER or end < len(ids) else "")
                break
            out += literal
        return f"{sample.name:{width}}  {out}"

    def _text(self, ids: Sequence[int]) -> str:
        return visible(self.tokenizer.decode(ids, skip_special=True))


def _sample(name: str, layout: Layout) -> _Sample:
    part_a = layout.part_a
    blanks = sorted(((position, fill.tolist()) for position, fill in fills_of(layout)), key=lambda blank: blank[0])
    end = len(part_a) if len(blanks) <= MAX_BLANKS else blanks[MAX_BLANKS][0]
    return _Sample(name, part_a, blanks[:MAX_BLANKS], end)


def _shorten(text: str, *, cut: bool = False) -> str:
    """At most `SHOWN_FILL` characters; … where something is missing, or was `cut` off before."""
    return text[:SHOWN_FILL] + ("…" if cut or len(text) > SHOWN_FILL else "")


@contextlib.contextmanager
def _evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode; afterwards every module is in the mode it was in, frozen ones too."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _eagerly() -> contextlib.AbstractContextManager[object]:
    """Without compiling: filling has a new shape at every step, each of which would cost a compilation."""
    if "torch._dynamo" not in sys.modules:
        return contextlib.nullcontext()  # nothing has been compiled, and importing it takes seconds
    stance: contextlib.AbstractContextManager[object] = torch.compiler.set_stance("force_eager")
    return stance
