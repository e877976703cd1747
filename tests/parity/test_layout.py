"""Layouts of complete pretraining samples recorded from the original code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openglm.batches import pad
from openglm.blanks import Markers
from openglm.layouts import Layout, blank_out, fills_of, put_back

MARKERS = Markers(sop=50006, eop=50007)
BLANKS = {"bert": 50003, "sentence": 50008, "gpt": 50009}
DBLOCK = 50010
PADDING = 0  # what the original pads with
SAMPLES = 26


@pytest.fixture(scope="module")
def worked(reference: Path) -> list[dict[str, Any]]:
    samples: list[dict[str, Any]] = json.loads((reference / "pretrain.json").read_text(encoding="utf-8"))["worked"]
    return samples


def laid_out_again(sample: dict[str, Any]) -> Layout:
    """The sample, from its input and spans alone."""
    tokens, blank = np.array(sample["input_tokens"]), BLANKS[sample["mode"]]
    spans = sample["spans_in_part_B_order"]
    if spans is None:  # the end of the text; Part A is the rest and the blank
        start = sample["separator"] - 1
        return blank_out(tokens, np.array([start]), np.array([len(tokens)]), blank, MARKERS, ends_with_eop=False)
    starts, ends = np.array(spans, np.int64).reshape(-1, 2).T
    in_text = np.argsort(starts)
    return blank_out(tokens, starts[in_text], ends[in_text], blank, MARKERS, order=np.argsort(in_text))


def from_outputs(sample: dict[str, Any]) -> Layout:
    """The sample's own outputs as a layout, without the padding at the end of its row."""
    separator = sample["separator"]
    length = separator + sum(sample["loss_mask"])
    return Layout(
        input_ids=np.array(sample["tokens"])[:length],
        targets=np.array(sample["targets"])[:length],
        loss_mask=np.array(sample["loss_mask"], np.bool_)[:length],
        position_ids=np.array(sample["position_ids"])[:length],
        block_position_ids=np.array(sample["block_position_ids"])[:length],
        separator=separator,
    )


def cut_again(layout: Layout, blank: int) -> Layout:
    """Put the spans of a layout back, then cut the same ones from the text."""
    fills = fills_of(layout)
    in_text = np.argsort([position for position, _ in fills])
    starts, ends, shift = [], [], 0
    for k in in_text:
        position, fill = fills[k]
        starts.append(position + shift)
        ends.append(position + shift + len(fill))
        shift += len(fill) - 1
    order = np.argsort(in_text)
    return blank_out(put_back(layout), np.array(starts), np.array(ends), blank, MARKERS, order=order)


def assert_reproduces(layout: Layout, sample: dict[str, Any]) -> None:
    """Every number of the recorded row, padding included."""
    batch = pad([layout], PADDING, length=len(sample["tokens"]))
    part_b = np.arange(len(sample["tokens"])) >= sample["separator"]
    assert layout.separator == sample["separator"]
    assert batch.targets[0].tolist() == sample["targets"]
    assert batch.position_ids[0, 0].tolist() == sample["position_ids"]

    blocks = batch.position_ids[0, 1]
    if sample["strategy"].get("block_position_encoding", True):
        assert blocks.tolist() == sample["block_position_ids"]
    else:  # a variant no published model uses: all of Part B has block position 1
        assert np.minimum(blocks, 1).tolist() == sample["block_position_ids"]

    loss = batch.loss_mask[0]
    if sample["spans_in_part_B_order"] is None:  # here the original applies the loss mask of the text
        own = np.array(sample["input_loss_mask"], np.bool_)[sample["separator"] - 1 :]
        loss = loss.copy()
        loss[sample["separator"] : len(layout)] &= own
    assert loss.tolist() == [bool(flag) for flag in sample["loss_mask"]]

    recorded = np.array(sample["tokens"])
    replaced = part_b & (recorded == DBLOCK)
    if not sample["strategy"].get("block_mask_prob"):
        assert not replaced.any()
    assert (batch.input_ids[0] == recorded)[~replaced].all()
    assert (blocks[replaced] > 1).all(), "sop is never replaced"


def test_all_samples_are_there(worked: list[dict[str, Any]]) -> None:
    assert len(worked) == SAMPLES
    assert {sample["mode"] for sample in worked} == set(BLANKS)
    assert sum(sample["spans_in_part_B_order"] is None for sample in worked) >= 3
    assert sum(DBLOCK in sample["tokens"] for sample in worked) >= 2


@pytest.mark.parametrize("number", range(SAMPLES))
def test_recorded_sample(worked: list[dict[str, Any]], number: int) -> None:
    sample = worked[number]
    # Re-cut samples record the text before it was cut, so only their outputs say anything.
    if not sample["strategy"].get("short_seq_prob"):
        layout = laid_out_again(sample)
        assert_reproduces(layout, sample)
        assert put_back(layout).tolist() == sample["input_tokens"]
        return
    layout = cut_again(from_outputs(sample), BLANKS[sample["mode"]])
    assert_reproduces(layout, sample)
    spans = sample["spans_in_part_B_order"]
    text = put_back(layout).tolist()
    assert [fill.tolist() for _, fill in fills_of(layout)] == [text[start:end] for start, end in spans]


def test_recorded_outputs_can_be_put_back(worked: list[dict[str, Any]]) -> None:
    """Reading a recorded row needs no knowledge of where its spans came from."""
    closed = [
        sample
        for sample in worked
        if sample["spans_in_part_B_order"] is not None and sample["strategy"].get("block_position_encoding", True)
    ]
    assert len(closed) >= 20
    for sample in closed:
        assert_reproduces(cut_again(from_outputs(sample), BLANKS[sample["mode"]]), sample)
