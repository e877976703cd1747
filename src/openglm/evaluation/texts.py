"""Texts out of files: JSON Lines with a `text` field, or plain text; and pairs for generation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..blanks import BlankedText, BlankKind
from ..errors import ContextLengthError, DataError, InputError
from ..infill.infiller import Infiller
from ..tasks.examples import Example, read_examples
from ..tasks.pattern import Pattern
from .catalogue import Entry

_REPLACEMENT = "\ufffd"
_PREFERRED = (BlankKind.SMASK, BlankKind.GMASK, BlankKind.MASK)  # the blank of a target text


@dataclass(frozen=True)
class GenerationExample:
    """A text to be filled, and what belongs into its blank.

    Attributes:
        blanked: shortened to what the context holds.
        references: any of them is right.
        cut: tokens left out.
    """

    blanked: BlankedText
    references: list[str]
    cut: int


def read_texts(path: Path, *, lines: bool, limit: int | None = None) -> list[str]:
    """Texts of a file.

    Args:
        path: `.jsonl` or `.json` (the field `text` of each record), or anything else as plain text.
        lines: of plain text, every line that is not empty is a text; else the whole file is one.
        limit: the first texts only; of a plain text that is one, the first lines.

    Raises:
        DataError: not readable, not UTF-8, no text in it, or a record without `text`.
    """
    if ".json" in "".join(path.suffixes[-2:]):
        texts = [example.text("text") for example in read_examples(path)[:limit]]
    else:
        try:
            content = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{path} is not UTF-8 (byte {error.start}); convert it first") from error
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror})") from error
        if lines:
            texts = [line for line in content.splitlines() if line.strip()][:limit]
        else:
            texts = ["".join(content.splitlines(keepends=True)[:limit])]
    if not any(text.strip() for text in texts):
        raise DataError(f"{path}: there is no text in it")
    return texts


def read_requests(path: Path, row: Entry, infiller: Infiller, limit: int | None = None) -> list[GenerationExample]:
    """Records of a file as texts to be filled, shortened where the pattern allows it.

    Raises:
        DataError: a missing field (names the line), a pattern with more than one blank, or a text
            that is too long and may not be shortened.
    """
    pattern = Pattern.parse(row.pattern or f"{{source:shorten}}{_blank(infiller)}")
    if len(pattern.kinds) != 1:
        raise DataError(f"pattern {pattern}: generated texts need exactly one blank")
    examples = read_examples(path)[:limit]
    if not examples:
        raise DataError(f"{path}: there are no examples in it")
    return [_request(example, pattern, row.target, infiller) for example in examples]


def _request(example: Example, pattern: Pattern, target: str, infiller: Infiller) -> GenerationExample:
    values = {name: example.text(name) for name in pattern.fields}
    room, tokenizer = infiller.model.max_part_a, infiller.tokenizer
    wanted = example.get(target)
    references = wanted if isinstance(wanted, list) else [wanted]
    if not references or not all(isinstance(each, str) for each in references):
        raise DataError(f"{example.where}: the field {target!r} must hold a text or a list of texts")
    cut = 0
    try:
        filled = pattern.fill(values, tokenizer, room)
        # Cutting text, not tokens, can change how its end is spelled; a few more tokens then go.
        while filled.cut:
            for name, tokens in filled.cut_from.items():
                kept = tokenizer.encode(values[name])[:-tokens]
                values[name] = tokenizer.decode(kept).rstrip(_REPLACEMENT)
            cut += filled.cut
            filled = pattern.fill(values, tokenizer, room)
        infiller.check(filled.blanked)
    except (ContextLengthError, InputError, DataError) as error:
        raise DataError(f"{example.where}: {error}") from error
    return GenerationExample(filled.blanked, list(references), cut)


def _blank(infiller: Infiller) -> BlankKind:
    known = infiller.model.config.blanks
    return next(kind for kind in _PREFERRED if kind.value in known)


def references_of(requests: Sequence[GenerationExample], most: int) -> list[list[str]]:
    """The references of each request, at most `most` of them."""
    return [request.references[:most] for request in requests]
