"""Runs that stop and go on give, to the last bit, what a run gives that never stopped."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from openglm.data.stream import Source
from openglm.errors import TrainingError
from openglm.pretraining.pretrainer import Trainer
from openglm.reporting.report import read_log
from openglm.tokenizer import BilingualTokenizer
from openglm.training.guard import Guard
from openglm.training.state import LOCK, states

from .runs import logged, recipe_values, trainer_for

COMPILES = (
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("g++") is None, reason="compiling for a CPU needs g++"),
)


def assert_same_weights(one: Trainer, other: Trainer) -> None:
    for name, expected in one.model.state_dict().items():
        assert torch.equal(other.model.state_dict()[name], expected), name


@pytest.mark.usefixtures("no_curves")
@pytest.mark.parametrize(
    ("optimizer", "architecture", "compile"),
    [
        ("adamw", "glm", False),
        ("muon", "glm", False),
        ("muon", "modern", False),
        pytest.param("muon", "modern", True, marks=COMPILES),
    ],
)
def test_resumed_run_is_the_run_that_never_stopped(
    tokenizer: BilingualTokenizer, source: Source, tmp_path: Path, optimizer: str, architecture: str, compile: bool
) -> None:
    """With dropout, warmup, two stages, accumulation, validation and a report across the stop."""
    values = recipe_values(accumulate=2, log_every=2, evaluate_every=3, compile=compile)
    values["run"]["stages"][1]["objectives"] = {"token": 0.8, "sentence": 0.1, "document": 0.1}
    values["model"]["architecture"] = architecture
    values["optimizer"]["name"] = optimizer
    whole = trainer_for(values, tokenizer, source, tmp_path / "whole", valid=True)
    assert whole.run()

    # The second part in the same process, but for what random numbers it finds; with workers.
    first = trainer_for(values, tokenizer, source, tmp_path / "parts", valid=True)
    request_stop_before(first, 3)
    assert not first.run()
    assert first.done == 3
    torch.manual_seed(12345)
    torch.rand(7)
    values["run"]["workers"] = 1
    second = trainer_for(values, tokenizer, source, tmp_path / "parts", valid=True)
    assert second.run()

    assert second.done == whole.done == 6
    assert second.tokens_seen == whole.tokens_seen > 0
    assert_same_weights(whole, second)
    assert any(not torch.equal(tensor, second.model.state_dict()[n]) for n, tensor in first.model.state_dict().items())
    assert logged(tmp_path / "parts") == logged(tmp_path / "whole")
    assert [entry["step"] for entry in logged(tmp_path / "whole") if "loss" in entry] == [2, 4, 6]


def request_stop_before(trainer: Trainer, update: int, number: int = signal.SIGTERM) -> None:
    """Send the process a signal while it makes the update before this one."""
    original = trainer.loop._gradient

    def gradient(*args: Any) -> Any:
        if trainer.done == update - 1:
            os.kill(os.getpid(), number)
        return original(*args)

    trainer.loop._gradient = gradient  # type: ignore[method-assign]


@pytest.mark.usefixtures("no_curves")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_finish_the_update_and_save(
    tokenizer: BilingualTokenizer, source: Source, tmp_path: Path, number: int
) -> None:
    trainer = trainer_for(recipe_values(), tokenizer, source, tmp_path)
    request_stop_before(trainer, 2, number)
    handler = signal.getsignal(number)
    assert not trainer.run()
    assert signal.getsignal(number) == handler
    assert trainer.done == 2
    assert [step for step, _ in states(tmp_path)] == [2]


@pytest.mark.usefixtures("no_curves")
def test_a_guard_remembers(
    tokenizer: BilingualTokenizer, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Guard, "_reason", lambda self, loss, norm: "because" if len(self._losses) == 2 else "")
    trainer = trainer_for(recipe_values(log_every=10), tokenizer, source, tmp_path)
    assert not trainer.run(stop_at=4)
    resumed = trainer_for(recipe_values(log_every=10), tokenizer, source, tmp_path)
    resumed.loop.resume()
    assert resumed.loop.guard.left_out == trainer.loop.guard.left_out == 2
    assert resumed.loop.guard.state() == trainer.loop.guard.state()


@pytest.mark.usefixtures("no_curves")
def test_what_may_change_and_what_not(tokenizer: BilingualTokenizer, source: Source, tmp_path: Path) -> None:
    values = recipe_values(accumulate=2)
    trainer_for(values, tokenizer, source, tmp_path).run(stop_at=2)

    def changed(section: str, **changes: Any) -> dict[str, Any]:
        return {**values, section: {**values.get(section, {}), **changes}}

    refused = {
        "run.accumulate was 2 and is 4": changed("run", accumulate=4),
        "run.seed was 1 and is 5": changed("run", seed=5),
        "run.stages.0.rows was 2 and is 3": changed("run", stages=[{"share": 0.5, "rows": 3, "length": 48}] * 2),
        "model.num_layers was 2 and is 1": changed("model", num_layers=1),
        "model.architecture was absent and is modern": changed("model", architecture="modern"),
        "optimizer.name was adamw and is muon": changed("optimizer", name="muon"),
        "objectives.token_ratio was 0.15 and is 0.2": changed("objectives", token_ratio=0.2),
    }
    for message, other in refused.items():
        with pytest.raises(TrainingError) as caught:
            trainer_for(other, tokenizer, source, tmp_path).run()
        assert message in str(caught.value)
        assert "state-00000002.pt" in str(caught.value)
    fewer = Source("text", source.shard.split(20)[0], 1.0)  # type: ignore[attr-defined]
    with pytest.raises(TrainingError, match=r"data\.0\.documents was 60 and is 40"):
        trainer_for(values, tokenizer, fewer, tmp_path).run()
    allowed = changed("run", steps=4, workers=1, log_every=3, save_every=1, precision="bf16", spike=0.0)
    allowed["optimizer"] = {"learning_rate": 0.001, "clip": 0.5, "weight_decay": 0.0}
    resumed = trainer_for(allowed, tokenizer, source, tmp_path)
    assert resumed.run()
    assert resumed.loop.optimizers[0].param_groups[0]["peak_lr"] == 0.001
    assert resumed.done == 4


@pytest.mark.usefixtures("no_curves")
def test_a_damaged_state_costs_a_few_updates(tokenizer: BilingualTokenizer, source: Source, tmp_path: Path) -> None:
    values = recipe_values(save_every=2)
    whole = trainer_for(values, tokenizer, source, tmp_path / "whole")
    whole.run()
    trainer_for(values, tokenizer, source, tmp_path / "parts").run(stop_at=4)
    (tmp_path / "parts" / "state-00000004.pt").write_bytes(b"")
    resumed = trainer_for(values, tokenizer, source, tmp_path / "parts")
    assert resumed.run()
    assert_same_weights(whole, resumed)
    assert logged(tmp_path / "parts") == logged(tmp_path / "whole")


HOLD = "import fcntl, sys; f = open(sys.argv[1], 'ab'); fcntl.lockf(f, fcntl.LOCK_EX); print(flush=True); input()"


@pytest.mark.usefixtures("no_curves")
def test_two_runs_in_one_folder(tokenizer: BilingualTokenizer, source: Source, tmp_path: Path) -> None:
    """The second is refused; once the first is gone, however it went, it may begin."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / LOCK)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(TrainingError, match="another process is training"):
            trainer_for(recipe_values(steps=1), tokenizer, source, tmp_path).run()
        assert not states(tmp_path)
        other.kill()
    assert trainer_for(recipe_values(steps=1), tokenizer, source, tmp_path).run()


# --- kills -----------------------------------------------------------------------------


@pytest.mark.slow
def test_killed_at_random_moments(tokenizer: BilingualTokenizer, documents: list[str], tmp_path: Path) -> None:
    """`openglm pretrain`, killed again and again, has the losses of one that never was."""
    for name, content in tokenizer.files().items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "text.jsonl").write_text("".join(json.dumps({"text": d}) + "\n" for d in documents), encoding="utf-8")
    recipe = tmp_path / "recipe.yaml"
    values = recipe_values(steps=60, save_every=3, evaluate_every=20, accumulate=2, workers=1)
    values["optimizer"]["name"] = "muon"
    recipe.write_text(yaml.safe_dump(values), encoding="utf-8")
    command = [
        sys.executable, "-m", "openglm", "pretrain", str(recipe), "--data", str(tmp_path / "text.jsonl"),
        "--tokenizer", str(tmp_path), "--device", "cpu", "--track", "none", "--output",
    ]  # fmt: skip
    rng = random.Random(time.time_ns())  # another course of events every time; all must come to the same
    kills = 0
    for _ in range(4):
        run = start([*command, str(tmp_path / "killed")])
        if wait_for_progress(run, tmp_path / "killed"):
            time.sleep(rng.uniform(0.0, 0.3))
        kills += run.poll() is None
        run.kill()
        run.wait()
    for name in ("killed", "whole"):
        run = start([*command, str(tmp_path / name)])
        assert run.wait() == 0, run.stderr and run.stderr.read()
    assert kills
    assert logged(tmp_path / "killed") == logged(tmp_path / "whole")
    assert len([entry for entry in logged(tmp_path / "whole") if "loss" in entry]) == 60
    weights = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("killed", "whole")]
    assert weights[0] == weights[1]
    assert not list((tmp_path / "killed").rglob("*.part"))
    assert len(states(tmp_path / "killed")) == 2


def start(command: list[str]) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def wait_for_progress(run: subprocess.Popen[str], folder: Path) -> bool:
    """Until the run has logged more updates than when it was started; False if it ended."""
    log = folder / "log.jsonl"
    before = len(read_log(log)) if log.exists() else 0
    goal = before - 1 + random.randrange(6)
    while run.poll() is None:
        if log.exists() and len(read_log(log)) > max(goal, 1):
            return True
        time.sleep(0.02)
    return False


@pytest.mark.usefixtures("no_curves")
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"step": -5}, "step is -5"),
        ({"step": "5"}, "step is 5"),
        ({"tokens_seen": None}, "tokens_seen"),
        ({"guard": {}}, "left_out"),
        ({"meter": 3}, "damaged"),
    ],
)
def test_plain_values_that_make_no_sense_are_named(
    tokenizer: BilingualTokenizer, source: Source, tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    trainer_for(recipe_values(), tokenizer, source, tmp_path).run(stop_at=2)
    ((_, path),) = states(tmp_path)
    payload = torch.load(path, weights_only=True)
    payload["meta"].update(change)
    torch.save(payload, path)
    with pytest.raises(TrainingError, match=named):
        trainer_for(recipe_values(), tokenizer, source, tmp_path).run()
