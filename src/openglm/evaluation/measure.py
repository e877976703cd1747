"""Rows of the catalogue measured: perplexity, last words, generated texts, infilling."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..tasks.examples import read_examples
from ..tasks.pattern import Pattern
from ..tasks.units import written_words
from .answers import cmrc, squad
from .catalogue import Entry
from .digests import digest_of_content
from .generation import bleu, mean_length, rouge
from .infilling import infilling
from .language_model import DIRECTIONS, count_windows, last_words, perplexity
from .models import Model
from .options import EvalOptions
from .progress import Bar
from .protocol import UNLIKE, ZERO_SHOT, Protocol
from .sample import sampled, stretch
from .targets import Measurement, Target
from .texts import Texts, read_requests, read_texts, references_of
from .wikitext import detokenize

TEXTS_AT_ONCE = 64
MOST_REFERENCES = 16
BLANKED_WORDS = 120  # words of a text that infilling looks at: a longer one is a whole document


class RowTarget(Target):
    """A row of the catalogue on its file, or on one of the user's.

    Args:
        name: as given.
        path: of the file.
    """

    def __init__(self, name: str, row: Entry, path: Path, options: EvalOptions) -> None:
        self.name, self.row, self.path, self.options = name, row, path, options
        self.title, self.version, self.published = row.title, row.version, row.published

    def paths(self) -> list[Path]:
        """The file."""
        return [self.path]

    def content(self) -> str:
        """Of the row."""
        return digest_of_content(self.row)

    @functools.cached_property
    def items(self) -> Texts:
        """The texts of the file, or its records where each is more than a text; all of them."""
        if self.row.kind == "generation":
            return Texts(examples=read_examples(self.path))
        return read_texts(self.path, lines=self.row.kind != "perplexity")

    def population(self) -> int:
        """Texts, records, or lines of a text that is read as a whole, if not all of them are measured."""
        limit, count = self.options.limit, self.items.count
        return count if limit is not None and limit < count else 0

    def chosen(self) -> Texts:
        """The sample that is measured."""
        limit, seed = self.options.limit, self.options.sample_seed
        if self.items.whole:  # one text: lines that follow each other
            (text,) = self.items.texts
            return Texts(["".join(stretch(text.splitlines(keepends=True), limit, seed))], whole=True)
        return Texts(sampled(self.items.texts, limit, seed), sampled(self.items.examples, limit, seed))

    def protocol(self, model: Model) -> Protocol:
        """Zero-shot, or what a run was fine-tuned for."""
        settings = {"file": self.path.name, **settings_of(self.row, self.options)}
        if model.run is None:
            return Protocol("zero-shot", ZERO_SHOT, (), settings)
        own = self.row.kind == "generation" and self.pattern(model) is not None
        return Protocol("fine-tuned" if own else "fine-tuned for something else", UNLIKE, (), settings)

    def pattern(self, model: Model) -> str | None:
        """For generated texts, the pattern that a run was trained with, if the records have its fields."""
        if model.run is None or model.run.kind != "seq2seq" or not model.run.text_pattern:
            return None
        fields = Pattern.parse(model.run.text_pattern).fields
        return model.run.text_pattern if all(self.items.examples[0].has(name) for name in fields) else None

    def measure(self, model: Model) -> Measurement:
        """Metrics of the row on its file.

        Raises:
            DataError, InputError: what is in the file cannot be used. OptionError: as the options.
        """
        return _KINDS[self.row.kind](self, model)


def settings_of(row: Entry, options: EvalOptions) -> dict[str, Any]:
    """What decides the figures of a row, beside the model and the file."""
    if row.kind == "perplexity":
        return {"sequence_length": options.sequence_length, "stride": options.stride}
    if row.kind == "last_word":
        return {}
    chosen: dict[str, Any] = {"generate": dict(options.generate)}
    return chosen | ({"ratios": list(options.ratios)} if row.kind == "infilling" else {})


def _perplexity(target: RowTarget, model: Model) -> Measurement:
    infiller, options = model.infiller, target.options
    originals = target.chosen().texts
    texts = [detokenize(text) for text in originals] if target.row.restored else originals
    context = infiller.model.config.max_sequence_length
    length = options.sequence_length or min(1024, context)
    stride = options.stride or max(1, length // 4)
    per_word, per_token, count = {}, {}, 0
    with Bar(target.row.name, len(DIRECTIONS) * count_windows(infiller, texts, length, stride), "windows") as bar:
        for direction in DIRECTIONS:
            found = perplexity(
                infiller, texts, direction=direction, sequence_length=length, stride=stride,
                originals=originals, progress=bar.add,
            )  # fmt: skip
            count = found.tokens
            per_token[f"per token ({direction})"] = found.perplexity
            if found.word_perplexity is not None:
                per_word[f"per word ({direction})"] = found.word_perplexity
    return Measurement({**per_word, **per_token}, count)


def _last_words(target: RowTarget, model: Model) -> Measurement:
    texts = target.chosen().texts
    metrics, cut = {}, 0
    rows: list[dict[str, Any]] = [{"id": number, "text": text} for number, text in enumerate(texts, 1)]
    with Bar(target.row.name, len(DIRECTIONS) * len(texts), "texts") as bar:
        for direction in DIRECTIONS:
            found = last_words(model.infiller, texts, direction=direction, progress=bar.add)
            metrics[f"accuracy ({direction})"], cut = found.accuracy, max(cut, found.cut)
            for row, right in zip(rows, found.right, strict=True):
                row[f"correct ({direction})"] = right
    return Measurement(metrics, len(texts), cut, predictions=rows)


def _generation(target: RowTarget, model: Model) -> Measurement:
    infiller, row, examples = model.infiller, target.row, target.chosen().examples
    requests = read_requests(examples, target.pattern(model) or row.pattern, row.target, infiller)
    longest = infiller.model.config.max_sequence_length - 1
    chosen = {"max_new_tokens": min(row.max_new_tokens, longest), **target.options.generate}
    written: list[str] = []
    with Bar(row.name, len(requests), "texts") as bar:
        for start in range(0, len(requests), TEXTS_AT_ONCE):
            batch = requests[start : start + TEXTS_AT_ONCE]
            filled = infiller.fill([request.blanked for request in batch], **chosen)
            written += [each.blanks[0].text.strip() for each in filled]
            bar.add(len(batch))
    references = references_of(requests, MOST_REFERENCES)
    metrics: dict[str, float] = {}
    for name in row.metrics:
        metrics |= _METRICS[name](written, references)
    metrics["length"] = mean_length(written)
    rows = [
        {
            "id": example.id or example.number,
            "number": example.number,
            "text": str(request.blanked),
            "predicted": text,
            "references": request.references,
        }
        for example, request, text in zip(examples, requests, written, strict=True)
    ]
    return Measurement(metrics, len(requests), sum(request.cut > 0 for request in requests), predictions=rows)


def _infilling(target: RowTarget, model: Model) -> Measurement:
    texts, options = target.chosen().texts, target.options
    shortened = [_first_words(text) for text in texts]
    with Bar(target.row.name, len(options.ratios) * len(texts), "texts") as bar:
        found = infilling(model.infiller, shortened, options.ratios, progress=bar.add, **options.generate)
    metrics: dict[str, float] = {}
    rows: list[dict[str, Any]] = []
    for each in found:
        ratio = f"{100 * each.ratio:g} %"
        metrics |= {
            f"BLEU at {ratio}": each.bleu,
            f"BLEU unfilled at {ratio}": each.bleu_unfilled,
            f"exact match at {ratio}": each.exact_match,
        }
        rows += [
            {"id": f"{number} at {ratio}", "text": blanked, "predicted": fills, "references": answers}
            for number, (blanked, fills, answers) in enumerate(each.filled, 1)
        ]
    return Measurement(
        metrics, len(texts), sum(a != b for a, b in zip(texts, shortened, strict=True)), predictions=rows
    )


def _first_words(text: str) -> str:
    words = written_words(text)
    return text if len(words) <= BLANKED_WORDS else text[: words[BLANKED_WORDS - 1][1]]


_METRICS: Mapping[str, Callable[[list[str], list[list[str]]], Mapping[str, float]]] = {
    "rouge": rouge,
    "bleu": lambda written, references: {"bleu": bleu(written, references)},
    "squad": squad,
    "cmrc": cmrc,
}
_KINDS: Mapping[str, Callable[[RowTarget, Model], Measurement]] = {
    "perplexity": _perplexity,
    "last_word": _last_words,
    "generation": _generation,
    "infilling": _infilling,
}
