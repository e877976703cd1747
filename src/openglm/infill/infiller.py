"""`Infiller`: a model and its tokenizer, ready to fill blanks; and `load`, which makes one."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.random import Generator

from ..blanks import BlankedText, Layout, Writer, lay_out
from ..checkpoints.resolve import open_model
from ..errors import ContextLengthError, InputError, OptionError
from ..model import GLMModel
from ..tokenizer import Tokenizer
from .beams import Search, beam_search
from .decoding import Ends, Event, Row, decode
from .options import FillOptions
from .prompt import Prompt, build_prompt
from .reader import Reader
from .results import Fill, Filled, Piece, Scored
from .scoring import token_logprobs

# Texts share a forward pass up to this many cached tokens, which bounds memory.
TOKENS_AT_ONCE = 32_768

Text = str | BlankedText


class Infiller:
    """Fills blanks.

    Args:
        model: the network; put into evaluation mode.
        tokenizer: its vocabulary.

    Raises:
        OptionError: the vocabulary has more tokens than the model has rows.
    """

    def __init__(self, model: GLMModel, tokenizer: Tokenizer) -> None:
        if tokenizer.num_tokens > model.config.vocab_size:
            raise OptionError(
                f"the vocabulary has {tokenizer.num_tokens} tokens but the model only {model.config.vocab_size} rows; "
                "give the vocabulary this model was trained with"
            )
        self.model = model.eval()
        self.tokenizer = tokenizer
        banned = torch.zeros(model.config.vocab_size, dtype=torch.bool)
        banned[tokenizer.never_generated] = True
        banned[tokenizer.num_tokens :] = True
        device = model.word_embeddings.weight.device
        self._ends = Ends((tokenizer.markers.eop, tokenizer.eos), banned.to(device))

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
        prompt = self._prompt(text, chosen)
        return self._stream(prompt, self._rows([prompt], chosen), chosen)

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

    def choose(
        self,
        text: Text,
        choices: Sequence[str | Sequence[str]],
        *,
        length_penalty: float = 0.0,
        truncate: str | None = None,
    ) -> list[Scored]:
        """Rank answers to a text, the best first.

        Args:
            choices: each a string for a single blank, or one string per blank.
            length_penalty: rank by log-probability / (number of tokens, ends included) **
                length_penalty: 0 the probability of the answer, 1 the mean over its tokens.

        Raises:
            OptionError: no choices. Otherwise as `score`.
        """
        if isinstance(choices, str) or not choices:
            raise OptionError("choices must list at least one answer")
        scored = self._score(text, choices, truncate)
        lengths = [sum(len(values) for values in each.token_logprobs) for each in scored]
        ranks = np.array([s.logprob / n**length_penalty for s, n in zip(scored, lengths, strict=True)])
        shares = np.exp(ranks - ranks.max())
        shares /= shares.sum()
        order = np.argsort(-ranks, kind="stable")
        return [dataclasses.replace(scored[i], probability=float(shares[i])) for i in order]

    def _score(self, text: Text, choices: Sequence[str | Sequence[str]], truncate: str | None) -> list[Scored]:
        prompt = build_prompt(text, self.tokenizer, self.model.config, truncate=truncate)
        blanks, longest = len(prompt.blanked.kinds), self.model.config.max_sequence_length - 1
        answers, ids = [], []
        for choice in choices:
            fills = [choice] if isinstance(choice, str) else list(choice)
            if len(fills) != blanks:
                raise InputError(f"{len(fills)} fills for a text with {blanks} blanks: {fills}")
            before = prompt.blanked.literals
            placed = [self.tokenizer.answer_in_place(before[i], fill) for i, fill in enumerate(fills)]
            encoded = [self.tokenizer.encode(fill) for fill in placed]
            if any(len(each) > longest for each in encoded):
                raise ContextLengthError(f"a fill of {max(map(len, encoded))} tokens; a blank holds at most {longest}")
            answers.append(fills)
            ids.append(encoded)
        layouts = [lay_out(prompt.part_a, prompt.blank_positions, e, self.tokenizer.markers) for e in ids]
        values = token_logprobs(self.model, layouts, self.tokenizer.eos, tokens_at_once=TOKENS_AT_ONCE // 4)
        return [
            Scored(
                prompt.blanked.substitute(fills)[0], fills, float(sum(map(sum, each))), [float(sum(v)) for v in each],
                each, encoded,
            )
            for fills, encoded, each in zip(answers, ids, values, strict=True)
        ]  # fmt: skip

    @torch.inference_mode()
    def _stream(self, prompt: Prompt, rows: list[Row], options: FillOptions) -> Iterator[Piece]:
        decoder, fresh = self.tokenizer.decoder(), True
        for event in self._decode([prompt], rows, options):
            done = event.reason is not None
            new = decoder.finish() if event.token is None else decoder.push(event.token)
            if fresh and new:
                new, fresh = self._fit(prompt, event.blank, new), False
            if new or done:
                yield Piece(event.blank, new, event.reason)
            if done:
                decoder, fresh = self.tokenizer.decoder(), True

    def _fill_all(self, texts: Sequence[Text], options: FillOptions) -> list[Filled]:
        prompts = []
        for number, text in enumerate(texts):
            try:
                prompts.append(self._prompt(text, options))
            except (InputError, OptionError) as error:
                if len(texts) == 1:
                    raise
                raise type(error)(f"text {number + 1} of {len(texts)}: {error}") from error
        results: list[Filled | None] = [None] * len(prompts)
        for group in self._groups(prompts, options):
            answer = self._beams if options.num_beams > 1 else self._sample
            for i, filled in zip(group, answer([prompts[i] for i in group], options), strict=True):
                results[i] = filled
        return [filled for filled in results if filled is not None]

    def _prompt(self, text: Text, options: FillOptions) -> Prompt:
        prompt = build_prompt(text, self.tokenizer, self.model.config, truncate=options.truncate)
        self._limits(prompt, options)  # raises if they do not fit this text
        return prompt

    def _groups(self, prompts: Sequence[Prompt], options: FillOptions) -> Iterator[list[int]]:
        """Texts of similar length together, as many as `TOKENS_AT_ONCE` allows."""
        copies = max(options.num_beams, options.num_return_sequences)
        group: list[int] = []
        widest = 0
        for i in sorted(range(len(prompts)), key=lambda i: len(prompts[i].part_a)):
            width = copies * (len(prompts[i].part_a) + sum(most for _, most in self._limits(prompts[i], options)))
            if group and max(widest, width) * (len(group) + 1) > TOKENS_AT_ONCE:
                yield group
                group, widest = [], 0
            group.append(i)
            widest = max(widest, width)
        if group:
            yield group

    def _limits(self, prompt: Prompt, options: FillOptions) -> list[tuple[int, int]]:
        return options.limits(prompt.blanked.kinds, self.model.config.max_sequence_length)

    def _rows(self, prompts: Sequence[Prompt], options: FillOptions) -> list[Row]:
        rows: list[Row] = []
        for prompt in prompts:
            for copy in range(options.num_return_sequences):
                writer = Writer(prompt.blank_positions.tolist(), self.tokenizer.markers)
                row = Row(len(rows), writer, self._limits(prompt, options), _generator(options.seed, copy))
                rows.append(row)
        return rows

    def _decode(self, prompts: Sequence[Prompt], rows: Sequence[Row], options: FillOptions) -> Iterator[Event]:
        reader = Reader(self.model, [self._part_a(p) for p in prompts], self.tokenizer.eos, expected=32)
        if options.num_return_sequences > 1:
            copies = torch.arange(len(prompts)).repeat_interleave(options.num_return_sequences)
            reader.select(copies.to(reader.device))
        return decode(reader, rows, options, self._ends)

    def _part_a(self, prompt: Prompt) -> Layout:
        return lay_out(prompt.part_a, [], [], self.tokenizer.markers)

    @torch.inference_mode()
    def _sample(self, prompts: Sequence[Prompt], options: FillOptions) -> list[Filled]:
        rows = self._rows(prompts, options)
        for _ in self._decode(prompts, rows, options):
            pass
        copies = options.num_return_sequences
        out = []
        for i, prompt in enumerate(prompts):
            answers = [
                self._filled(prompt, row.writer.fills, row.logprobs, row.reasons)
                for row in rows[i * copies : (i + 1) * copies]
            ]
            out.append(_with_alternatives(answers))
        return out

    def _beams(self, prompts: Sequence[Prompt], options: FillOptions) -> list[Filled]:
        searches = [Search(p.part_a, p.blank_positions, self._limits(p, options)) for p in prompts]
        beam_search(self.model, searches, options, self._ends, self.tokenizer.markers, self.tokenizer.eos)
        out = []
        for prompt, search in zip(prompts, searches, strict=True):
            # The same text may be spelled in different tokens; the most probable spelling stands for it.
            different: dict[str, Filled] = {}
            for beam in search.beams:
                answer = self._filled(prompt, beam.fills, beam.logprobs, beam.reasons)
                different.setdefault(answer.text, answer)
            out.append(_with_alternatives(list(different.values())[: options.num_return_sequences]))
        return out

    def _filled(
        self,
        prompt: Prompt,
        fills: Sequence[Sequence[int]],
        logprobs: Sequence[Sequence[float]],
        reasons: Sequence[str],
    ) -> Filled:
        texts = [self._fit(prompt, i, self.tokenizer.decode(fill)) for i, fill in enumerate(fills)]
        text, spans = prompt.blanked.substitute(texts)
        blanks = [
            Fill(texts[i], list(fills[i]), float(sum(logprobs[i])), list(logprobs[i]), start, end, reasons[i])
            for i, (start, end) in enumerate(spans)
        ]
        return Filled(text, blanks, sum(fill.logprob for fill in blanks), [], prompt.dropped)

    @staticmethod
    def _fit(prompt: Prompt, blank: int, fill: str) -> str:
        """Where the text has a space before the blank, the fill does not bring its own."""
        before = prompt.blanked.literals[blank]
        return fill[1:] if before[-1:].isspace() and fill.startswith(" ") else fill


def _options(values: dict[str, Any]) -> FillOptions:
    try:
        return FillOptions(**values)
    except TypeError as error:
        known = ", ".join(FillOptions.__dataclass_fields__)
        raise OptionError(f"{error}; the options are {known}") from error


def _generator(seed: int | None, copy: int) -> Generator:
    return np.random.default_rng(None if seed is None else [seed, copy])


def _with_alternatives(answers: Sequence[Filled]) -> Filled:
    first = answers[0]
    return Filled(first.text, first.blanks, first.logprob, list(answers[1:]), first.truncated)


def load(
    name_or_path: str | Path = "default",
    *,
    device: str = "auto",
    dtype: str = "auto",
    quantize: str | None = None,
) -> Infiller:
    """A model ready to fill blanks.

    Args:
        name_or_path: "default" for the model that comes with openglm; a folder in openglm's
            own, FlagAI's, THUDM's or the hub's format; a published name (`openglm models`) or
            `owner/model` on the hub, `@revision` behind it if need be. What is not on this
            machine is downloaded.
        device: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1", ...
        dtype: "auto" (float32 on a CPU, bfloat16 on a GPU), "float32", "bfloat16", "float16".
        quantize: None; this release computes with the weights as they are.

    Raises:
        ModelNotFoundError: no such model; names the nearest ones.
        CheckpointError, ConfigError, TokenizerError: files that are missing, damaged or do
            not fit together.
        OptionError: an unknown device, dtype or quantize.
    """
    if quantize is not None:
        raise OptionError(f"quantize={quantize!r} is not available in this release; leave it at None")
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
    model, tokenizer = open_model(str(name_or_path), device=device, dtype=types[dtype])
    return Infiller(model, tokenizer)
