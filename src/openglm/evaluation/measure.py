"""Rows of the catalogue measured: perplexity, last words, generated texts, infilling."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..infill.infiller import Infiller
from ..tasks.units import written_words
from .answers import cmrc, squad
from .catalogue import Entry
from .generation import bleu, mean_length, rouge
from .infilling import infilling
from .language_model import DIRECTIONS, count_windows, last_words, perplexity
from .options import EvalOptions
from .progress import Bar
from .texts import read_requests, read_texts, references_of
from .wikitext import detokenize

TEXTS_AT_ONCE = 64
MOST_REFERENCES = 16
BLANKED_WORDS = 120  # words of a text that infilling looks at: a longer one is a whole document

Measured = tuple[dict[str, float], int, int]  # metrics, examples, examples that were cut


def measure(row: Entry, path: Path, infiller: Infiller, options: EvalOptions) -> Measured:
    """Metrics of a row of the catalogue on a file.

    Raises:
        DataError, InputError: what is in the file cannot be used. OptionError: as the options.
    """
    return _KINDS[row.kind](row, path, infiller, options)


def settings_of(row: Entry, options: EvalOptions) -> dict[str, Any]:
    """What decides the figures of a row, beside the model and the file."""
    if row.kind == "perplexity":
        return {"sequence_length": options.sequence_length, "stride": options.stride}
    if row.kind == "last_word":
        return {}
    chosen: dict[str, Any] = {"generate": dict(options.generate)}
    return chosen | ({"ratios": list(options.ratios)} if row.kind == "infilling" else {})


def _perplexity(row: Entry, path: Path, infiller: Infiller, options: EvalOptions) -> Measured:
    originals = read_texts(path, lines=False, limit=options.limit)
    texts = [detokenize(text) for text in originals] if row.restored else originals
    context = infiller.model.config.max_sequence_length
    length = options.sequence_length or min(1024, context)
    stride = options.stride or max(1, length // 4)
    per_word, per_token, count = {}, {}, 0
    with Bar(row.name, len(DIRECTIONS) * count_windows(infiller, texts, length, stride), "windows") as bar:
        for direction in DIRECTIONS:
            found = perplexity(
                infiller, texts, direction=direction, sequence_length=length, stride=stride,
                originals=originals, progress=bar.add,
            )  # fmt: skip
            count = found.tokens
            per_token[f"per token ({direction})"] = found.perplexity
            if found.word_perplexity is not None:
                per_word[f"per word ({direction})"] = found.word_perplexity
    return {**per_word, **per_token}, count, 0


def _last_words(row: Entry, path: Path, infiller: Infiller, options: EvalOptions) -> Measured:
    texts = read_texts(path, lines=True, limit=options.limit)
    metrics, cut = {}, 0
    with Bar(row.name, len(DIRECTIONS) * len(texts), "texts") as bar:
        for direction in DIRECTIONS:
            found = last_words(infiller, texts, direction=direction, progress=bar.add)
            metrics[f"accuracy ({direction})"], cut = found.accuracy, max(cut, found.cut)
    return metrics, len(texts), cut


def _generation(row: Entry, path: Path, infiller: Infiller, options: EvalOptions) -> Measured:
    requests = read_requests(path, row, infiller, options.limit)
    longest = infiller.model.config.max_sequence_length - 1
    chosen = {"max_new_tokens": min(row.max_new_tokens, longest), **options.generate}
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
    return metrics, len(requests), sum(request.cut > 0 for request in requests)


def _infilling(row: Entry, path: Path, infiller: Infiller, options: EvalOptions) -> Measured:
    texts = read_texts(path, lines=True, limit=options.limit)
    shortened = [_first_words(text) for text in texts]
    with Bar(row.name, len(options.ratios) * len(texts), "texts") as bar:
        found = infilling(infiller, shortened, options.ratios, progress=bar.add, **options.generate)
    metrics: dict[str, float] = {}
    for each in found:
        ratio = f"{100 * each.ratio:g} %"
        metrics |= {
            f"BLEU at {ratio}": each.bleu,
            f"BLEU unfilled at {ratio}": each.bleu_unfilled,
            f"exact match at {ratio}": each.exact_match,
        }
    return metrics, len(texts), sum(a != b for a, b in zip(texts, shortened, strict=True))


def _first_words(text: str) -> str:
    words = written_words(text)
    return text if len(words) <= BLANKED_WORDS else text[: words[BLANKED_WORDS - 1][1]]


_METRICS: Mapping[str, Callable[[list[str], list[list[str]]], Mapping[str, float]]] = {
    "rouge": rouge,
    "bleu": lambda written, references: {"bleu": bleu(written, references)},
    "squad": squad,
    "cmrc": cmrc,
}
_KINDS: Mapping[str, Callable[[Entry, Path, Infiller, EvalOptions], Measured]] = {
    "perplexity": _perplexity,
    "last_word": _last_words,
    "generation": _generation,
    "infilling": _infilling,
}
