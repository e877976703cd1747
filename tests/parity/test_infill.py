"""Greedy fills of the original implementations, token for token."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from openglm.blanks import Markers, PartA
from openglm.checkpoints.resolve import open_checkpoint
from openglm.engine.decoding import SamplingJob, SamplingSequence
from openglm.engine.engine import Engine
from openglm.engine.options import FillOptions
from openglm.engine.runners import runner_for
from openglm.engine.stop_tokens import StopTokens
from openglm.infill.infiller import Infiller
from openglm.infill.prompt import build_prompt
from openglm.layouts import PartBState, lay_out
from openglm.network.model import GLMModel
from openglm.tokenizer import ChineseTokenizer

MARKERS = Markers(sop=50006, eop=50007)
EOS = 50000
BLANK_IDS = {True: {50003, 50008, 50009}, False: {50003, 50007, 50008}}  # by fix_command_token


@torch.inference_mode()
def greedy(model: GLMModel, prompts: list[list[int]], positions: list[list[int]], limit: int) -> list[list[list[int]]]:
    """The fills of each prompt, as the original code decodes: nothing banned, a cut fill's last token unread."""
    stop_tokens, options = (
        StopTokens((MARKERS.eop, EOS), torch.zeros(model.config.vocab_size, dtype=torch.bool)),
        FillOptions(),
    )
    jobs = []
    for ids, blanks in zip(prompts, positions, strict=True):
        seq = SamplingSequence(PartBState(blanks, MARKERS), [(0, limit)] * len(blanks), np.random.default_rng(0))
        layout = lay_out(PartA(np.array(ids), np.array(blanks)), [[]], MARKERS, blanks=[0])
        jobs.append(SamplingJob(layout, [seq], options, stop_tokens, read_last=False))
    return [job.seqs[0].part_b.fills for job in Engine(runner_for(model, EOS)).run(jobs)]


@pytest.fixture(scope="module")
def flagai(reference: Path) -> GLMModel:
    return open_checkpoint(reference / "flagai-tiny").network(device="cpu", dtype=torch.float32)


@pytest.fixture(scope="module")
def runs(reference: Path) -> list[dict[str, Any]]:
    recorded = json.loads((reference / "flagai-tiny" / "infill.json").read_text(encoding="utf-8"))["runs"]
    kept = [run for run in recorded if not run.get("no_mask")]
    assert len(kept) == 60
    return kept


def test_flagai_fills_one_by_one(flagai: GLMModel, runs: list[dict[str, Any]]) -> None:
    for run in runs:
        positions = [blank["position"] for blank in run["blanks"]]
        fills = greedy(flagai, [run["prompt_ids"]], [positions], run["out_max_length"])[0]
        assert fills == [blank["generated_ids"] for blank in run["blanks"]], run["text"]


@pytest.mark.parametrize("limit", [8, 24])
def test_flagai_fills_in_one_batch(flagai: GLMModel, runs: list[dict[str, Any]], limit: int) -> None:
    """Texts of different lengths and numbers of blanks, all in one pass."""
    chosen = [run for run in runs if run["out_max_length"] == limit]
    positions = [[blank["position"] for blank in run["blanks"]] for run in chosen]
    fills = greedy(flagai, [run["prompt_ids"] for run in chosen], positions, limit)
    assert fills == [[blank["generated_ids"] for blank in run["blanks"]] for run in chosen]


def test_prompts_are_those_of_the_original(
    flagai: GLMModel, runs: list[dict[str, Any]], chinese_vocabulary: Path
) -> None:
    tokenizers = {fix: ChineseTokenizer(chinese_vocabulary, fix_command_token=fix) for fix in (True, False)}
    compared = 0
    for run in runs:
        if "[CLS]" in run["text"]:  # the original lets text inject special tokens; openglm does not
            continue
        prompt = build_prompt(run["text"], tokenizers[run["fix_command_token"]], flagai.config)
        assert prompt.part_a.ids.tolist() == run["prompt_ids"]
        assert prompt.part_a.blank_positions.tolist() == [blank["position"] for blank in run["blanks"]]
        compared += 1
    assert compared == 56


def test_public_api_gives_the_recorded_fills(
    flagai: GLMModel, runs: list[dict[str, Any]], chinese_vocabulary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the original used one blank and generated nothing that openglm bans, `fill` agrees with it.

    The original lets the end of a document end every blank.
    """
    infiller = Infiller(flagai, ChineseTokenizer(chinese_vocabulary))
    any_end = partial(infiller._planner._writing.start, brings_space=False, ends=infiller._planner._stop_tokens.ids)
    monkeypatch.setattr(infiller._planner, "_start", lambda blanked, blank, limits: any_end(limits))
    banned = set(infiller.tokenizer.never_generated)
    compared = 0
    for run in runs:
        generated = [blank["generated_ids"] for blank in run["blanks"]]
        if not run["fix_command_token"] or len(generated) > 1 or "[CLS]" in run["text"]:
            continue
        if any(token in banned or token >= 50010 for token in generated[0]):
            continue
        result = infiller.fill(run["text"], max_new_tokens=run["out_max_length"])
        assert result.blanks[0].token_ids == generated[0]
        assert result.blanks[0].finish_reason == ("length" if run["blanks"][0]["hit_length_cap"] else "stop")
        compared += 1
    assert compared >= 10


def test_hub_fills(reference: Path) -> None:
    model = open_checkpoint(reference / "hf-tiny").network(device="cpu", dtype=torch.float32)
    cases = json.loads((reference / "hf-tiny" / "cases.json").read_text(encoding="utf-8"))["generate"]
    assert len(cases) == 10
    for case in cases:
        prompt = case["input_ids"][:-1]  # without sop
        expected = case["output_ids"][len(case["input_ids"]) :]
        first = next(i for i, token in enumerate(prompt) if token in BLANK_IDS[True])
        fill = greedy(model, [prompt], [[first]], len(expected))[0][0]
        stop = expected.index(MARKERS.eop) if MARKERS.eop in expected else len(expected)
        assert fill == expected[:stop], case["text"]
