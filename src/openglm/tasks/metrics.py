"""Official metrics of the tasks, by name, in percent.

    accuracy           share of questions whose best label is a right one
    macro_f1           F1 of each label against the rest, averaged over the labels that occur
    f1                 F1 of the last label ("true", "1") against the rest
    f1a, em            MultiRC: F1 over all answers; share of questions with every answer right
    record_f1          ReCoRD: token overlap with the nearest right answer
    record_em          ReCoRD: best answer equal to a right one, after normalising both
    qac, pac           CMRC2019: blanks right; passages with every blank right
    group_accuracy     accuracy of each group, averaged over the groups (BLiMP: over its paradigms)

`em`, `pac` and `group_accuracy` go by `Question.group`. Predictions without a known answer are an
error, never left out. Knows nothing about models.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

from ..errors import DataError, suggest
from ..scoring.predict import Prediction

Metric = Callable[[Sequence[Prediction]], float]


def accuracy(predictions: Sequence[Prediction]) -> float:
    """Share of questions answered rightly."""
    return 100 * sum(each.correct for each in predictions) / len(predictions)


def macro_f1(predictions: Sequence[Prediction]) -> float:
    """Mean F1 over the labels that are right or predicted somewhere."""
    right, guessed = _right(predictions), [each.label for each in predictions]
    names = sorted(set(right) | set(guessed))
    return sum(_f1(right, guessed, name) for name in names) / len(names)


def last_f1(predictions: Sequence[Prediction]) -> float:
    """F1 of the last label against the rest."""
    return _f1(_right(predictions), [each.label for each in predictions], predictions[0].question.labels[-1])


def all_right(predictions: Sequence[Prediction]) -> float:
    """Share of groups in which every question is answered rightly."""
    return 100 * fmean(all(each.correct for each in group) for group in _groups(predictions))


def group_accuracy(predictions: Sequence[Prediction]) -> float:
    """Mean over the groups of the share of questions answered rightly."""
    return fmean(accuracy(group) for group in _groups(predictions))


def _groups(predictions: Sequence[Prediction]) -> list[list[Prediction]]:
    groups: dict[str, list[Prediction]] = defaultdict(list)
    for each in predictions:
        if each.question.group is None:
            raise DataError("this metric goes by groups, but the examples have none; name the field under `group`")
        groups[each.question.group].append(each)
    return list(groups.values())


def record_em(predictions: Sequence[Prediction]) -> float:
    """Best answer equal to one of the right ones, after normalising."""
    return (
        100
        * sum(max(float(guess == answer) for answer in answers) for guess, answers in _spans(predictions))
        / len(predictions)
    )


def record_f1(predictions: Sequence[Prediction]) -> float:
    """Token overlap of the best answer with the nearest right one."""
    total = sum(max(_overlap(guess, answer) for answer in answers) for guess, answers in _spans(predictions))
    return 100 * total / len(predictions)


METRICS: Mapping[str, Metric] = {
    "accuracy": accuracy,
    "macro_f1": macro_f1,
    "f1": last_f1,
    "f1a": last_f1,
    "em": all_right,
    "record_f1": record_f1,
    "record_em": record_em,
    "qac": accuracy,
    "pac": all_right,
    "group_accuracy": group_accuracy,
}


def metric(name: str) -> Metric:
    """The metric of this name.

    Raises:
        DataError: there is none.
    """
    if name not in METRICS:
        raise DataError(f"no metric {name!r}; there are {', '.join(METRICS)}.{suggest(name, METRICS)}")
    return METRICS[name]


def evaluate(names: Sequence[str], predictions: Sequence[Prediction]) -> dict[str, float]:
    """Metrics of these names, in percent.

    Raises:
        DataError: an unknown name, no predictions, or one whose right answer is not known.
    """
    chosen = {name: metric(name) for name in names}
    if not predictions:
        raise DataError("there are no predictions to measure")
    for each in predictions:
        if not each.question.golds:
            raise DataError(f"example {each.question.number} has no label, so nothing can be measured on it")
    return {name: function(predictions) for name, function in chosen.items()}


def by_category(names: Sequence[str], predictions: Sequence[Prediction]) -> dict[str, dict[str, float]]:
    """Metrics of the predictions of each category, sorted by its name; nothing where there are none."""
    categories: dict[str, list[Prediction]] = defaultdict(list)
    for each in predictions:
        if each.question.category is not None:
            categories[each.question.category].append(each)
    return {name: evaluate(names, categories[name]) for name in sorted(categories)}


def _right(predictions: Sequence[Prediction]) -> list[str]:
    """The right label of each; where several are right and one of them was chosen, that one."""
    return [each.label if each.correct else each.question.labels[each.question.golds[0]] for each in predictions]


def _f1(right: Sequence[str], guessed: Sequence[str], label: str) -> float:
    both = sum(r == g == label for r, g in zip(right, guessed, strict=True))
    either = sum(r == label for r in right) + sum(g == label for g in guessed)
    return 200 * both / either if either else 0.0


def _spans(predictions: Sequence[Prediction]) -> list[tuple[str, list[str]]]:
    return [
        (_plain(each.label), [_plain(each.question.labels[gold]) for gold in each.question.golds])
        for each in predictions
    ]


def _plain(text: str) -> str:
    """Lower case, Latin letters without their accents, no punctuation and no articles."""
    folded = re.sub(r"(?<=[a-z])[\u0300-\u036f]+", "", unicodedata.normalize("NFKD", text.lower()))
    bare = "".join(sign for sign in folded if sign.isspace() or unicodedata.category(sign)[0] in "LNM")
    return " ".join(word for word in bare.split() if word not in ("a", "an", "the"))


def _overlap(guess: str, answer: str) -> float:
    a, b = guess.split(), answer.split()
    common = sum((Counter(a) & Counter(b)).values())
    return 2 * common / (len(a) + len(b)) if common else 0.0
