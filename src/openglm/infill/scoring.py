"""Given answers to texts with blanks: how probable each is, and which is best.

Every text is read once for all its answers, and what answers begin with in common too
(`scoring/candidates.py`). Answers may have any number of tokens; none is ever cut.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from ..blanks import BlankedText
from ..checks import check_text
from ..engine.conditions import spelled
from ..errors import ContextLengthError, InputError, OptionError
from ..network.config import GLMConfig
from ..network.model import GLMModel
from ..scoring.candidates import token_logprobs
from ..scoring.predict import TOKENS_AT_ONCE, Scoring, shares
from ..scoring.question import Question, empty_contexts
from ..tokenizer import Tokenizer
from .prompt import Prompt, build_prompt, numbered
from .results import Fill, Scored

Answer = str | Fill  # a fill that was written is scored in its own tokens
Fills = Answer | Sequence[Answer]  # one answer for a single blank, or one per blank


class ChooseKeywords(TypedDict, total=False):
    """The options of `Infiller.choose`, for type checkers."""

    length_penalty: float
    calibrate: bool
    context: str | None
    ends: bool
    truncate: str | None


def prompts_of(
    texts: Sequence[str | BlankedText], tokenizer: Tokenizer, model: GLMModel, truncate: str | None
) -> list[Prompt]:
    """Part A of each text; what is wrong with one of several is said with its number."""
    longest = model.max_part_a
    return numbered(
        texts, lambda text: build_prompt(text, tokenizer, model.config, truncate=truncate, max_part_a=longest)
    )


def score_answers(
    model: GLMModel,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    choices: Sequence[Sequence[Fills]],
    *,
    ends: bool = True,
    tokens_at_once: int = TOKENS_AT_ONCE,
) -> list[list[Scored]]:
    """Every text's own choices in it, in the order given.

    Raises:
        InputError: fills and blanks differ in number.
        ContextLengthError: a fill longer than the model can count.
        OptionError: an empty fill that is scored without its end.
    """
    questions = [
        _question(prompt, own, tokenizer, model.config, ends) for prompt, own in zip(prompts, choices, strict=True)
    ]
    values = token_logprobs(
        model, questions, tokenizer.markers, tokenizer.eos, ends=ends, tokens_at_once=tokens_at_once
    )
    return [
        [
            _scored(prompt, i, own[i], ids, read, ends)
            for i, (ids, read) in enumerate(zip(question.candidates, each, strict=True))
        ]
        for prompt, own, question, each in zip(prompts, choices, questions, values, strict=True)
    ]


def rank_answers(
    model: GLMModel,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    choices: Sequence[Fills],
    scoring: Scoring,
    *,
    context: str | None = None,
    tokens_at_once: int = TOKENS_AT_ONCE,
) -> list[list[Scored]]:
    """The choices of every text, the best first, with their shares of the probability.

    Args:
        scoring: what they are ranked by.
        context: with `scoring.calibrate`, the empty context: a text with as many blanks. By
            default the blanks with nothing around them.

    Raises:
        OptionError: a context without `calibrate`, or with another number of blanks.
        Otherwise as `score_answers`.
    """
    if context is not None and not scoring.calibrate:
        raise OptionError("a context to calibrate with is of no use without calibrate")
    asked = [choices] * len(prompts)
    scored = score_answers(model, tokenizer, prompts, asked, ends=scoring.ends, tokens_at_once=tokens_at_once)
    ranks = [_ranks(each, scoring) for each in scored]
    if scoring.calibrate:
        # An answer may be written with a space in front in one text and not in another, so the
        # answers are asked in the empty context as their own text has them.
        empty = [_empty(prompt, tokenizer, model, context) for prompt in prompts]
        priors = _priors(model, tokenizer, empty, scored, scoring, tokens_at_once)
        ranks = [rank - prior for rank, prior in zip(ranks, priors, strict=True)]
    return [_ranked(each, rank) for each, rank in zip(scored, ranks, strict=True)]


def check_choices(choices: Any) -> None:
    """Raise OptionError: no list of answers, or an empty one."""
    if isinstance(choices, (str, bytes)) or not isinstance(choices, Sequence):
        raise OptionError(f"choices must be a list of answers, e.g. [{choices!r:.80}], not {choices!r:.80}")
    if not choices:
        raise OptionError("choices must list at least one answer")


def _ranked(scored: Sequence[Scored], ranks: NDArray[np.float64]) -> list[Scored]:
    probabilities = shares(ranks)
    order = np.argsort(-ranks, kind="stable")
    return [dataclasses.replace(scored[i], probability=float(probabilities[i])) for i in order]


def _ranks(scored: Sequence[Scored], scoring: Scoring) -> NDArray[np.float64]:
    lengths = np.array([sum(map(len, each.token_logprobs)) for each in scored], np.float64)
    return np.array([each.logprob for each in scored]) / lengths**scoring.length_penalty


def _question(
    prompt: Prompt, choices: Sequence[Fills], tokenizer: Tokenizer, config: GLMConfig, ends: bool
) -> Question:
    blanks, longest = len(prompt.blanked.kinds), config.max_sequence_length - 1
    candidates = []
    for choice in choices:
        fills = _fills_of(choice)
        if len(fills) != blanks:
            raise InputError(f"{len(fills)} fills for a text with {blanks} blanks: {fills}")
        before = prompt.blanked.literals
        encoded = tuple(_tokens(tokenizer, before[i], fill) for i, fill in enumerate(fills))
        if max(map(len, encoded)) > longest:
            raise ContextLengthError(f"a fill of {max(map(len, encoded))} tokens; a blank holds at most {longest}")
        if not ends and not all(encoded):
            raise OptionError("an empty answer has nothing but its end; score the ends")
        candidates.append(encoded)
    return Question(prompt.part_a, tuple(candidates), tuple(range(len(candidates))), ("",) * len(candidates))


def _fills_of(choice: Fills) -> list[Answer]:
    one = isinstance(choice, (str, bytes)) or not isinstance(choice, Sequence)
    fills: Sequence[Any] = [choice] if one else choice  # type: ignore[assignment]
    return [fill if isinstance(fill, Fill) else check_text("an answer", fill) for fill in fills]


def _tokens(tokenizer: Tokenizer, literal: str, fill: Answer) -> tuple[int, ...]:
    """Of an answer behind a literal.

    Raises:
        InputError: it holds a character that the vocabulary cannot spell.
    """
    if isinstance(fill, Fill):
        return tuple(fill.token_ids)
    return tuple(spelled(tokenizer, literal, fill))


def _scored(
    prompt: Prompt, index: int, choice: Fills, ids: tuple[tuple[int, ...], ...], read: NDArray[np.float64], ends: bool
) -> Scored:
    answers = _fills_of(choice)
    fills = [answer.text if isinstance(answer, Fill) else answer for answer in answers]
    values = [part.tolist() for part in np.split(read, np.cumsum([len(each) + ends for each in ids])[:-1])]
    for own, answer in zip(values, answers, strict=True):
        if ends and isinstance(answer, Fill) and answer.finish_reason != "stop":
            own.pop()  # it was cut off before it ended
    text = prompt.blanked.substitute(fills)[0]
    return Scored(
        text,
        fills,
        float(sum(map(sum, values))),
        [float(sum(v)) for v in values],
        values,
        [list(each) for each in ids],
        index=index,
        truncated=prompt.dropped,
    )


def _empty(prompt: Prompt, tokenizer: Tokenizer, model: GLMModel, context: str | None) -> Prompt:
    kinds = prompt.blanked.kinds
    if context is None:
        return prompts_of([BlankedText(("",) * (len(kinds) + 1), kinds)], tokenizer, model, None)[0]
    empty = prompts_of([context], tokenizer, model, None)[0]
    if len(empty.blanked.kinds) != len(kinds):
        raise OptionError(
            f"the context to calibrate with has {len(empty.blanked.kinds)} blanks, the text has {len(kinds)}"
        )
    return empty


def _priors(
    model: GLMModel,
    tokenizer: Tokenizer,
    empty: Sequence[Prompt],
    scored: Sequence[Sequence[Scored]],
    scoring: Scoring,
    tokens_at_once: int,
) -> list[NDArray[np.float64]]:
    """What the answers score in the empty contexts."""
    questions = []
    for prompt, each in zip(empty, scored, strict=True):
        candidates = tuple(tuple(tuple(ids) for ids in one.token_ids) for one in each)
        owner, names = tuple(range(len(candidates))), ("",) * len(candidates)
        questions.append(Question(prompt.part_a, candidates, owner, names, prior=prompt.part_a))
    distinct, places = empty_contexts(questions)
    values = token_logprobs(
        model, distinct, tokenizer.markers, tokenizer.eos, ends=scoring.ends, tokens_at_once=tokens_at_once
    )
    scores = [np.array([read.sum() / len(read) ** scoring.length_penalty for read in each]) for each in values]
    return [scores[place] for place in places]
