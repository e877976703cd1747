"""A text with blanks as the model reads it: Part A, checked against the model's context."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ..blanks import BlankedText, PartA, build_part_a, tokens_beside_text
from ..checks import check_one_of, check_text
from ..engine.options import TRUNCATE
from ..errors import ContextLengthError, InputError, OpenGLMError, UnsupportedBlankError
from ..network.config import GLMConfig
from ..tokenizer import Tokenizer

Text = str | BlankedText
T = TypeVar("T")


@dataclass(frozen=True)
class Prompt:
    """Part A of one text.

    Attributes:
        blanked: the text as given.
        part_a: its token ids and where its blanks stand in them.
        dropped: tokens left out because the text was longer than the context.
    """

    blanked: BlankedText
    part_a: PartA
    dropped: int


def build_prompt(
    text: str | BlankedText,
    tokenizer: Tokenizer,
    config: GLMConfig,
    *,
    truncate: str | None = None,
    max_part_a: int | None = None,
) -> Prompt:
    """Tokenize a text and its blanks.

    Args:
        max_part_a: tokens that Part A may have (default: the context of `config`).

    Raises:
        InputError: no blank in the text, or not Unicode.
        OptionError: an unknown `truncate`.
        UnsupportedBlankError: a kind of blank the model was not trained with.
        ContextLengthError: longer than the context and no `truncate`, or a cut that would
            lose a blank.
    """
    blanked = text if isinstance(text, BlankedText) else BlankedText.parse(check_text("the text", text))
    for literal in blanked.literals:
        check_text("the text", literal)
    if truncate is not None:
        check_one_of("truncate", truncate, TRUNCATE)
    if not blanked.kinds:
        raise InputError(f"no blank in {_shorten(str(blanked))!r}: put {', '.join(config.blanks)} where text is wanted")
    for kind in blanked.kinds:
        if kind.value not in config.blanks:
            raise UnsupportedBlankError(
                f"this model was trained without {kind}; it fills {', '.join(config.blanks)} "
                "(`openglm models` lists what each model fills)"
            )
    *before, last = blanked.literals
    ids = [tokenizer.encode(tokenizer.trim_before_blank(literal)) for literal in before]
    ids.append(tokenizer.encode(last))
    blank_ids = [tokenizer.blank_id(kind) for kind in blanked.kinds]
    room = (max_part_a or config.max_sequence_length) - tokens_beside_text(blanked.kinds, bool(ids[-1]))
    surplus = sum(map(len, ids)) - room
    if surplus > 0:
        ids = _cut(ids, surplus, room, truncate)
    part_a = build_part_a(ids, blanked.kinds, blank_ids, cls=tokenizer.cls, eos=tokenizer.eos)
    return Prompt(blanked, part_a, max(0, surplus))


def numbered(texts: Sequence[Text], make: Callable[[Text], T]) -> list[T]:
    """What `make` gives for each text; what is wrong with one of several is said with its number."""
    out = []
    for number, text in enumerate(texts, 1):
        try:
            out.append(make(text))
        except OpenGLMError as error:
            if len(texts) == 1:
                raise
            raise type(error)(f"text {number} of {len(texts)}: {error}") from error
    return out


def _cut(ids: list[list[int]], surplus: int, room: int, truncate: str | None) -> list[list[int]]:
    total = surplus + room
    too_long = f"the text has {total} tokens, the model's context holds {room} beside the blanks"
    if truncate is None:
        raise ContextLengthError(
            f"{too_long}; shorten it, or set truncate (--truncate) to start, end or around to drop {surplus} of them"
        )
    head, tail = len(ids[0]), len(ids[-1])
    if truncate == "start":
        from_head, from_tail = surplus, 0
    elif truncate == "end":
        from_head, from_tail = 0, surplus
    else:  # around: leave both sides as equal as they allow
        from_head = min(head, surplus, max(0, surplus - tail, (surplus + head - tail + 1) // 2))
        from_tail = surplus - from_head
    if from_head > head or not 0 <= from_tail <= tail:
        raise ContextLengthError(
            f"{too_long}; truncate={truncate!r} would cut a blank off: "
            f"only {head} tokens stand before the first blank and {tail} after the last"
        )
    return [ids[0][from_head:], *ids[1:-1], ids[-1][: tail - from_tail]]


def _shorten(text: str, length: int = 40) -> str:
    return text if len(text) <= length else text[:length] + "…"
