"""How to fill: the options of `Infiller.fill`, checked in one place.

Names and meanings follow Hugging Face's generation options where they have one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from ..blanks import BlankKind
from ..checks import check_number, check_one_of
from ..errors import OptionError

# A fill ends by itself; these only bound one that would not.
DEFAULT_MAX_NEW_TOKENS = {BlankKind.MASK: 32, BlankKind.SMASK: 128, BlankKind.GMASK: 256}
MOST_ANSWERS = 1024  # of one text, or beams: the memory of all of them is taken at once
TRUNCATE = ("start", "end", "around")

COLDEST = 1e-6  # a lower temperature is 0

Lengths = int | Sequence[int]
Schema = str | dict[str, Any]
Words = str | Sequence[str] | Sequence[Sequence[str] | None] | None
CONDITIONS = (
    "choices", "regex", "json_schema", "grammar", "whole_words", "min_chars", "max_chars", "bad_words", "required",
    "stop",
)  # fmt: skip


class FillKeywords(TypedDict, total=False):
    """The fields of `FillOptions` as keywords, for type checkers."""

    max_new_tokens: Lengths | None
    min_new_tokens: Lengths
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    typical_p: float
    repetition_penalty: float
    no_repeat_ngram_size: int
    exponential_decay_length_penalty: tuple[int, float] | None
    num_beams: int
    length_penalty: float
    num_return_sequences: int
    seed: int | None
    truncate: str | None
    choices: Sequence[str] | Sequence[Sequence[str] | None] | None
    regex: str | Sequence[str | None] | None
    json_schema: Schema | Sequence[Schema | None] | None
    grammar: str | Sequence[str | None] | None
    whole_words: bool | Sequence[bool | None]
    min_chars: int | Sequence[int | None] | None
    max_chars: int | Sequence[int | None] | None
    bad_words: Words
    required: Words
    stop: Words


@dataclass(frozen=True)
class FillOptions:
    """Decoding options.

    Attributes:
        max_new_tokens: most tokens of a fill, one number or one per blank. Default by kind
            of blank: 32, 128 and 256 for `[MASK]`, `[sMASK]` and `[gMASK]`.
        min_new_tokens: fewest tokens of a fill, one number or one per blank.
        temperature: 0 (or below 1e-6) takes the most probable token; above samples from the
            distribution sharpened (below 1) or flattened (above 1).
        top_k: sample among the k most probable tokens; 0: all.
        top_p: sample among the most probable tokens that together reach this probability.
        min_p: sample among tokens at least this share as probable as the most probable one; 0: all.
        typical_p: sample among the tokens whose information is nearest to its mean, that together
            reach this probability; 1: all.
        repetition_penalty: above 1 makes tokens already written in this text's blanks less
            likely (logits divided or multiplied by it, as in Keskar et al. 2019).
        no_repeat_ngram_size: no run of so many tokens of a fill stands twice in it, or in the text
            around it; 0: any may.
        exponential_decay_length_penalty: (start, factor): from `start` tokens on the end of a fill
            becomes likelier, by `factor` ** tokens beyond.
        num_beams: beam search over this many hypotheses.
        length_penalty: beams are ranked by log-probability / length ** length_penalty.
        num_return_sequences: answers per text: that many samples, or at most that many of the
            best beams, no two with the same text.
        seed: makes sampling repeat; a text gives the same samples alone or in a list.
        truncate: what to drop of a text longer than the context: its "start", its "end", or
            what lies farthest "around" the blanks. Default: an error.

    Conditions on what is written, one value for all blanks or a list with one per blank (None: no
    condition). Only what can still be completed is drawn from; log-probabilities stay the model's.
        choices: the fill is one of these texts.
        regex: it matches this regular expression, all of it (Rust's syntax).
        json_schema: it is JSON of this schema, a dict or a string.
        grammar: it is of this grammar, in llguidance's notation of Lark.
        whole_words: it is words with single spaces, apostrophes or hyphens between, and nothing else.
        min_chars, max_chars: fewest and most characters.
        bad_words: texts that it does not contain.
        required: texts that it contains.
        stop: texts behind which it ends; they belong to it.

    Raises:
        OptionError: a value out of range or options that exclude each other.

    >>> FillOptions(max_new_tokens=[4, 64], temperature=0.8, seed=1).top_p
    1.0
    """

    max_new_tokens: Lengths | None = None
    min_new_tokens: Lengths = 0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    exponential_decay_length_penalty: tuple[int, float] | None = None
    num_beams: int = 1
    length_penalty: float = 0.0
    num_return_sequences: int = 1
    seed: int | None = None
    truncate: str | None = None
    choices: Sequence[str] | Sequence[Sequence[str] | None] | None = None
    regex: str | Sequence[str | None] | None = None
    json_schema: Schema | Sequence[Schema | None] | None = None
    grammar: str | Sequence[str | None] | None = None
    whole_words: bool | Sequence[bool | None] = False
    min_chars: int | Sequence[int | None] | None = None
    max_chars: int | Sequence[int | None] | None = None
    bad_words: Words = None
    required: Words = None
    stop: Words = None

    def __post_init__(self) -> None:
        for limit in self._listed(self.max_new_tokens):
            check_number("max_new_tokens", limit, least=1, whole=True)
        for limit in self._listed(self.min_new_tokens):
            check_number("min_new_tokens", limit, least=0, whole=True)
        check_number("temperature", self.temperature, least=0, note="0 is greedy")
        check_number("top_k", self.top_k, least=0, whole=True)
        check_number("top_p", self.top_p, above=0, most=1)
        check_number("min_p", self.min_p, least=0, most=1)
        check_number("typical_p", self.typical_p, above=0, most=1)
        check_number("no_repeat_ngram_size", self.no_repeat_ngram_size, least=0, whole=True)
        self._check_decay()
        check_number("repetition_penalty", self.repetition_penalty, above=0)
        check_number("length_penalty", self.length_penalty)
        check_number("num_beams", self.num_beams, least=1, most=MOST_ANSWERS, whole=True)
        check_number("num_return_sequences", self.num_return_sequences, least=1, most=MOST_ANSWERS, whole=True)
        if self.seed is not None:
            check_number("seed", self.seed, least=0, whole=True)
        if self.truncate is not None:
            check_one_of("truncate", self.truncate, TRUNCATE)
        self._check_together()

    def _check_decay(self) -> None:
        decay = self.exponential_decay_length_penalty
        if decay is None:
            return
        if not isinstance(decay, (tuple, list)) or len(decay) != 2:
            raise OptionError(f"exponential_decay_length_penalty must be (start, factor), not {decay!r:.80}")
        check_number("start of exponential_decay_length_penalty", decay[0], least=0, whole=True)
        check_number("factor of exponential_decay_length_penalty", decay[1], least=1)

    def _check_together(self) -> None:
        """Raise OptionError: options that exclude each other."""
        sampling = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "typical_p": 1.0, "seed": None}
        idle = [name for name, default in sampling.items() if getattr(self, name) != default]
        if idle and self.temperature == 0:
            raise OptionError(f"{' and '.join(idle)} does nothing at temperature 0; set a temperature, or leave it out")
        if self.length_penalty and self.num_beams == 1:
            raise OptionError("length_penalty ranks beams, of which there are none; set num_beams, or leave it out")
        if self.num_beams > 1 and self.temperature > 0:
            raise OptionError("num_beams and temperature exclude each other; set temperature to 0 or num_beams to 1")
        if self.num_beams > 1 and self.num_return_sequences > self.num_beams:
            raise OptionError(
                f"num_return_sequences {self.num_return_sequences} exceeds num_beams {self.num_beams}; raise num_beams"
            )
        if self.num_beams == 1 and self.temperature == 0 and self.num_return_sequences > 1:
            raise OptionError(
                "greedy decoding has one answer; for num_return_sequences above 1 set num_beams or a temperature"
            )

    @property
    def samples(self) -> bool:
        """Whether tokens are drawn; below a tiny temperature the most probable one is taken."""
        return self.temperature >= COLDEST

    @property
    def drawing(self) -> tuple[float, ...]:
        """How the next token is chosen: rows that agree in this are done together."""
        decay = self.exponential_decay_length_penalty
        own = (self.temperature, self.top_k, self.top_p, self.min_p, self.typical_p)
        return *own, self.repetition_penalty, self.no_repeat_ngram_size, *(decay or ())

    @staticmethod
    def _listed(value: Lengths | None) -> Sequence[int]:
        if value is None:
            return ()
        return value if isinstance(value, (list, tuple)) else (value,)

    @property
    def conditions(self) -> dict[str, Any]:
        """Those that were given."""
        return {name: value for name in CONDITIONS if (value := getattr(self, name)) is not None and value is not False}

    def limits(self, kinds: Sequence[BlankKind], context: int) -> list[tuple[int, int]]:
        """(fewest, most) tokens of each blank of a text; `context` is the model's P.

        Raises:
            OptionError: a list whose length is not the number of blanks, a minimum above its
                maximum, or a maximum that the model's block positions cannot count.
        """
        if self.max_new_tokens is None:
            most = [min(DEFAULT_MAX_NEW_TOKENS[kind], context - 1) for kind in kinds]
        else:
            most = self._per_blank("max_new_tokens", self.max_new_tokens, len(kinds))
        least = self._per_blank("min_new_tokens", self.min_new_tokens, len(kinds))
        for low, high in zip(least, most, strict=True):
            if high >= context:
                raise OptionError(
                    f"max_new_tokens {high} is too long for this model: a blank holds at most {context - 1} tokens"
                )
            if low > high:
                raise OptionError(f"min_new_tokens {low} exceeds max_new_tokens {high}")
        return list(zip(least, most, strict=True))

    @staticmethod
    def _per_blank(name: str, value: Lengths, blanks: int) -> list[int]:
        if isinstance(value, int):
            return [value] * blanks
        if len(value) != blanks:
            raise OptionError(f"{name} lists {len(value)} values for a text with {blanks} blanks")
        return list(value)
