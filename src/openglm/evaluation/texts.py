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


@dataclass(frozen=True)
class Texts:
    """What is in a file: texts, or records of which each is more than a text.

    Attributes:
        texts: of the file.
        examples: its records.
        whole: the file is a single text, of which a sample is some of its lines.
    """

    texts: Sequence[str] = ()
    examples: Sequence[Example] = ()
    whole: bool = False

    @property
    def count(self) -> int:
        """Of what a sample is drawn: texts, records, or the lines of a single text."""
        return len(self.texts[0].splitlines()) if self.whole else len(self.texts) + len(self.examples)


def read_texts(path: Path, *, lines: bool) -> Texts:
    """Texts of a file.

    Args:
        path: `.jsonl` or `.json` (the field `text` of each record), or anything else as plain text.
        lines: of plain text, every line that is not empty is a text; else the whole file is one.

    Raises:
        DataError: not readable, not UTF-8, no text in it, or a record without `text`.
    """
    whole = False
    if ".json" in "".join(path.suffixes[-2:]):
        texts = [example.text("text") for example in read_examples(path)]
    else:
        try:
            content = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{path} is not UTF-8 (byte {error.start}); convert it first") from error
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror})") from error
        texts, whole = ([line for line in content.splitlines() if line.strip()], False) if lines else ([content], True)
    if not any(text.strip() for text in texts):
        raise DataError(f"{path}: there is no text in it")
    return Texts(texts, whole=whole)


def read_requests(
    examples: Sequence[Example], pattern: str, target: str, infiller: Infiller
) -> list[GenerationExample]:
    """Records as texts to be filled, shortened where the pattern allows it.

    Args:
        pattern: with one blank; "" for the source and a blank.
        target: the field with the reference.

    Raises:
        DataError: a missing field (names the line), a pattern with more than one blank, or a text
            that is too long and may not be shortened.
    """
    parsed = Pattern.parse(pattern or f"{{source:shorten}}{_blank(infiller)}")
    if len(parsed.kinds) != 1:
        raise DataError(f"pattern {parsed}: generated texts need exactly one blank")
    return [_request(example, parsed, target, infiller) for example in examples]


def _request(example: Example, pattern: Pattern, target: str, infiller: Infiller) -> GenerationExample:
    values = {name: example.text(name) for name in pattern.fields}
    max_tokens, tokenizer = infiller.model.max_part_a, infiller.tokenizer
    wanted = example.get(target)
    references = wanted if isinstance(wanted, list) else [wanted]
    if not references or not all(isinstance(each, str) for each in references):
        raise DataError(f"{example.where}: the field {target!r} must hold a text or a list of texts")
    cut = 0
    try:
        filled = pattern.fill(values, tokenizer, max_tokens)
        # Cutting text, not tokens, can change how its end is spelled; a few more tokens then go.
        while filled.cut:
            for name, tokens in filled.cut_from.items():
                kept = tokenizer.encode(values[name])[:-tokens]
                values[name] = tokenizer.decode(kept).rstrip(_REPLACEMENT)
            cut += filled.cut
            filled = pattern.fill(values, tokenizer, max_tokens)
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
