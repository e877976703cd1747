"""WikiText as it was before it was cut into words: `3 @.@ 5 ° C .` is `3.5°C.` again.

The corpus puts spaces around punctuation and marks joins inside words with `@`. A vocabulary
trained on ordinary text is only judged fairly on ordinary text; published perplexities per word
are of text restored like this. The original marks are gone, so this is a best guess line by line.
"""

from __future__ import annotations

import re

_JOIN = re.compile(r" @([-,.])@ ")
_LINE_ENDS = re.compile(r" ?\n ?")
_HEADING = re.compile(r"^(?:= )+=(?= )|(?<= )=(?: =)+$", re.MULTILINE)
_PLURAL = re.compile(r"(?<=s) '(?= )")
_DOUBLE = re.compile(r'" ?([^"\n]*?) ?"')
_SINGLE = re.compile(r"(?<!\S)' ([^\n]*?) '(?!\w)")
_ENCLOSED = re.compile(r"([(\[{]) ?([^()\[\]{}\n]*?) ?([)\]}])")
_BEFORE = re.compile(r" (?=[,.;:!?](?:\s|$)|'s\b|['’](?:t|re|ve|ll|d|m)\b)")
_DEGREE = re.compile(r" ?° ?(?=[CFK]\b)")


def detokenize(text: str) -> str:
    """The text with its spaces put right; anything that is not a mark of the corpus stays."""
    text = _JOIN.sub(r"\1", text)
    text = _BEFORE.sub("", _PLURAL.sub("'", text))
    text = _SINGLE.sub(r"'\1'", _DOUBLE.sub(r'"\1"', text))
    text = _ENCLOSED.sub(r"\1\2\3", text)
    text = _DEGREE.sub("°", text)
    text = _LINE_ENDS.sub("\n", text)
    return _HEADING.sub(lambda marks: marks[0].replace(" ", ""), text)
