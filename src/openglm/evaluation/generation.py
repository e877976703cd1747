"""ROUGE and BLEU of generated texts, in Chinese and in English.

The arithmetic is that of `rouge-score` and `sacrebleu`, the libraries published numbers come
from; what is added is that Chinese is cut into characters. Knows nothing about models.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from ..errors import InputError
from ..extras import library
from ..tasks.units import is_chinese, normalized, units

ROUGE = ("rouge1", "rouge2", "rougeL")


class _Units:
    """The tokenizer that rouge-score is given; its own drops every letter that is not Latin."""

    def tokenize(self, text: str) -> list[str]:
        return units(text)


def rouge(predictions: Sequence[str], references: Sequence[str | Sequence[str]]) -> dict[str, float]:
    """ROUGE-1, ROUGE-2 and ROUGE-L F1, in percent: the mean over the texts.

    Args:
        predictions: one text each.
        references: a text for each prediction, or several, of which the best counts.

    Returns:
        `rouge1`, `rouge2`, `rougeL`. Chinese is counted in characters, other scripts in words;
        case and punctuation do not count, and words are not stemmed.

    Raises:
        InputError: no predictions, or not as many references; MissingLibraryError.
    """
    listed = _paired(predictions, references)
    scorer = library("rouge_score.rouge_scorer", extra="eval", purpose="ROUGE").RougeScorer(
        list(ROUGE), tokenizer=_Units()
    )
    sums = dict.fromkeys(ROUGE, 0.0)
    for prediction, golds in zip(predictions, listed, strict=True):
        each = [scorer.score(gold, prediction) for gold in golds]
        for name in ROUGE:
            sums[name] += max(float(score[name].fmeasure) for score in each)
    return {name: 100 * value / len(predictions) for name, value in sums.items()}


def bleu(
    predictions: Sequence[str], references: Sequence[str | Sequence[str]], *, tokenize: str | None = None
) -> float:
    """Corpus BLEU of n-grams up to four, in percent (Post 2018).

    Args:
        tokenize: a tokenizer of sacrebleu ("zh", "13a", "char", ...); by default "zh" where at
            least a third of the references' letters are Chinese, else "13a".

    Raises:
        InputError, MissingLibraryError: as `rouge`; InputError also for an unknown tokenizer, or
            texts with different numbers of references.
    """
    listed = _paired(predictions, references)
    if len({len(golds) for golds in listed}) > 1:
        raise InputError("BLEU needs the same number of references for every text")
    sacrebleu = library("sacrebleu", extra="eval", purpose="BLEU")
    if tokenize is None:
        tokenize = "zh" if is_chinese([golds[0] for golds in listed]) else "13a"
    if tokenize not in sacrebleu.BLEU.TOKENIZERS:
        raise InputError(f"no tokenizer {tokenize!r} in sacrebleu; it has {', '.join(sacrebleu.BLEU.TOKENIZERS)}")
    streams = [[normalized(text) for text in stream] for stream in zip(*listed, strict=True)]
    written = [normalized(text) for text in predictions]
    return float(sacrebleu.BLEU(tokenize=tokenize).corpus_score(written, streams).score)


def mean_length(texts: Sequence[str]) -> float:
    """Mean number of characters and words (as ROUGE counts them)."""
    return statistics.fmean(len(units(text)) for text in texts)


def _paired(predictions: Sequence[str], references: Sequence[str | Sequence[str]]) -> list[list[str]]:
    """The references of each prediction, as lists."""
    if isinstance(predictions, str) or isinstance(references, str):
        raise InputError("predictions and references are lists of texts, not one text")
    if not predictions or len(predictions) != len(references):
        raise InputError(f"{len(predictions)} predictions for {len(references)} references; give one for each text")
    listed = [[golds] if isinstance(golds, str) else list(golds) for golds in references]
    for number, golds in enumerate(listed, start=1):
        if not golds:
            raise InputError(f"text {number} has no reference")
    return listed
