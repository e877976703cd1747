"""Windows, last words and restored text are those of the original evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openglm.blanks import Markers
from openglm.evaluation.wikitext import detokenize
from openglm.evaluation.windows import SpecialIds, last_word, windows
from openglm.layouts import Layout
from openglm.tokenizer import load_tokenizer

# GPT-2 with task masks: [CLS], [gMASK], <|endoftext|>, <|startofpiece|>, <|endofpiece|>.
SIGNS = SpecialIds(50259, 50263, 50256, Markers(50257, 50258))


@pytest.fixture(scope="module")
def recorded(reference: Path) -> dict[str, Any]:
    return json.loads((reference / "layouts.json").read_text(encoding="utf-8"))


def assert_same(layout: Layout, sample: dict[str, Any]) -> None:
    """Equal up to the padding, which the originals put behind."""
    n = len(layout)
    assert layout.input_ids.tolist() == sample["text"][:n]
    assert layout.separator == sample["attention_mask"]
    assert [layout.position_ids.tolist(), layout.block_position_ids.tolist()] == [
        row[:n] for row in sample["position_id"]
    ]
    assert layout.loss_mask.tolist() == [bool(value) for value in sample["loss_mask"][:n]]
    assert not any(sample["loss_mask"][n:])
    scored = np.flatnonzero(layout.loss_mask)
    assert layout.targets[scored].tolist() == [sample["target"][i] for i in scored]


def test_windows(recorded: dict[str, Any]) -> None:
    cases = [case for case in recorded["lm"] if "windows" in case]
    assert len(cases) == 6
    for case in cases:
        window = case["seq_length"] - 1
        ours = [
            layout
            for document in case["documents"]
            for layout in windows(
                np.array(document),
                SIGNS,
                window=window,
                stride=case["overlapping_eval"] or window,
                unidirectional=case["unidirectional"],
            )
        ]
        assert len(ours) == len(case["windows"])
        for layout, sample in zip(ours, case["windows"], strict=True):
            assert_same(layout, sample)


def test_last_words(recorded: dict[str, Any], published_vocabularies: Path) -> None:
    tokenizer = load_tokenizer(published_vocabularies / "gpt2", layout="gpt2")
    cases = [case for case in recorded["lm"] if case.get("task") == "lambada"]
    assert {case["unidirectional"] for case in cases} == {True, False}
    for case in cases:
        for text, answer, sample in zip(case["text"], case["answers"], case["samples"], strict=True):
            context, word = text.strip().rsplit(maxsplit=1)
            assert tokenizer.encode(" " + word) == answer
            ours = last_word(
                np.array(tokenizer.encode(context)), np.array(answer), SIGNS, unidirectional=case["unidirectional"]
            )
            assert_same(ours, sample)


def test_wikitext(recorded: dict[str, Any]) -> None:
    assert recorded["wikitext_detokenize"]
    for case in recorded["wikitext_detokenize"]:
        assert detokenize(case["raw"]) == case["out"]
