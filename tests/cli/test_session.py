"""`openglm fill` at a terminal, driven through a pseudo-terminal as a person would."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from openglm.checkpoints.native import save_model
from openglm.network.model import GLMModel
from openglm.tokenizer import BilingualTokenizer


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tiny_model: GLMModel, tokenizer: BilingualTokenizer) -> str:
    folder = tmp_path_factory.mktemp("model")
    save_model(folder, tiny_model, tokenizer)
    return str(folder)


class Terminal:
    """A command at a terminal."""

    def __init__(self, *arguments: str, history: Path) -> None:
        self._ours, theirs = pty.openpty()
        environment = {**os.environ, "OPENGLM_HISTORY": str(history), "TERM": "dumb", "NO_COLOR": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "openglm", "fill", *arguments],
            stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True,
        )  # fmt: skip
        os.close(theirs)

    def until(self, words: str) -> str:
        """What appears, up to some words."""
        seen, deadline = "", time.monotonic() + 120
        while words not in seen:
            assert time.monotonic() < deadline, seen
            if select.select([self._ours], [], [], 1)[0]:
                seen += os.read(self._ours, 4096).decode("utf-8", "replace")
        return seen

    def type(self, line: str) -> None:
        os.write(self._ours, line.encode())

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)


@pytest.fixture
def terminal(model: str, tmp_path: Path) -> Iterator[Terminal]:
    started = Terminal("--model", model, "--max-new-tokens", "3", "--min-new-tokens", "1", history=tmp_path / "history")
    started.until("> ")
    yield started
    started.close()


def test_a_session(terminal: Terminal, tmp_path: Path) -> None:
    terminal.type("the [MASK] bridge\n")
    assert " bridge\r\n" in terminal.until("bridge\r\n> ").replace("[MASK] bridge\r\n", "")
    terminal.type("?3\n")
    answers = terminal.until("  3  ")
    assert "  1  " in answers
    terminal.type("no blank\n")
    assert "no blank in" in terminal.until("wanted")
    terminal.type(":temperatur 1\n")
    assert "Did you mean 'temperature'" in terminal.until("shows all")
    terminal.type(":temperature 0.5\n")
    terminal.type(":options\n")
    assert "temperature 0.5" in terminal.until("truncate")
    terminal.type(":temperature -1\n")
    assert "! temperature" in terminal.until("not -1")
    terminal.until("> ")  # before the prompt the end of input would be a terminal's, and lost
    terminal.type("\x04")
    assert terminal.process.wait(60) == 0
    typed = (tmp_path / "history").read_text(encoding="utf-8").splitlines()
    assert "the [MASK] bridge" in typed


def test_one_text_appears_at_a_terminal(model: str, tmp_path: Path) -> None:
    shown = Terminal("老师[MASK]走到[MASK]。", "--model", model, "--max-new-tokens", "2", history=tmp_path / "history")
    assert "老师" in shown.until("。\r\n")
    assert shown.process.wait(60) == 0
    assert not (tmp_path / "history").exists()
    shown.close()
