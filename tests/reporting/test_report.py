"""What a run leaves behind: the log, also across kills; TensorBoard files; the terminal; trackers."""

from __future__ import annotations

import json
import math
import struct
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from openglm.errors import DataError, OptionError, TrainingError
from openglm.reporting.report import Report, read_log
from openglm.reporting.trackers import choose_trackers

ENTRY = {
    "lr": 1e-3, "tokens_per_second": 4024.6, "loss": 5.5, "loss/token": 4.2, "loss/document": 5.75, "norm": 0.5,
    "targets": 10.0,
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_trackers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As if no tracker were installed or set up, whatever this machine has."""
    for name in ("wandb", "trackio"):
        monkeypatch.setitem(sys.modules, name, None)
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def events(folder: Path) -> list[Any]:
    """All TensorBoard events of a folder, in the order written."""
    from tensorboardX.proto.event_pb2 import Event

    out = []
    for path in sorted((folder / "tensorboard").iterdir()):
        content, at = path.read_bytes(), 0
        while at < len(content):
            (size,) = struct.unpack_from("<Q", content, at)
            out.append(Event.FromString(content[at + 12 : at + 12 + size]))  # length, its checksum, data, checksum
            at += size + 16
    return out


def scalars(folder: Path) -> dict[tuple[str, int], float]:
    return {
        (value.tag, event.step): value.simple_value
        for event in events(folder)
        for value in event.summary.value
        if value.HasField("simple_value")
    }


# --- the log -------------------------------------------------------------------------------


def test_log_holds_each_entry_at_once(tmp_path: Path) -> None:
    with Report(tmp_path, total_steps=100) as report:
        report.training(20, ENTRY)
        assert lines(tmp_path) == [{"step": 20, **ENTRY}]
        assert list(lines(tmp_path)[0]) == ["step", *ENTRY]
        report.validation(20, {"en/token": 4.5}, {"tokens_seen": 900})
        report.note(21, "skipped", "the gradient is not finite")
        report.fills(21, ["en/token  a【b→c】"])
        report.note(21, "saved", "state-21")
    assert lines(tmp_path)[1:] == [
        {"step": 20, "tokens_seen": 900, "validation": {"en/token": 4.5}},
        {"step": 21, "note": "skipped", "message": "the gradient is not finite"},
        {"step": 21, "fills": ["en/token  a【b→c】"]},
    ]


def test_numbers_that_are_not_finite_become_null(tmp_path: Path) -> None:
    with Report(tmp_path, total_steps=100) as report:
        report.training(20, ENTRY | {"norm": math.inf, "loss": math.nan})
        report.validation(20, {"en/token": math.nan})
    assert lines(tmp_path)[0]["norm"] is None
    assert lines(tmp_path)[0]["loss"] is None
    assert lines(tmp_path)[1]["validation"] == {"en/token": None}


def test_share_of_peak(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Report(tmp_path, total_steps=100, peak_flops=1e9) as report:
        report.training(20, ENTRY | {"tokens_per_second": 1000.0}, flops_per_token=310_000.0)
        report.training(40, ENTRY)
    first, second = lines(tmp_path)
    assert first["share_of_peak"] == pytest.approx(0.31)
    assert "share_of_peak" not in second
    assert [line.endswith("31 % of peak") for line in capsys.readouterr().err.splitlines()] == [True, False]


def write(folder: Path, steps: range) -> None:
    """What a run writes that logs every 10 updates and evaluates every 20."""
    with Report(folder, total_steps=60) as report:
        report.resume_at(steps.start)
        for step in steps:
            if (step + 1) % 10 == 0:
                report.training(step + 1, ENTRY | {"loss": 100.0 / (step + 1)})
            if (step + 1) % 20 == 0:
                report.validation(step + 1, {"en/token": 1.0 * step}, {"tokens_seen": step})


@pytest.mark.parametrize("cut", [0, 1, 25])
def test_log_of_a_killed_run_reads_like_that_of_one_that_never_stopped(tmp_path: Path, cut: int) -> None:
    """Killed at update 57 while a line was written (`cut` bytes of it missing), resumed from a state at 40."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    write(whole, range(60))
    write(killed, range(57))
    log = killed / "log.jsonl"
    log.write_bytes(log.read_bytes()[: len(log.read_bytes()) - cut])
    write(killed, range(40, 60))
    assert log.read_bytes() == (whole / "log.jsonl").read_bytes()


def test_a_fresh_start_leaves_nothing_of_an_earlier_run(tmp_path: Path) -> None:
    write(tmp_path, range(30))
    write(tmp_path, range(20))
    assert [entry["step"] for entry in lines(tmp_path)] == [10, 20, 20]


def test_without_resuming_nothing_is_written_behind_half_a_line(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"step": 10, "loss": 5.0}\n{"step": 2', encoding="utf-8")
    with Report(tmp_path, total_steps=60) as report:
        report.training(30, ENTRY)
    assert [entry["step"] for entry in lines(tmp_path)] == [10, 30]


def test_damaged_lines_are_left_out_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "log.jsonl").write_bytes(b'{"step": 10}\n\0\0\0\n[1]\n{"step": 20}\n{"st')
    Report(tmp_path, total_steps=60).resume_at(20)
    assert (tmp_path / "log.jsonl").read_bytes() == b'{"step": 10}\n{"step": 20}\n'
    assert "2 damaged lines" in capsys.readouterr().err


def test_reading_a_log(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text('{"step": 10}\n\n{"step": 20}\n{"step": 3', encoding="utf-8")
    assert read_log(log) == [{"step": 10}, {"step": 20}]
    log.write_text('{"step": 10}\nnot JSON\n{"step": 20}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"log\.jsonl, line 2"):
        read_log(log)
    with pytest.raises(DataError, match="absent"):
        read_log(tmp_path / "absent")


def test_a_run_that_fails_at_once_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with Report(folder, total_steps=60) as report:
        report.resume_at(0)
    assert not folder.exists()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file", encoding="utf-8")
    with Report(tmp_path / "run", total_steps=60) as report, pytest.raises(TrainingError, match="run"):
        report.training(20, ENTRY)


# --- TensorBoard ---------------------------------------------------------------------------


def test_tensorboard_gets_what_the_log_gets(tmp_path: Path) -> None:
    with Report(tmp_path, total_steps=60) as report:
        report.training(20, ENTRY)
        report.validation(20, {"en/token": 4.5})
        report.fills(20, ["en/token  a【b→c】"])
    found = scalars(tmp_path)
    assert found[("train/loss/token", 20)] == pytest.approx(4.2)
    assert found[("train/lr", 20)] == pytest.approx(1e-3)
    assert found[("validation/en/token", 20)] == pytest.approx(4.5)
    assert len(found) == len(ENTRY) + 1
    assert any("a【b→c】".encode() in event.SerializeToString() for event in events(tmp_path))


def test_tensorboard_forgets_what_will_be_done_again(tmp_path: Path) -> None:
    from tensorboardX.proto.event_pb2 import SessionLog

    write(tmp_path, range(57))
    write(tmp_path, range(40, 60))
    starts = [event.step for event in events(tmp_path) if event.session_log.status == SessionLog.START]
    assert starts == [1, 41]


# --- the terminal --------------------------------------------------------------------------


def test_one_line_per_entry_where_nobody_watches(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Report(tmp_path, total_steps=2450, interactive=False) as report:
        report.advance(19)
        report.training(20, ENTRY)
        report.training(40, {"loss": 5.0})
        report.validation(40, {"zh/token": 5.0173, "en/token": 4.28})
        report.note(41, "skipped", "the gradient is not finite")
        report.fills(41, ["en/token  a【b→c】"])
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "update 20/2450  loss 5.500  token 4.20 document 5.75  lr 1.00e-03  4,025 tokens/s",
        "update 40/2450  loss 5.000",
        "update 40  validation  zh/token 5.017  en/token 4.280",
        "update 41  skipped: the gradient is not finite",
        "update 41  fills",
        "  en/token  a【b→c】",
    ]


def test_a_bar_where_somebody_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Report(tmp_path, total_steps=200, interactive=True, peak_flops=1e9) as report:
        report.resume_at(100)
        report.advance(101)
        report.training(120, ENTRY, flops_per_token=100_000.0)
        report.note(121, "skipped", "the gradient is not finite")
        report.training(150, ENTRY, flops_per_token=100_000.0)
    out, err = capsys.readouterr()
    assert out == ""
    last = err.replace("\r", "\n").rstrip().splitlines()[-1]
    assert "150/200" in last
    assert "75%" in last
    assert "token 4.20 document 5.75  4,025 tokens/s  40 % of peak" in last
    assert "update 121  skipped: the gradient is not finite\n" in err
    assert "update 150" not in err


# --- trackers ------------------------------------------------------------------------------


class Recorder:
    """The functions that both trackers share, recording their calls."""

    def __init__(self, failing: str = "") -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.failing = failing

    def _record(self, *call: Any) -> None:
        self.calls.append(call)
        print("greetings")
        if call[0] == self.failing:
            raise ConnectionError("no network")

    def log(self, data: dict[str, Any], step: int | None = None) -> None:
        self._record("log", data, step)

    def finish(self) -> None:
        self._record("finish")


def wandb(failing: str = "") -> Any:
    recorder = Recorder(failing)

    def init(*, project: str, name: str, config: dict[str, Any], dir: str, resume: str, id: str) -> None:
        recorder._record("init", project, name, config, dir, resume, id)

    return SimpleNamespace(init=init, log=recorder.log, finish=recorder.finish, calls=recorder.calls)


def trackio(failing: str = "") -> Any:
    recorder = Recorder(failing)

    def init(project: str, name: str | None = None, *, config: dict[str, Any], resume: str = "never") -> None:
        recorder._record("init", project, name, config, resume)

    return SimpleNamespace(init=init, log=recorder.log, finish=recorder.finish, calls=recorder.calls)


def tracked_run(folder: Path, track: str, start: int = 0) -> None:
    with Report(folder, total_steps=60, track=track, run_name="mini", config={"seed": 1}) as report:
        report.resume_at(start)
        report.training(start + 20, {"loss": 5.0})
        report.validation(start + 20, {"en/token": 4.0})


def test_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    module = wandb()
    monkeypatch.setitem(sys.modules, "wandb", module)
    tracked_run(tmp_path, "wandb")
    init, *rest = module.calls
    assert init[:6] == ("init", "openglm", "mini", {"seed": 1}, str(tmp_path), "allow")
    assert rest == [("log", {"train/loss": 5.0}, 20), ("log", {"validation/en/token": 4.0}, 20), ("finish",)]
    assert capsys.readouterr().out == ""  # results alone go there
    tracked_run(tmp_path, "wandb", start=20)
    assert module.calls[4] == init  # the same run goes on
    tracked_run(tmp_path, "wandb")
    assert module.calls[8][6] != init[6]  # a fresh start is another run


def test_trackio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = trackio()
    monkeypatch.setitem(sys.modules, "trackio", module)
    tracked_run(tmp_path, "trackio")
    tracked_run(tmp_path, "trackio", start=20)
    _, project, name, config, resume = module.calls[0]
    assert (project, config, resume) == ("openglm", {"seed": 1}, "allow")
    assert name.startswith("mini-")
    assert module.calls[1:4] == [
        ("log", {"train/loss": 5.0}, 20), ("log", {"validation/en/token": 4.0}, 20), ("finish",),
    ]  # fmt: skip
    assert module.calls[4] == module.calls[0]


def test_two_trackers_agree_on_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = wandb(), trackio()
    monkeypatch.setitem(sys.modules, "wandb", first)
    monkeypatch.setitem(sys.modules, "trackio", second)
    monkeypatch.setenv("WANDB_API_KEY", "set")
    tracked_run(tmp_path, "auto")
    tracked_run(tmp_path, "auto", start=20)
    for module in (first, second):
        assert [call[0] for call in module.calls] == ["init", "log", "log", "finish"] * 2
        assert module.calls[0] == module.calls[4]
    assert second.calls[0][2] == f"mini-{first.calls[0][6][:6]}"


def chosen(track: str) -> list[str]:
    return [tracker.name for tracker in choose_trackers(track, lambda text: None)]


def test_left_to_itself_nothing_goes_to_a_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen("auto") == []
    monkeypatch.setitem(sys.modules, "wandb", wandb())
    assert chosen("auto") == []
    monkeypatch.setitem(sys.modules, "trackio", trackio())
    assert chosen("auto") == ["trackio"]
    assert chosen("none") == []
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert chosen("auto") == ["trackio", "wandb"]
    monkeypatch.delenv("WANDB_MODE")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / ".netrc").write_text("machine api.wandb.ai login user\n", encoding="utf-8")
    assert chosen("auto") == ["trackio", "wandb"]


def test_a_tracker_asked_for_by_name_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OptionError, match="pip install wandb"):
        choose_trackers("wandb", print)
    with pytest.raises(OptionError, match="trackio"):
        choose_trackers("trakio", print)
    # What a folder called wandb in the working directory imports as.
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace())
    with pytest.raises(OptionError, match="pip install wandb"):
        choose_trackers("wandb", print)


@pytest.mark.parametrize("failing", ["init", "log", "finish"])
def test_a_tracker_that_fails_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], failing: str
) -> None:
    module = wandb(failing)
    monkeypatch.setitem(sys.modules, "wandb", module)
    tracked_run(tmp_path, "wandb")
    assert [call[0] for call in module.calls].count(failing) == 1
    assert capsys.readouterr().err.count("wandb failed (ConnectionError: no network)") == 1
    assert len(lines(tmp_path)) == 2
