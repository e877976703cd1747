"""TensorBoard files on a disk that is full: said once, and nobody waits."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
from tensorboardX.record_writer import RecordWriter

from openglm.reporting.board import Board
from openglm.reporting.report import Report, read_log


def full(*args: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_said_once_and_the_log_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(Report, "_say", lambda self, text: said.append(text))
    report = Report(tmp_path, total_steps=100, track="none", interactive=False)
    report.training(1, {"loss": 1.0})
    monkeypatch.setattr(RecordWriter, "write", full)
    monkeypatch.setattr(RecordWriter, "flush", full)
    for step in range(2, 60):  # tensorboardX's own queue holds ten events
        report.training(step, {"loss": 1.0})
    report.validation(60, {"a": 1.0})
    report.fills(60, ["text"])
    report.close()
    assert sum("without TensorBoard" in text for text in said) == 1
    assert "No space left" in next(text for text in said if "without TensorBoard" in text)
    assert [entry["step"] for entry in read_log(tmp_path / "log.jsonl")][-3:] == [59, 60, 60]


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    said: list[str] = []
    board = Board(tmp_path / "file" / "inside", purge_step=3, say=said.append)
    board.scalar("loss", 1.0, 1)
    board.close()
    assert len(said) == 1
