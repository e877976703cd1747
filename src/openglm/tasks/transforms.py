"""Named changes to examples, for what a pattern cannot say: `prepare: [cmrc2019]` in a task file.

A transform makes one example into one or several (a passage with many questions). Fields that
it adds are named in its docstring. Knows nothing about patterns, tokens or models.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ..errors import DataError, suggest
from .examples import Example

Transform = Callable[[Example], list[Example]]

_ASCII = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-"})
_IDIOM = "#idiom#"
_BLANK = re.compile(r"\[BLANK(\d+)\]")
_OTHER_BLANK = "……"  # stands for the blanks of a passage that are not asked for
_PLACEHOLDER = "@placeholder"


def ascii_punctuation(example: Example) -> list[Example]:
    """Curly quotes and en dashes as in ASCII, in all text, as the published code reads English."""
    return [Example(_translated(dict(example.values)), example.source, example.number, example.unit)]


def mark_characters(example: Example) -> list[Example]:
    """CLUEWSC: `marked` (the text, `#noun#` and `*pronoun*` marked by character), `noun`, `pronoun`."""
    text = example.text("text")
    spans = []
    for sign, which in (("#", "span1"), ("*", "span2")):
        word, start = example.text(f"target.{which}_text"), example.get(f"target.{which}_index")
        start = _found(text, word, start, example)
        spans.append((start, start + len(word), sign))
    marked = text
    for start, end, sign in sorted(spans, reverse=True):
        marked = f"{marked[:start]}{sign}{marked[start:end]}{sign}{marked[end:]}"
    return [example.replaced(marked=marked, **_wsc_words(example))]


def mark_words(example: Example) -> list[Example]:
    """WSC: `marked` (the text, its pronoun as `*he*`, marked by word), `noun`, `pronoun`."""
    words = example.text("text").split()
    start, count = example.get("target.span2_index"), len(example.text("target.span2_text").split())
    if not isinstance(start, int) or not 0 <= start <= len(words) - count:
        raise DataError(f"{example.where}: target.span2_index {start!r} is no word of the text")
    words[start : start + count] = [f"*{' '.join(words[start : start + count])}*"]
    return [example.replaced(marked=" ".join(words), **_wsc_words(example))]


def split_at_idiom(example: Example) -> list[Example]:
    """CHID: `before` and `after` the first `#idiom#` of `content`."""
    before, found, after = example.text("content").partition(_IDIOM)
    if not found:
        raise DataError(f'{example.where}: no {_IDIOM} in the field "content"')
    return [example.replaced(before=before, after=after.replace(_IDIOM, _OTHER_BLANK))]


def cmrc2019(example: Example) -> list[Example]:
    """CMRC2019 sentence cloze: one example per blank, with `before`, `after`, `label` and `group`."""
    passage, name = example.text("context"), str(example.get("context_id"))
    answers = example.get("answers") if example.has("answers") else None
    out = []
    for number, found in enumerate(_BLANK.finditer(passage)):
        before, after = passage[: found.start()], passage[found.end() :]
        values: dict[str, Any] = {
            "before": _BLANK.sub(_OTHER_BLANK, before),
            "after": _BLANK.sub(_OTHER_BLANK, after),
            "group": name,
        }
        if answers is not None:
            if not 1 <= int(found[1]) <= len(answers):
                raise DataError(f"{example.where}: there is no answer to {found[0]}")
            values["label"] = answers[int(found[1]) - 1]
        out.append(example.replaced(**values, blank=number))
    if not out:
        raise DataError(f'{example.where}: no [BLANK1] in the field "context"')
    return out


def multirc(example: Example) -> list[Example]:
    """MultiRC: one example per answer, with `text`, `question`, `answer`, `label` and `group` (the question)."""
    text = example.text("passage.text")
    out: list[Example] = []
    for question in example.get("passage.questions"):
        group = f"{example.source}:{example.number}:{question.get('idx', len(out))}"
        for answer in question["answers"]:
            values = {"text": text, "question": question["question"], "answer": answer["text"], "group": group}
            if "label" in answer:
                values["label"] = answer["label"]
            out.append(example.replaced(**values))
    return out


def record(example: Example) -> list[Example]:
    """ReCoRD: one example per query: `text`, `before`, `after`, `entities` (each once), `label` (all right ones)."""
    passage = example.text("passage.text")
    entities = list(dict.fromkeys(passage[e["start"] : e["end"] + 1] for e in example.get("passage.entities")))
    text, out = passage.replace("@highlight\n", "- "), []
    for query in example.get("qas"):
        before, found, after = query["query"].partition(_PLACEHOLDER)
        if not found:
            raise DataError(f"{example.where}: no {_PLACEHOLDER} in the query")
        values: dict[str, Any] = {"text": text, "before": before.rstrip(), "after": after, "entities": entities}
        if "answers" in query:
            values["label"] = list(dict.fromkeys(answer["text"] for answer in query["answers"]))
        out.append(example.replaced(**values))
    return out


TRANSFORMS: Mapping[str, Transform] = {
    function.__name__: function
    for function in (ascii_punctuation, mark_characters, mark_words, split_at_idiom, cmrc2019, multirc, record)
}


def transform(name: str) -> Transform:
    """The transform of this name.

    Raises:
        DataError: there is none.
    """
    if name not in TRANSFORMS:
        raise DataError(f"no transform {name!r}; there are {', '.join(TRANSFORMS)}.{suggest(name, TRANSFORMS)}")
    return TRANSFORMS[name]


def prepared(examples: Iterable[Example], names: Iterable[str]) -> list[Example]:
    """The examples after each of these transforms in turn.

    Raises:
        DataError: an example that does not have the fields a transform needs; names the line.
    """
    out = list(examples)
    for name in names:
        out = [made for example in out for made in _applied(transform(name), example)]
    return out


def _applied(function: Transform, example: Example) -> list[Example]:
    try:
        return function(example)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{example.where}: not what the transform {function.__name__} reads ({type(error).__name__}: {error})"
        ) from error


def _found(text: str, word: str, start: Any, example: Example) -> int:
    """Where `word` stands: at `start`, else (indices of some files are off) at the nearest place."""
    places = [m.start() for m in re.finditer(re.escape(word), text)]
    if not places or not isinstance(start, int):
        raise DataError(f"{example.where}: {word!r} does not stand in the text")
    return min(places, key=lambda place: abs(place - start))


def _wsc_words(example: Example) -> dict[str, str]:
    return {"noun": example.text("target.span1_text"), "pronoun": example.text("target.span2_text")}


def _translated(value: Any) -> Any:
    if isinstance(value, str):
        return value.translate(_ASCII)
    if isinstance(value, list):
        return [_translated(each) for each in value]
    if isinstance(value, dict):
        return {key: _translated(each) for key, each in value.items()}
    return value
