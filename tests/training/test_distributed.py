"""Several processes give what one gives, and a run may go on with another number of them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from openglm.checkpoints.native import load_model
from openglm.cli.main import main
from openglm.data.shards import Shard, prepare
from openglm.data.stream import Source
from openglm.errors import TrainingError
from openglm.tokenizer import BilingualTokenizer
from openglm.training.parallel import Processes
from openglm.training.state import states

from .runs import logged, recipe_values, trainer_for

# A run of two processes adds up in another order, and Muon computes in bfloat16.
TOLERANCE = 1e-4


def torchrun(arguments: list[str]) -> str:
    """Start two processes on this machine; their standard error."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-addr", "127.0.0.1",
        "--master-port", str(port),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*launcher, *arguments], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


def assert_close(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """Entries of logs agree: the same keys, numbers up to rounding. What is written may differ with it."""
    found, expected = ([e for e in entries if "fills" not in e] for entries in (found, expected))
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert a.keys() == b.keys()
        for key, value in b.items():
            if isinstance(value, dict):
                assert a[key] == pytest.approx(value, rel=TOLERANCE), (key, a["step"])
            else:
                # Norms of long tensors are float32 sums, in another order.
                assert a[key] == pytest.approx(value, rel=10 * TOLERANCE if key == "norm" else TOLERANCE), key


@pytest.fixture
def folder(tmp_path: Path, tokenizer: BilingualTokenizer, documents: list[str]) -> Path:
    for name, content in tokenizer.files().items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "text.jsonl").write_text("".join(json.dumps({"text": d}) + "\n" for d in documents), encoding="utf-8")
    prepare(tmp_path / "text.jsonl", tokenizer, tmp_path / "shard", workers=1)
    return tmp_path


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The command line under torchrun, with Muon; what two begin, one finishes."""
    values = recipe_values(steps=8, accumulate=4, evaluate_every=4)
    values["optimizer"]["name"] = "muon"
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    command = [
        "pretrain", str(folder / "recipe.yaml"), "--data", f"text={folder / 'shard'}", "--tokenizer", str(folder),
        "--device", "cpu", "--track", "none", "--output",
    ]  # fmt: skip
    assert main([*command, str(folder / "whole")]) == 0
    errors = torchrun(["-m", "openglm", *command, str(folder / "parts"), "--steps", "4"])
    assert errors.count("update 4/8") == 1, "one process reports"
    assert "Warning" not in errors
    assert "warn" not in errors
    assert [path.name for _, path in states(folder / "parts")] == ["state-00000004"]
    assert main([*command, str(folder / "parts")]) == 0
    assert_close(logged(folder / "parts"), logged(folder / "whole"))
    assert states(folder / "parts")[0][1].name == "state-00000008.pt"


@pytest.mark.slow
def test_one_process_begins_and_two_finish(folder: Path, tokenizer: BilingualTokenizer) -> None:
    """With dropout, activation checkpointing and AdamW; see `two_processes.py` for what is checked there."""
    values = recipe_values(accumulate=4, activation_checkpointing=True)
    (folder / "recipe.json").write_text(json.dumps(values))
    source = Source("text", Shard.open(folder / "shard", tokenizer), 1.0)
    whole = trainer_for(values, tokenizer, source, folder / "whole", valid=True)
    assert whole.run()
    trainer_for(values, tokenizer, source, folder / "parts", valid=True).run(stop_at=2)
    torchrun([str(Path(__file__).with_name("two_processes.py")), str(folder)])
    assert_close(logged(folder / "parts"), logged(folder / "whole"))
    finished = load_model(folder / "parts" / "model")
    for name, tensor in whole.model.state_dict().items():
        torch.testing.assert_close(finished.state_dict()[name], tensor, rtol=1e-2, atol=1e-3)


def test_devices_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TrainingError, match="gpu9"):
        Processes.join("gpu9")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(TrainingError, match="GPU number 7"):
        Processes.join("cuda:7")
    for name, value in {"RANK": "3", "LOCAL_RANK": "3", "WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(TrainingError, match="fewer processes"):
        Processes.join("cuda")
    with pytest.raises(TrainingError, match="say cuda"):
        Processes.join("cuda:0")
    with pytest.raises(TrainingError, match="not on meta"):
        Processes.join("meta")


def test_processes_that_find_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(TrainingError, match="torchrun"):
        Processes.join("cpu")


def test_one_process_needs_no_machinery() -> None:
    """Training alone does not import what only several processes need."""
    code = (
        "import sys, openglm.pretraining.pretrainer\n"
        "heavy = [n for n in ('torch.distributed.fsdp', 'torch.distributed.tensor',\n"
        "                     'torch.distributed.checkpoint', 'torch._dynamo',\n"
        "                     'matplotlib', 'tensorboardX', 'pyarrow', 'fsspec') if n in sys.modules]\n"
        "print(heavy)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
