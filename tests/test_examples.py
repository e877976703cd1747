"""The example programs run as they are and say what they mean to."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"

# What each needs beyond openglm itself, and what stands in its output.
PROGRAMS = {
    "fill_blanks.py": ((), ["characters", "no blank in"]),
    "rank_answers.py": ((), ["满意", "calibrated"]),
    "classify_reviews.py": ((), ["评"]),
    "serve_and_call.py": (("starlette", "uvicorn", "pydantic", "prometheus_client"), ["The capital of France is"]),
    "ray_folder.py": (("ray",), ["There were 0", "There were 4"]),
    "with_transformers.py": (("transformers",), ["generate:", "again:"]),
    "transformers_trainer.py": (("transformers", "accelerate"), ["The capital of France is Paris."]),
    "peft_adapter.py": (("transformers", "peft", "accelerate"), ["The capital of France is Paris."]),
}


def run(name: str, *arguments: str) -> str:
    line = [sys.executable, str(EXAMPLES / name), *arguments]
    env = {**os.environ, "PYTHONUTF8": "1"}
    done = subprocess.run(line, capture_output=True, text=True, encoding="utf-8", env=env, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_runs(name: str, tmp_path: Path) -> None:
    needs, shown = PROGRAMS[name]
    missing = [each for each in needs if importlib.util.find_spec(each) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}: pip install '.[dev]'")
    arguments = [str(tmp_path / "run")] if name in ("transformers_trainer.py", "peft_adapter.py") else []
    if name == "serve_and_call.py":
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            arguments = [str(free.getsockname()[1])]
    output = run(name, *arguments)
    for each in shown:
        assert each in output


def test_transformers_writes_what_fill_writes() -> None:
    if importlib.util.find_spec("transformers") is None:
        pytest.skip("needs transformers: pip install '.[dev]'")
    said = dict(line.split(":", 1) for line in run("with_transformers.py").splitlines() if ":" in line)
    assert said["generate"].strip() == said["fill"].strip()


def test_every_program_is_listed_and_tried() -> None:
    programs = {path.name for path in EXAMPLES.glob("*.py")}
    page = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert programs == set(PROGRAMS)
    assert all(f"`{name}`" in page for name in programs)
