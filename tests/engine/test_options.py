"""Every option out of range is refused with its name and its range."""

from __future__ import annotations

from typing import Any

import pytest

from openglm.blanks import BlankKind
from openglm.engine.options import FillOptions
from openglm.errors import OptionError


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"max_new_tokens": -3}, "max_new_tokens"),
        ({"max_new_tokens": [4, 0]}, "max_new_tokens"),
        ({"max_new_tokens": 2.5}, "max_new_tokens"),
        ({"min_new_tokens": -1}, "min_new_tokens"),
        ({"temperature": -0.1}, "temperature must be at least 0"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_k": -1}, "top_k"),
        ({"top_p": 0.0}, "top_p must be above 0"),
        ({"top_p": 1.5}, "top_p"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"num_beams": 0}, "num_beams"),
        ({"num_return_sequences": 0}, "num_return_sequences"),
        ({"num_return_sequences": 2}, "num_beams or a temperature"),
        ({"num_beams": 2, "num_return_sequences": 3}, "exceeds num_beams"),
        ({"num_beams": 2, "temperature": 0.5}, "exclude each other"),
        ({"seed": -1}, "seed"),
        ({"truncate": "middle"}, "truncate"),
        ({"top_k": 5}, "top_k does nothing at temperature 0"),
        ({"seed": 1, "top_p": 0.5}, "top_p and seed does nothing"),
        ({"min_p": 0.1}, "min_p does nothing"),
        ({"typical_p": 0.2}, "typical_p does nothing"),
        ({"length_penalty": 0.5}, "length_penalty ranks beams"),
        ({"min_p": 1.5}, "min_p must be at least 0 and at most 1"),
        ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size"),
        ({"exponential_decay_length_penalty": 3}, "must be .start, factor."),
        ({"exponential_decay_length_penalty": (3, 0.5)}, "factor of exponential_decay"),
    ],
)
def test_out_of_range(options: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        FillOptions(**options)


def test_limits_per_kind_and_per_blank() -> None:
    kinds = [BlankKind.MASK, BlankKind.SMASK, BlankKind.GMASK]
    assert FillOptions().limits(kinds, 1024) == [(0, 32), (0, 128), (0, 256)]
    assert FillOptions().limits(kinds, 64) == [(0, 32), (0, 63), (0, 63)]
    assert FillOptions(max_new_tokens=[3, 4, 5], min_new_tokens=2).limits(kinds, 64) == [(2, 3), (2, 4), (2, 5)]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_new_tokens": [3, 4]}, "2 values for a text with 1"),
        ({"max_new_tokens": 64}, "at most 63"),
        ({"max_new_tokens": 3, "min_new_tokens": 4}, "exceeds max_new_tokens"),
    ],
)
def test_limits_that_do_not_fit(options: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        FillOptions(**options).limits([BlankKind.MASK], 64)
