"""Filling a column of a batch, as pipelines call it."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

import openglm
from openglm.errors import OptionError
from openglm.integrations.columns import FillColumns

TEXTS = ["I come from [MASK] York.", "no blank", "He was born in [MASK]."]


def test_a_batch_gets_its_fills_and_errors() -> None:
    step = pickle.loads(pickle.dumps(FillColumns(text="s", max_new_tokens=4)))
    batch = step({"s": np.array(TEXTS, dtype=object), "id": np.arange(3)})
    direct = openglm.load().fill([TEXTS[0], TEXTS[2]], max_new_tokens=4)
    assert [batch["filled"][0], batch["filled"][2]] == [each.text for each in direct]
    assert [batch["logprob"][0], batch["logprob"][2]] == [each.logprob for each in direct]
    assert batch["filled"][1] is None
    assert "no blank" in batch["error"][1]
    assert list(batch["id"]) == [0, 1, 2]
    again = pickle.loads(pickle.dumps(step))  # the model stays where it is
    assert again({"s": TEXTS[:1]})["filled"] == batch["filled"][:1]


def test_a_data_frame() -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = pandas.DataFrame({"text": TEXTS[:1]})
    out = FillColumns(filled="answer", logprob=None, error=None, max_new_tokens=2)(frame)
    assert list(out.columns) == ["text", "answer"]


def test_wrong_options_are_named_before_any_work() -> None:
    with pytest.raises((OptionError, TypeError)):
        FillColumns(max_new_token=3)
    with pytest.raises(OptionError, match="max_new_tokens"):
        FillColumns(max_new_tokens=-1)
    with pytest.raises(OptionError, match="no column 'text'"):
        FillColumns()({"sentence": ["a"]})
