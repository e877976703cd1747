"""A model for lm-evaluation-harness (extra `lm-eval`): its tasks, measured with GLM.

    python -m openglm.integrations.lm_eval run --model openglm --model_args pretrained=default --tasks lambada_openai

The harness finds no models in other packages by itself, so either this module is run in the place
of `lm_eval`, or it is imported before `lm_eval.simple_evaluate(model="openglm", ...)`.

    context and continuation   [CLS] context [gMASK] <eos> | <sop> continuation      as `openglm eval lambada`
    continuation alone         [CLS] [gMASK]               | <sop> continuation      as `openglm eval blimp`

Log-probabilities are of the continuation's tokens, without an end. `[MASK]` stands in where a model
has no `[gMASK]`. A context that is too long loses its beginning.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model

from ..blanks import BlankedText, BlankKind, Ids, PartA
from ..errors import InputError
from ..evaluation.language_model import signs_of
from ..evaluation.models import load_model
from ..evaluation.options import EvalOptions
from ..evaluation.windows import last_word, windows
from ..infill.infiller import Infiller
from ..layouts import Layout, lay_out
from ..scoring.targets import target_logprobs

TEXTS_AT_ONCE = 64
MAX_NEW_TOKENS = 256  # where a task does not say


@register_model("openglm")
class OpenGLM(LM):
    """GLM as the harness asks models.

    Args:
        pretrained: a name or a folder, as in `openglm.load`, or a loaded model.
        device, dtype, quantize: as in `openglm eval`: on a CPU weights are float32 unless something else
            is asked for.
        batch_size, max_batch_size: not needed; texts share a pass by their tokens.

    Raises:
        OpenGLMError: as `openglm.load`.
    """

    def __init__(
        self,
        pretrained: str | Infiller = "default",
        device: str | None = None,
        dtype: str = "auto",
        quantize: str | None = None,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        if isinstance(pretrained, Infiller):
            self.infiller = pretrained
        else:
            options = EvalOptions(model=pretrained, device=device or "auto", dtype=dtype, quantize=quantize)
            self.infiller = load_model(options).infiller
        self.tokenizer, self.model = self.infiller.tokenizer, self.infiller.model
        self.context = self.model.config.max_sequence_length
        self.signs = signs_of(self.infiller)

    @property
    def tokenizer_name(self) -> str:
        """Tells vocabularies apart where the harness keeps requests."""
        return self.tokenizer.identity

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Log-probability in nats of each continuation, and whether each of its tokens is the first choice.

        Raises:
            InputError: an empty continuation, or one longer than the model's context.
        """
        layouts = [self._layout(*request.args) for request in requests]
        found = target_logprobs(self.model, layouts, self.tokenizer.eos)
        return [(float(logprobs.sum()), bool(first.all())) for logprobs, first in found]

    def _layout(self, context: str, continuation: str) -> Layout:
        before = context.rstrip()
        moved = context[len(before) :]  # a space in front of a blank belongs to what is written there
        text = moved + continuation if before else continuation.lstrip(" ")
        ids = self.tokenizer.encode(text)
        if not ids:
            raise InputError(f"the continuation {continuation!r} comes to no tokens")
        if len(ids) >= self.context:
            raise InputError(f"a continuation of {len(ids)} tokens; this model writes at most {self.context - 1}")
        if not before:
            return self._alone(np.array(ids, np.int64))
        read = self.tokenizer.encode(before)[-(self.context - 3) :]
        return last_word(np.array(read, np.int64), np.array(ids, np.int64), self.signs, unidirectional=False)

    def _alone(self, ids: Ids) -> Layout:
        part_a = PartA(np.array([self.signs.cls, self.signs.blank]), np.array([1]))
        return lay_out(part_a, [ids], self.signs.markers, ends_with_eop=False)

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-probability in nats of each text as a whole, nothing cut off.

        A text longer than the context is read in windows: the first alone, each further half a window
        behind the half before it.

        Raises:
            InputError: a text of no tokens.
        """
        counts, layouts = [], []
        for request in requests:
            (text,) = request.args
            parts = list(self._windows(text))
            counts.append(len(parts))
            layouts += parts
        found = iter(target_logprobs(self.model, layouts, self.tokenizer.eos))
        return [float(sum(next(found)[0].sum() for _ in range(count))) for count in counts]

    def _windows(self, text: str) -> Iterator[Layout]:
        ids = np.array(self.tokenizer.encode(text), np.int64)
        if not len(ids):
            raise InputError(f"the text {text!r} comes to no tokens")
        size = self.context - 2
        yield self._alone(ids[:size])
        further = windows(ids, self.signs, window=size, stride=size // 2, unidirectional=False)
        next(further, None)  # the first window without its first token
        yield from further

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """What the model writes behind each context, up to the first of the strings to stop at."""
        out: dict[int, str] = {}
        alike: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            alike.setdefault(repr(request.args[1]), []).append(number)
        for numbers in alike.values():
            for start in range(0, len(numbers), TEXTS_AT_ONCE):
                some = numbers[start : start + TEXTS_AT_ONCE]
                contexts, asked = [requests[i].args[0] for i in some], requests[some[0]].args[1]
                out.update(zip(some, self._written(contexts, asked), strict=True))
        return [out[number] for number in range(len(requests))]

    def _written(self, contexts: Sequence[str], asked: Mapping[str, Any]) -> list[str]:
        until = asked.get("until") or []
        stops = [until] if isinstance(until, str) else list(until)
        longest = min(int(asked.get("max_gen_toks", MAX_NEW_TOKENS)), self.context - 1)
        options: dict[str, Any] = {"max_new_tokens": longest, "truncate": "start"}
        temperature = float(asked.get("temperature") or 0.0)
        if asked.get("do_sample", temperature > 0) and temperature > 0:
            options |= {"temperature": temperature, "seed": 0}
            options |= {name: asked[name] for name in ("top_p", "top_k") if asked.get(name)}
        kinds = self.model.config.blanks
        kind = BlankKind.GMASK if BlankKind.GMASK.value in kinds else BlankKind.MASK
        filled = self.infiller.fill([BlankedText((context, ""), (kind,)) for context in contexts], **options)
        return [_cut(each.blanks[0].text, stops) for each in filled]


def _cut(text: str, stops: Sequence[str]) -> str:
    ends = [text.find(stop) for stop in stops if stop and stop in text]
    return text[: min(ends)] if ends else text


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
