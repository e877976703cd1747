"""The programs in `examples/` that show these integrations run, and come to what they promise."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
FILLED = "The capital of France is Paris."


@pytest.mark.slow
@pytest.mark.parametrize("name", ["transformers_trainer", "peft_adapter"])
def test_an_example_runs(tmp_path: Path, name: str) -> None:
    for library in ("transformers", "peft", "accelerate"):
        pytest.importorskip(library)
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert FILLED in done.stdout
