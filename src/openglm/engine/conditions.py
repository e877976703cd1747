"""Conditions on what is written into a blank, and the states that keep them.

A condition is a set of texts: a list of them (`choices`, kept by a tree of their tokens), or all
that match patterns or a grammar (kept by `llguidance`, which tells the tokens that lead on). Either
way only what can still be completed is drawn from, and the log-probabilities stay the model's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ..checks import check_number, check_text
from ..errors import InputError, OptionError
from ..tokenizer import Tokenizer
from ..vocabularies.base import in_word
from .grammars import Grammars, pattern_of
from .writing import OPENING, TextState, Writing

if TYPE_CHECKING:
    from llguidance import LLMatcher

WORDS = r"[\p{L}\p{M}\p{N}]+(?:[ '’\-][\p{L}\p{M}\p{N}]+)*"


@dataclass(frozen=True)
class Condition:
    """What a fill must be. Attributes as in `FillOptions`, for one blank."""

    choices: tuple[str, ...] | None = None
    regex: str | None = None
    json_schema: str | None = None
    grammar: str | None = None
    whole_words: bool = False
    min_chars: int = 0
    max_chars: int | None = None
    bad_words: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.max_chars is not None and self.min_chars > self.max_chars:
            raise OptionError(f"min_chars {self.min_chars} exceeds max_chars {self.max_chars}")
        alone = [name for name in ("json_schema", "grammar") if getattr(self, name) is not None]
        others = [each.name for each in fields(self) if each.name not in alone and getattr(self, each.name)]
        if len(alone) > 1 or (alone and others):
            raise OptionError(f"{alone[0]} says all about a blank; leave out {', '.join([*alone[1:], *others])}")

    @property
    def patterns(self) -> list[str]:
        """Regular expressions in Lark's notation that all hold; ones with a tilde must not."""
        out = [] if self.regex is None else [pattern_of(self.regex)]
        out += [pattern_of(WORDS)] if self.whole_words else []
        if self.min_chars or self.max_chars is not None:
            out.append(pattern_of(f"(?s:.{{{self.min_chars},{'' if self.max_chars is None else self.max_chars}}})"))
        out += [f"~{pattern_of(word, around=True)}" for word in self.bad_words]
        out += [pattern_of(word, around=True) for word in self.required]
        return out + [f"~{pattern_of(word, around=True, behind=True)}" for word in self.stop]

    @property
    def is_language(self) -> bool:
        """Whether there is more to it than a list of texts."""
        return bool(self.json_schema or self.grammar or self.patterns)


class Conditions:
    """Makes the states of blanks with conditions; what was made once is kept.

    Args:
        writing: the vocabulary's rules.
    """

    def __init__(self, writing: Writing) -> None:
        self._writing = writing
        self._trees: dict[Any, Choices] = {}
        self._grammars = Grammars(writing.tokenizer)

    def start(self, condition: Condition, text: TextState, before: str, after: str) -> ChoiceState | GrammarState:
        """The state of an empty blank.

        Args:
            text: its state if nothing but whole text were asked of it.
            before, after: what stands beside the blank.

        Raises:
            OptionError, InputError: nothing can satisfy it.
        """
        brings_space = text.place == OPENING
        if condition.whole_words and ((not brings_space and _touches(before[-1:])) or _touches(after[:1])):
            raise InputError("whole_words: the blank stands inside a word; put spaces around it")
        matcher, empty = None, True
        if condition.is_language:
            matcher = self._grammars.matcher(
                condition.patterns, condition.json_schema, condition.grammar, brings_space=brings_space
            )
            empty = self._grammars.may_be_empty(matcher)
        if condition.choices is None:
            assert matcher is not None
            return GrammarState(text, matcher, empty)
        key = (condition, text.limits, text.ends, brings_space, before if not brings_space else " ")
        if key not in self._trees:
            self._trees[key] = Choices(condition.choices, text, before, matcher, empty)
        return ChoiceState(self._trees[key], self._trees[key].root)


class Choices:
    """A tree of the tokens of texts.

    Args:
        texts: the answers.
        text: the state of the blank without a condition.
        before: what stands in front of it.
        matcher: keeps only answers that it accepts.
        empty: and an empty answer.

    Raises:
        OptionError: no answer is left within the limits, or one has more tokens than the most.
        InputError: an answer that the vocabulary cannot spell.
    """

    def __init__(
        self, texts: Sequence[str], text: TextState, before: str, matcher: LLMatcher | None, empty: bool
    ) -> None:
        self.rules, self.ends = text.rules, text.ends
        tokenizer, (fewest, most) = text.rules.tokenizer, text.limits
        self.root = Node()
        kept = 0
        for answer in texts:
            ids = spelled(tokenizer, before, answer)
            if len(ids) > most:
                raise OptionError(
                    f"choices: {answer!r:.80} has {len(ids)} tokens, max_new_tokens is {most}; raise it or leave it out"
                )
            if len(ids) < fewest or (matcher is not None and not (_matches(matcher, ids) if ids else empty)):
                continue
            self.root.add(ids)
            kept += 1
        if not kept:
            raise OptionError("choices: none of the answers meets the other conditions on the blank")

    def mask(self, node: Node) -> Tensor:
        """[V] bool: what does not lead to an answer."""
        if node.mask is None:
            out = np.ones(self.rules.next.shape[1], np.bool_)
            out[list(node.children)] = False
            if node.is_answer:
                out[list(self.ends)] = False
            node.mask = torch.from_numpy(out).to(self.rules.device)
        return node.mask


class Node:
    """Answers that begin with the same tokens."""

    __slots__ = ("children", "is_answer", "mask")

    def __init__(self) -> None:
        self.children: dict[int, Node] = {}
        self.is_answer = False
        self.mask: Tensor | None = None

    def add(self, ids: Sequence[int]) -> None:
        """Put in an answer."""
        node = self
        for token in ids:
            node = node.children.setdefault(token, Node())
        node.is_answer = True


@dataclass(frozen=True)
class ChoiceState:
    """A blank that holds one of several texts; as `BlankState`."""

    choices: Choices
    node: Node
    can_fail: ClassVar[bool] = False

    def forbidden(self) -> Tensor:
        """As `BlankState`."""
        return self.choices.mask(self.node)

    def accepts(self, token: int) -> bool:
        """As `BlankState`."""
        return True

    def after(self, token: int) -> ChoiceState:
        """As `BlankState`."""
        return replace(self, node=self.node.children[token])

    @property
    def met(self) -> bool:
        """As `BlankState`."""
        return self.node.is_answer


@dataclass(frozen=True)
class GrammarState:
    """A blank whose text is of a language; as `BlankState`.

    Attributes:
        text: its state as whole text.
        matcher: what was read so far.
        empty: whether the fill may be empty.
    """

    text: TextState
    matcher: LLMatcher
    empty: bool
    can_fail: ClassVar[bool] = True

    def forbidden(self) -> Tensor:
        """As `BlankState`."""
        bits = np.frombuffer(self.matcher.compute_bitmask(), np.uint8)
        mask = self.text.forbidden()
        leads_on = np.zeros(len(mask), np.bool_)
        found = np.unpackbits(bits, bitorder="little")[: len(mask)].astype(np.bool_)
        leads_on[: len(found)] = found
        leads_on[list(self.text.ends)] = self.met
        return mask | torch.from_numpy(~leads_on).to(mask.device)

    def accepts(self, token: int) -> bool:
        """As `BlankState`: any spelling, for the one that is read might lead nowhere."""
        return True

    def after(self, token: int) -> GrammarState:
        """As `BlankState`."""
        matcher = self.matcher.deep_copy()
        matcher.consume_token(token)
        return replace(self, text=self.text.after(token), matcher=matcher)

    @property
    def met(self) -> bool:
        """As `BlankState`."""
        return bool(self.matcher.is_accepting() if self.text.ids else self.empty)


def spelled(tokenizer: Tokenizer, before: str, answer: str) -> list[int]:
    """The tokens of an answer behind a text.

    Raises:
        InputError: it holds a character that the vocabulary cannot spell.
    """
    ids = tokenizer.encode(tokenizer.answer_in_place(before, answer))
    if tokenizer.unknown_id in ids or (answer and not ids):
        raise InputError(
            f"the answer {answer!r:.80} holds characters that this model's vocabulary does not know, so that it would "
            "count the same as others; write it with other characters"
        )
    return ids


def _matches(matcher: LLMatcher, ids: Sequence[int]) -> bool:
    trial = matcher.deep_copy()
    return bool(trial.consume_tokens(list(ids)) and trial.is_accepting())


def _touches(character: str) -> bool:
    return bool(character) and in_word(character)


def per_blank(options: Mapping[str, Any], blanks: int) -> list[Condition | None]:
    """The condition of each blank; None where there is none.

    Args:
        options: name -> value for all blanks, or a list with one per blank.

    Raises:
        OptionError: a list of another length, or a value that is none.
    """
    each: list[dict[str, Any]] = [{} for _ in range(blanks)]
    for name, value in options.items():
        for own, given in zip(each, _spread(name, value, blanks), strict=True):
            if given is not None and given is not False:
                own[name] = _checked(name, given)
    made = [Condition(**own) for own in each]
    return [one if one.choices is not None or one.is_language else None for one in made]


_LISTS = ("choices", "bad_words", "required", "stop")


def _spread(name: str, value: Any, blanks: int) -> list[Any]:
    listed = isinstance(value, Sequence) and not isinstance(value, (str, bytes))
    if listed and name in _LISTS and (not value or any(isinstance(each, (str, bytes)) for each in value)):
        listed = False  # one list for all blanks
    if not listed:
        return [value] * blanks
    if len(value) != blanks:
        raise OptionError(f"{name} lists {len(value)} values for a text with {blanks} blanks")
    return list(value)


def _checked(name: str, value: Any) -> Any:
    if name in ("min_chars", "max_chars"):
        check_number(name, value, least=0, whole=True)
        return value
    if name == "whole_words":
        if not isinstance(value, bool):
            raise OptionError(f"whole_words must be True or False, not {value!r:.80}")
        return value
    if name == "json_schema":
        import json

        return json.dumps(value, sort_keys=True) if isinstance(value, (dict, bool)) else check_text(name, value)
    if name not in _LISTS:
        return check_text(name, value)
    words = (value,) if isinstance(value, str) and name != "choices" else value
    if not isinstance(words, Sequence) or isinstance(words, (str, bytes)):
        raise OptionError(f"{name} must be a list of texts, not {value!r:.80}")
    if name == "choices" and not words:
        raise OptionError("choices must list at least one answer")
    out = tuple(check_text(f"one of {name}", word) for word in words)
    if name != "choices" and not all(out):
        raise OptionError(f"{name} holds an empty text")
    return out
