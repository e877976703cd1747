"""`Infiller`: a model and its tokenizer, ready to fill blanks; and `load`, which makes one."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.random import Generator

from ..blanks import BlankedText
from ..checkpoints.resolve import open_model
from ..engine.beams import BeamSearchJob
from ..engine.decoding import SamplingJob, SamplingSequence
from ..engine.engine import Engine
from ..engine.job import Job
from ..engine.options import FillOptions
from ..engine.runners import runner_for
from ..engine.stop_tokens import StopTokens
from ..errors import OptionError
from ..layouts import PartBState, lay_out
from ..network.model import GLMModel
from ..network.quantization import check as check_quantize
from ..scoring.predict import Scoring
from ..tokenizer import Tokenizer
from .prompt import Prompt, Text, numbered
from .request import Request
from .results import Filled, Piece, Scored
from .scoring import prompts_of, rank_answers, score_answers


class Infiller:
    """Fills blanks.

    Args:
        model: the network; put into evaluation mode.
        tokenizer: its vocabulary.
        compile: as in `load`.

    Raises:
        OptionError: the vocabulary has more tokens than the model has rows.
    """

    def __init__(self, model: GLMModel, tokenizer: Tokenizer, *, compile: bool = False) -> None:
        if tokenizer.num_tokens > model.config.vocab_size:
            raise OptionError(
                f"the vocabulary has {tokenizer.num_tokens} tokens but the model only {model.config.vocab_size} rows; "
                "give the vocabulary this model was trained with"
            )
        self.model = model.eval()
        self.tokenizer = tokenizer
        self._stop_tokens = StopTokens.of(tokenizer, model.config.vocab_size, model.word_embeddings.weight.device)
        self.engine = Engine(runner_for(model, tokenizer.eos, compile=compile))

    @overload
    def fill(self, text: Text, **options: Any) -> Filled: ...

    @overload
    def fill(self, text: Sequence[Text], **options: Any) -> list[Filled]: ...

    def fill(self, text: Text | Sequence[Text], **options: Any) -> Filled | list[Filled]:
        """Fill every blank of a text, or of each text in a list.

        Args:
            text: any number of `[MASK]`, `[sMASK]`, `[gMASK]` in it. `BlankedText` keeps
                text from elsewhere from being read as a blank.
            options: the fields of `FillOptions`.

        Returns:
            One result for a text, a list in the same order for a list. A text gives the
            same result alone and in a list.

        Raises:
            InputError, UnsupportedBlankError, ContextLengthError: the text cannot be filled.
            OptionError: an unknown option, or one out of range.
        """
        chosen = _options(options)
        if isinstance(text, (str, BlankedText)):
            return self._fill_all([text], chosen)[0]
        return self._fill_all(list(text), chosen)

    def check(self, text: Text, **options: Any) -> None:
        """Raise what `fill` would raise for this text and these options, without filling it."""
        self._prompt(text, _options(options))

    def stream(self, text: Text, **options: Any) -> Iterator[Piece]:
        """Fill one text and give the pieces of its fills as they are decided.

        The pieces of a blank, put together, are the `Fill.text` that `fill` returns.

        Raises:
            as `fill`; OptionError also for beams or several answers, which have no order
            in which to stream.
        """
        chosen = _options(options)
        if chosen.num_beams > 1 or chosen.num_return_sequences > 1:
            raise OptionError("stream gives one answer as it is written; leave num_beams and num_return_sequences at 1")
        return self._stream(self._request(self._prompt(text, chosen), chosen))

    def score(self, text: Text, fills: str | Sequence[str], *, truncate: str | None = None) -> Scored:
        """Log-probability of given fills.

        Args:
            text: with as many blanks as there are fills.
            fills: one string per blank, of any length; a single string for a single blank.
            truncate: as in `fill`.

        Raises:
            InputError: fills and blanks differ in number, and as `fill`.
            ContextLengthError: a fill longer than the model can count.
        """
        return self._score(text, [fills], truncate)[0]

    @overload
    def choose(  # type: ignore[overload-overlap]
        self,
        text: Text,
        choices: Sequence[str | Sequence[str]],
        *,
        length_penalty: float = ...,
        normalize: str = ...,
        calibrate: bool | str = ...,
        ends: bool = ...,
        truncate: str | None = ...,
    ) -> list[Scored]: ...

    @overload
    def choose(
        self,
        text: Sequence[Text],
        choices: Sequence[str | Sequence[str]],
        *,
        length_penalty: float = ...,
        normalize: str = ...,
        calibrate: bool | str = ...,
        ends: bool = ...,
        truncate: str | None = ...,
    ) -> list[list[Scored]]: ...

    def choose(
        self,
        text: Text | Sequence[Text],
        choices: Sequence[str | Sequence[str]],
        *,
        length_penalty: float = 0.0,
        normalize: str = "sum",
        calibrate: bool | str = False,
        ends: bool = True,
        truncate: str | None = None,
    ) -> list[Scored] | list[list[Scored]]:
        """Rank answers to a text, or to each text in a list, the best first.

        Args:
            choices: each a string for a single blank, or one string per blank.
            length_penalty: rank by log-probability / (number of tokens, ends included) **
                length_penalty: 0 the probability of the answer, 1 the mean over its tokens.
            normalize: "sum", or "mean" for length_penalty 1.
            calibrate: rank by how much more probable an answer is here than in an empty
                context: True for the blanks with nothing around them, or a text with as many
                blanks. `Scored.logprob` stays as it is.
            ends: count the end of every fill. Without it an answer may go on.
            truncate: as in `fill`.

        Returns:
            One ranking for a text, a list of them in the same order for a list.

        Raises:
            OptionError: no choices, or options that are wrong or exclude each other. Otherwise
                as `score`.
        """
        scoring = Scoring(normalize, length_penalty, bool(calibrate), ends)
        texts = [text] if isinstance(text, (str, BlankedText)) else list(text)
        prompts = prompts_of(texts, self.tokenizer, self.model, truncate)
        context = calibrate if isinstance(calibrate, str) else None
        ranked = rank_answers(self.model, self.tokenizer, prompts, choices, scoring, context=context)
        return ranked[0] if isinstance(text, (str, BlankedText)) else ranked

    def _score(self, text: Text, choices: Sequence[str | Sequence[str]], truncate: str | None) -> list[Scored]:
        prompts = prompts_of([text], self.tokenizer, self.model, truncate)
        return score_answers(self.model, self.tokenizer, prompts, choices)[0]

    def request(self, text: Text, *, top_logprobs: int = 0, **options: Any) -> Request:
        """One text made ready for the engine, for callers that run `engine` themselves.

        Args:
            text: as in `fill`.
            top_logprobs: note that many of the most probable tokens at every step (`JobOutput.top_logprobs`).
            options: as in `fill`.

        Raises:
            as `fill`.
        """
        chosen = _options(options)
        return self._request(self._prompt(text, chosen), chosen, top_logprobs)

    def _stream(self, request: Request) -> Iterator[Piece]:
        job = request.job
        self.engine.submit(job)
        try:
            while not job.done or job.events:
                if not job.events:
                    self.engine.step(job)
                    continue
                yield from request.pieces()
        finally:
            self.engine.cancel(job)
        if job.error is not None:
            raise job.error

    def _fill_all(self, texts: Sequence[Text], options: FillOptions) -> list[Filled]:
        return list(self._filled_in_order(numbered(texts, lambda text: self._prompt(text, options)), options))

    def _filled_in_order(self, prompts: Iterable[Prompt], options: FillOptions) -> Iterator[Filled]:
        asked: deque[Request] = deque()

        def jobs() -> Iterator[Job]:
            for prompt in prompts:
                asked.append(self._request(prompt, options))
                yield asked[-1].job

        for _ in self.engine.run(jobs()):
            yield asked.popleft().result()

    def _prompt(self, text: Text, options: FillOptions) -> Prompt:
        prompt = prompts_of([text], self.tokenizer, self.model, options.truncate)[0]
        self._limits(prompt, options)  # raises if they do not fit this text
        return prompt

    def _limits(self, prompt: Prompt, options: FillOptions) -> list[tuple[int, int]]:
        return options.limits(prompt.blanked.kinds, self.model.config.max_sequence_length)

    def _request(self, prompt: Prompt, options: FillOptions, top_logprobs: int = 0) -> Request:
        return Request(prompt, self._job(prompt, options, top_logprobs), self.tokenizer)

    def _job(self, prompt: Prompt, options: FillOptions, top_logprobs: int) -> Job:
        markers, limits = self.tokenizer.markers, self._limits(prompt, options)
        part_a = prompt.part_a.behind(self.model.prompt_ids)
        positions = part_a.blank_positions.tolist()
        layout = lay_out(part_a, [[]], markers, blanks=[0])
        if options.num_beams > 1:
            return BeamSearchJob(layout, PartBState(positions, markers), limits, options, self._stop_tokens)
        seqs = [
            SamplingSequence(PartBState(positions, markers), limits, _generator(options.seed, copy), top_logprobs)
            for copy in range(options.num_return_sequences)
        ]
        return SamplingJob(layout, seqs, options, self._stop_tokens)


def _options(values: dict[str, Any]) -> FillOptions:
    try:
        return FillOptions(**values)
    except TypeError as error:
        known = ", ".join(FillOptions.__dataclass_fields__)
        raise OptionError(f"{error}; the options are {known}") from error


def _generator(seed: int | None, copy: int) -> Generator:
    return np.random.default_rng(None if seed is None else [seed, copy])


def load(
    name_or_path: str | Path = "default",
    *,
    device: str = "auto",
    dtype: str = "auto",
    quantize: str | None = None,
    compile: bool = False,
) -> Infiller:
    """A model ready to fill blanks.

    Args:
        name_or_path: "default" for the model that comes with openglm; a folder in openglm's
            own, FlagAI's, THUDM's or the hub's format; a published name (`openglm models`) or
            `owner/model` on the hub, `@revision` behind it if need be. What is not on this
            machine is downloaded.
        device: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1", ...
        dtype: "auto" (float32 on a CPU, bfloat16 on a GPU), "float32", "bfloat16", "float16".
        quantize: "int8" rounds the weights to 8 bits: on a CPU several times faster, with a loss
            that hardly differs (benchmarks/README.md); on a GPU, where "int4" is another choice,
            through torchao. None computes with the weights as they are, but for the embedded
            model on a CPU, which is rounded unless a dtype is given.
        compile: compile the network, on a GPU the decoding step into CUDA graphs: worth it where
            many texts are to come, as it takes up to two minutes once. On a CPU it needs a C++
            compiler and is meant for int8.

    Raises:
        ModelNotFoundError: no such model; names the nearest ones.
        CheckpointError, ConfigError, TokenizerError: files that are missing, damaged or do
            not fit together; or a model with a classification head, which fills no blanks.
        OptionError: an unknown device, dtype or quantize, or `compile` without a C++ compiler.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise OptionError(f"device {device!r} is not one torch knows; use auto, cpu or cuda") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise OptionError("device 'cuda' was asked for, but torch finds no CUDA device; use cpu or auto")
    types = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    types["auto"] = torch.float32 if kind == "cpu" else torch.bfloat16
    if dtype not in types:
        raise OptionError(f"dtype {dtype!r} is unknown; use {', '.join(types)}")
    if quantize is None and (str(name_or_path), dtype, kind) == ("default", "auto", "cpu"):
        quantize = "int8"
    if quantize is not None:
        check_quantize(quantize, kind)
    model, tokenizer = open_model(str(name_or_path), device=device, dtype=types[dtype], quantize=quantize)
    return Infiller(model, tokenizer, compile=compile)
