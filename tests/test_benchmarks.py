"""The benchmark of the training step: what it prints, and that its counts are right."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
needs_transformers = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="needs transformers: pip install '.[benchmarks]'"
)


@pytest.fixture
def training_step(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("training_step")


@pytest.fixture
def baselines(training_step: ModuleType) -> ModuleType:
    return importlib.import_module("baselines")


@pytest.fixture
def settings(training_step: ModuleType, baselines: ModuleType) -> object:
    """The smallest shape, with dropout: then attention is made of products that can be counted."""
    return baselines.Settings(
        config=dataclasses.replace(training_step.SHAPES["smoke"], attention_dropout_prob=0.1),
        rows=2,
        length=64,
        objective="mixture",
        device="cpu",
        threads=torch.get_num_threads(),
        compiled=False,
    )


def run_script(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS / "training_step.py"), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def tables(markdown: str) -> list[list[dict[str, str]]]:
    """The rows of each Markdown table, by column."""
    found: list[list[list[str]]] = []
    before = ""
    for line in markdown.splitlines():
        if line.startswith("|"):
            if not before.startswith("|"):
                found.append([])
            found[-1].append([cell.strip() for cell in line.strip("|").split("|")])
        before = line
    return [[dict(zip(table[0], row, strict=True)) for row in table[2:]] for table in found]


def test_a_run_prints_and_writes_what_it_measured(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    done = run_script("--smoke", "--no-peer", "--precision", "bf16", "--threads", "1", "--json", str(path))
    assert done.returncode == 0, done.stderr
    steps, memories = tables(done.stdout)
    assert [(row["step"], row["precision"]) for row in steps] == [("openglm", "bf16"), ("matrix products", "bf16")]
    assert float(steps[0]["positions/s"].replace(",", "")) > 0
    assert steps[0]["times the peer"] == ""
    assert steps[1]["of the product rate"] == "100%"
    assert [(row["memory"], row["checkpointing"]) for row in memories] == [("openglm", "off"), ("openglm", "on")]

    written = json.loads(path.read_text(encoding="utf-8"))
    (timing,) = written["timings"]
    assert len(timing["seconds"]) == len(timing["operations"]) == len(written["ceilings"]["bf16"]) == 2
    rates = [n / s for n, s in zip(timing["operations"], timing["seconds"], strict=True)]
    assert float(steps[0]["TFLOP/s"]) == pytest.approx(sum(rates) / 2 / 1e12, rel=0.01)  # the median of two
    assert written["settings"]["config"]["num_layers"] == 2
    # Weights, gradients and two moments are 16 bytes; some of them may lie where loading left room.
    assert all(memory["bytes"] > 8 * memory["parameters"] > 0 for memory in written["memories"])
    assert written["skipped"] == []


def test_bad_options_are_refused_in_one_line(
    training_step: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["training_step.py", "--smoke", "--no-peer", "--dropout", "1.5"])
    assert training_step.main() == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert len(printed.err.splitlines()) == 1


def count(step: object) -> int:
    with FlopCounterMode(display=False) as counter:
        step()  # type: ignore[operator]
    return counter.get_total_flops()


def test_operations_are_those_of_a_step(baselines: ModuleType, settings: object) -> None:
    ours = baselines.build_openglm(settings, 2)
    for number in range(2):
        assert count(lambda n=number: ours.step("fp32", n)) == ours.operations(number)
    assert ours.operations(0) != ours.operations(1)  # the batches have other numbers of blanks


def test_steps_train_both_ways(baselines: ModuleType, settings: object) -> None:
    for checkpointing in (False, True):
        ours = baselines.build_openglm(settings, 1, checkpointing)
        before = [parameter.clone() for parameter in ours.model.parameters()]
        ours.step("bf16", 0)
        after = list(ours.model.parameters())
        assert all(parameter.grad is None and torch.isfinite(parameter).all() for parameter in after)
        assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@needs_transformers
def test_the_peer_has_the_same_shape_and_its_operations_are_counted(baselines: ModuleType, settings: object) -> None:
    ours, peer = baselines.build_openglm(settings, 1), baselines.build_peer(settings, 1)
    assert baselines.missing_peer() == ""
    assert count(lambda: peer.step("fp32", 0)) == peer.operations(0)
    config = settings.config  # type: ignore[attr-defined]
    layer = sum(parameter.numel() for parameter in ours.model.transformer.layers.parameters())
    assert sum(parameter.numel() for parameter in peer.model.bert.encoder.parameters()) == layer
    assert peer.model.cls.predictions.decoder.weight is peer.model.bert.embeddings.word_embeddings.weight
    assert peer.model.bert.embeddings.word_embeddings.weight.shape == (config.vocab_size, config.hidden_size)
    assert peer.model.config._attn_implementation == "sdpa"
    ((ids, labels),) = baselines.masked_batches(settings, 1)
    replaced = labels != -100
    assert torch.equal(replaced, ids == config.vocab_size - 1)
    assert 0.05 < replaced.double().mean() < 0.3


def test_without_transformers_the_peer_is_left_out_with_a_reason(
    baselines: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    reason = baselines.missing_peer()
    assert "transformers" in reason
    assert "pip install '.[benchmarks]'" in reason


def test_tables_compare_with_the_peer_of_the_same_precision(training_step: ModuleType) -> None:
    timing = training_step.Timing
    results = training_step.Results(
        timings=[
            timing("openglm", "fp32", [2.0, 2.0, 9.0], [4e12, 4e12, 9e12]),
            timing(training_step.PEER, "fp32", [5.0, 5.0, 5.0], [5e12, 5e12, 5e12]),
            timing("openglm", "bf16", [1.0, 1.0, 1.0], [4e12, 4e12, 4e12]),
        ],
        ceilings={"fp32": [4e12, 4e12, 1e12], "bf16": [8e12]},
        memories=[training_step.Memory("openglm", "fp32", True, 3 * 2**20, 2**20)],
        skipped=["something: why"],
    )
    text = training_step.report("title", results, positions=1000)
    steps, memories = tables(text)
    first = steps[0]
    assert (first["seconds"], first["positions/s"], first["times the peer"]) == ("2.000", "500", "2.50")
    assert (first["TFLOP/s"], first["of the product rate"]) == ("2", "50%")
    assert steps[1]["times the peer"] == "1.00"
    assert (steps[3]["times the peer"], steps[3]["of the product rate"]) == ("", "50%")
    assert math.isclose(float(memories[0]["bytes per parameter"]), 3.0)
    assert text.startswith("title")
    assert text.endswith("Not measured: something: why")
