"""Patterns: a text with fields and blanks, `"{sentence:shorten}，总的来说[MASK]。"`.

    {name}            the field of an example; {a.b} the field b of its object a
    {name:shorten}    may be cut where the text is longer than the context, from its end;
                      {name:shorten=start} from its start
    {name:strip}      without the punctuation at its end
    {name:lower}      with a small first letter
    {name:join=、}     a list, its items joined
    {{ and }}         braces
    [MASK] [sMASK] [gMASK]   blanks

Several modifiers follow each other with commas. A field that may be cut is tokenized by
itself, so that a cut falls between its tokens and moves nothing around it; one space in front
of a field belongs to the field. What stands between such fields is tokenized in one go. (The
published code tokenizes every piece of its patterns by itself, and cuts the last of the fields
that may be cut, where here the longest loses tokens.) Text of an example is never read as a
blank. Knows nothing about labels or models.
"""

from __future__ import annotations

import itertools
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..blanks import BlankedText, BlankKind, PartA, build_part_a, tokens_beside_text
from ..errors import ContextLengthError, DataError, suggest
from ..tokenizer import Tokenizer

_PUNCTUATION = string.punctuation + "。，、；：？！．…—～·「」『』（）《》〈〉【】“”‘’"
_MODIFIERS = ("shorten", "strip", "lower", "join")
_SIDES = ("end", "start")
_PARTS = re.compile(
    r"(?P<brace>\{\{|\}\})|\{(?P<field>[^{}]*)\}|(?P<blank>"
    + "|".join(re.escape(kind.value) for kind in BlankKind)
    + r")|(?P<stray>[{}])"
)


@dataclass(frozen=True)
class PatternSegment:
    """A stretch of literal text, or a field.

    Attributes:
        text: the literal text; for a field what stands directly in front of it (a space or nothing).
        name: of the field; None for literal text.
        shorten: "start" or "end", the side that may be cut; None if the field stays whole.
        strip, lower: see the module.
        join: what stands between the items of a list; None for text.
    """

    text: str
    name: str | None = None
    shorten: str | None = None
    strip: bool = False
    lower: bool = False
    join: str | None = None

    def render(self, value: object, where: str = "") -> str:
        """The field's text, modified.

        Raises:
            DataError: a value that is neither text nor a number, or a list without `join`.
        """
        if isinstance(value, (list, tuple)):
            if self.join is None:
                raise DataError(
                    f'{where}the field "{self.name}" is a list; write {{{self.name}:join=、}} in the pattern'
                )
            value = self.join.join(map(str, value))
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise DataError(f'{where}the field "{self.name}" is no text but {value!r:.60}')
        text = str(value)
        if self.strip:
            text = text.rstrip().rstrip(_PUNCTUATION)
        return text[:1].lower() + text[1:] if self.lower else text


@dataclass(frozen=True)
class FilledPattern:
    """A pattern with the fields of one example.

    Attributes:
        blanked: the text, nothing cut off.
        literals: token ids between the blanks, after cutting.
        cut_from: field -> tokens left out of it; only fields that were cut.
    """

    blanked: BlankedText
    literals: tuple[tuple[int, ...], ...]
    cut_from: Mapping[str, int] = field(default_factory=dict)

    @property
    def cut(self) -> int:
        """Tokens left out in all."""
        return sum(self.cut_from.values())

    def part_a(self, tokenizer: Tokenizer) -> PartA:
        """The text and its blanks as token ids."""
        blank_ids = [tokenizer.blank_id(kind) for kind in self.blanked.kinds]
        return build_part_a(self.literals, self.blanked.kinds, blank_ids, cls=tokenizer.cls, eos=tokenizer.eos)


@dataclass(frozen=True)
class Pattern:
    """A parsed pattern; `str(pattern)` is what was parsed.

    Attributes:
        source: as written.
        pieces: the text between the blanks, one list more than there are blanks.
        kinds: the kind of each blank.
    """

    source: str
    pieces: tuple[tuple[PatternSegment, ...], ...]
    kinds: tuple[BlankKind, ...]

    def __str__(self) -> str:
        return self.source

    @classmethod
    def parse(cls, source: str) -> Pattern:
        """Read a pattern.

        Raises:
            DataError: no blank, an unknown modifier, a brace without its partner.
        """
        groups, kinds = _parsed(source)
        if not kinds:
            raise DataError(f"pattern {source!r} has no blank; put [MASK] where the answer stands")
        return cls(source, groups, kinds)

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the fields, each once, in order."""
        return tuple(dict.fromkeys(piece.name for group in self.pieces for piece in group if piece.name is not None))

    @property
    def can_be_shortened(self) -> bool:
        """Whether any field may be cut."""
        return any(piece.shorten for group in self.pieces for piece in group)

    def fill(self, values: Mapping[str, object], tokenizer: Tokenizer, max_tokens: int) -> FilledPattern:
        """Put an example's fields in, and cut what may be cut until Part A has at most `max_tokens` tokens.

        The longest of the fields that may be cut loses a token at a time, the later one of equals.

        Raises:
            DataError: a field without a value.
            ContextLengthError: too long, and nothing (more) may be cut.
        """
        runs = [self._runs(group, values) for group in self.pieces]
        blanked = BlankedText(tuple("".join(run.text for run in group) for group in runs), self.kinds)
        ids = [[tokenizer.encode(text) for text in self._seen(group, tokenizer)] for group in runs[:-1]]
        ids.append([tokenizer.encode(run.text) for run in runs[-1]])
        fixed = tokens_beside_text(self.kinds, any(map(len, ids[-1])))
        flat = list(zip(itertools.chain(*runs), itertools.chain(*ids), strict=True))
        cuts = self._cuts([(len(each), run.piece is not None) for run, each in flat], max_tokens - fixed)
        cut_from: dict[str, int] = {}
        kept = []
        for (run, each), cut in zip(flat, cuts, strict=True):
            from_start = run.piece is not None and run.piece.shorten == "start"
            kept.append(each[cut:] if from_start else each[: len(each) - cut])
            if cut and run.piece is not None and run.piece.name is not None:
                cut_from[run.piece.name] = cut_from.get(run.piece.name, 0) + cut
        ends = np.cumsum([0, *map(len, runs)])
        literals = tuple(tuple(itertools.chain(*kept[a:b])) for a, b in itertools.pairwise(ends))
        return FilledPattern(blanked, literals, cut_from)

    def empty(self, tokenizer: Tokenizer, max_tokens: int) -> FilledPattern:
        """The pattern with nothing in its fields: the empty context for calibration."""
        return self.fill(dict.fromkeys(self.fields, ""), tokenizer, max_tokens)

    @staticmethod
    def _text(piece: PatternSegment, values: Mapping[str, object]) -> str:
        if piece.name is None:
            return piece.text
        if piece.name not in values:
            raise DataError(f'no field "{piece.name}"; there are {", ".join(values)}.{suggest(piece.name, values)}')
        text = piece.render(values[piece.name])
        return piece.text + text if text else ""

    @classmethod
    def _runs(cls, pieces: Sequence[PatternSegment], values: Mapping[str, object]) -> list[_Run]:
        runs: list[_Run] = []
        for piece in pieces:
            text = cls._text(piece, values)
            if piece.shorten:
                runs.append(_Run(text, piece))
            elif runs and runs[-1].piece is None:
                runs[-1] = _Run(runs[-1].text + text)
            else:
                runs.append(_Run(text))
        return runs

    @staticmethod
    def _seen(runs: Sequence[_Run], tokenizer: Tokenizer) -> list[str]:
        """The runs in front of a blank as the model sees them: the answer brings its own space."""
        seen = [run.text for run in runs]
        last = next((i for i in range(len(seen) - 1, -1, -1) if seen[i]), None)
        if last is not None:
            seen[last] = tokenizer.trim_before_blank(seen[last])
        return seen

    def _cuts(self, sizes: Sequence[tuple[int, bool]], max_tokens: int) -> list[int]:
        """Tokens to cut from each run, given its size and whether it may be cut, to fit into `max_tokens`."""
        cuts = [0] * len(sizes)
        may = [i for i, (_, cuttable) in enumerate(sizes) if cuttable]
        total = sum(size for size, _ in sizes)
        most = sum(sizes[i][0] for i in may)
        surplus = total - max_tokens
        if surplus > most:
            why = f"{total - most} of them may not be cut" if may else "no field may be"
            raise ContextLengthError(
                f"the text has {total} tokens, the context holds {max_tokens} beside the blanks, and {why}; mark long "
                "fields :shorten in the pattern, or shorten the text"
            )
        for _ in range(surplus):
            longest = max(may, key=lambda i: (sizes[i][0] - cuts[i], i))
            cuts[longest] += 1
        return cuts


@dataclass(frozen=True)
class _Run:
    """Text that is tokenized in one go; with `piece`, a field that may be cut."""

    text: str
    piece: PatternSegment | None = None


def render(template: str, values: Mapping[str, object]) -> str:
    """Text with fields and no blanks, such as an option: `"{choice1:lower,strip}"`.

    Raises:
        DataError: a blank in it, or as `Pattern.parse` and `Pattern.fill`.
    """
    groups, kinds = _parsed(template)
    if kinds:
        raise DataError(f"{template!r} stands in a blank and cannot have one itself")
    return "".join(Pattern._text(piece, values) for piece in groups[0])


def fields_of(template: str) -> tuple[str, ...]:
    """Names of the fields in such a text."""
    return tuple(piece.name for group in _parsed(template)[0] for piece in group if piece.name is not None)


def _parsed(source: str) -> tuple[tuple[tuple[PatternSegment, ...], ...], tuple[BlankKind, ...]]:
    """The pieces between the blanks, and the blanks."""
    groups: list[list[PatternSegment]] = [[]]
    kinds: list[BlankKind] = []
    literal, end = "", 0
    for found in _PARTS.finditer(source):
        literal, end = literal + source[end : found.start()], found.end()
        if found["brace"]:
            literal += found["brace"][0]
        elif found["stray"]:
            raise DataError(f"pattern {source!r}: a lone {found['stray']}; write {{{{ or }}}} for the sign itself")
        elif found["blank"]:
            groups[-1] += [PatternSegment(literal)] if literal else []
            literal = ""
            kinds.append(BlankKind(found["blank"]))
            groups.append([])
        else:
            space = " " if literal.endswith(" ") else ""
            literal = literal.removesuffix(" ") if space else literal
            groups[-1] += [PatternSegment(literal)] if literal else []
            literal = ""
            groups[-1].append(_field(found["field"], space, source))
    literal += source[end:]
    groups[-1] += [PatternSegment(literal)] if literal else []
    return tuple(map(tuple, groups)), tuple(kinds)


def _field(text: str, before: str, source: str) -> PatternSegment:
    name, _, modifiers = text.partition(":")
    name = name.strip()
    if not name:
        raise DataError(f"pattern {source!r}: a field without a name; write {{sentence}}, or {{{{}}}} for braces")
    shorten: str | None = None
    join: str | None = None
    flags = set()
    for modifier in filter(None, modifiers.split(",")):
        key, equals, value = modifier.partition("=")
        key = key.strip()
        if key not in _MODIFIERS or (equals and key in ("strip", "lower")):
            raise DataError(
                f"pattern {source!r}: unknown modifier {modifier!r} of {{{name}}}; "
                f"there are {', '.join(_MODIFIERS)}.{suggest(key, _MODIFIERS)}"
            )
        if key == "shorten":
            shorten = value.strip() if equals else "end"
            if shorten not in _SIDES:
                raise DataError(f"pattern {source!r}: shorten={shorten} of {{{name}}}; use {' or '.join(_SIDES)}")
        elif key == "join":
            join = value
        else:
            flags.add(key)
    return PatternSegment(before, name, shorten, "strip" in flags, "lower" in flags, join)
