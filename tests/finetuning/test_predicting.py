"""`openglm predict`: labels and texts for files of records, in the form they came in, gone on from after a kill."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from openglm.cli.main import main
from openglm.errors import CheckpointError
from openglm.finetuning import load_classifier, run
from openglm.finetuning.predicting import open_predictor

from .conftest import Make, write_lines


@pytest.fixture
def trained(make: Make, no_curves: None, tmp_path: Path) -> Path:
    run(make("cloze"))
    return tmp_path / "run"


def rows(count: int = 12) -> list[dict[str, Any]]:
    return [{"id": f"00{i}", "sentence": f"Did the old teacher say that number {i}?", "n": i} for i in range(count)]


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def test_labels_are_the_classifiers(trained: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    write_lines(source, rows())
    assert main(["predict", str(trained), str(source), "--output", str(out), "--probabilities"]) == 0
    found = read(out)
    expected = load_classifier(trained).predict(rows())
    assert [record["label"] for record in found] == [answer.label for answer in expected]
    assert found[0]["probabilities"] == pytest.approx(dict(expected[0].probabilities), abs=1e-5)
    assert [list(record)[:3] for record in found] == [["id", "sentence", "n"]] * 12
    assert [{key: record[key] for key in ("id", "sentence", "n")} for record in found] == rows()


@pytest.mark.parametrize("form", ["csv", "tsv"])
def test_tables_keep_their_cells(trained: Path, form: str, tmp_path: Path) -> None:
    source, out = tmp_path / f"in.{form}", tmp_path / f"out.{form}"
    separator = "," if form == "csv" else "\t"
    lines = [separator.join(("id", "sentence", "extra")), separator.join(("007", "Did he?", "")), ""]
    source.write_text("\n".join(lines), encoding="utf-8")
    assert main(["predict", str(trained), str(source), "--output", str(out)]) == 0
    (record,) = csv.DictReader(out.read_text(encoding="utf-8").splitlines(), delimiter=separator)
    assert record["id"] == "007"
    assert record["label"] in ("yes", "no")
    source.write_text("id,text\n1,a\n", encoding="utf-8")
    assert main(["predict", str(trained), str(source), "--format", "csv"]) == 2


def test_submission(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "in.jsonl"
    write_lines(source, [{"sentence": "Did he?"}, {"id": 7, "sentence": "Did she?", "label": "no"}])
    assert main(["predict", str(trained), str(source), "--submission"]) == 0
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert list(first) == ["id", "label"]
    assert (first["id"], second["id"]) == (0, 7)


def test_bad_records_are_errors_of_their_own(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"sentence": "a"}\n{"text": "b"}\n\n{\n{"sentence": "c"}\n', encoding="utf-8")
    assert main(["predict", str(trained), str(source), "--output", str(out)]) == 1
    first, second, third, fourth = read(out)
    assert out.read_text(encoding="utf-8").splitlines()[2] == ""
    assert "label" in first
    assert "label" in fourth
    assert 'no field "sentence"' in second["error"]
    assert "not JSON" in third["error"]
    assert "2 of 5 lines" in capsys.readouterr().err


def test_a_field_of_that_name_is_kept(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    write_lines(source, [{"sentence": "a", "label": "gold"}])
    assert main(["predict", str(trained), str(source), "--output", str(out)]) == 2
    assert "--as NAME" in capsys.readouterr().err
    assert not out.exists()
    assert main(["predict", str(trained), str(source), "--output", str(out), "--as", "predicted"]) == 0
    (record,) = read(out)
    assert record["label"] == "gold"
    assert record["predicted"] in ("yes", "no")


def test_a_task_asked_of_a_model_as_it_is(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task, source = tmp_path / "task.yaml", tmp_path / "in.jsonl"
    verbalizer = '{"yes": found, "no": sold}'
    task.write_text(f'kind: choice\npatterns: ["{{sentence}} That is [MASK]."]\nverbalizer: {verbalizer}\n')
    write_lines(source, rows(3))
    assert main(["predict", str(task), str(source), "--model", str(base), "--device", "cpu"]) == 0
    assert all(json.loads(line)["label"] in ("yes", "no") for line in capsys.readouterr().out.splitlines())


def test_texts_of_a_sequence_to_sequence_run(make: Make, no_curves: None, tmp_path: Path) -> None:
    pairs = write_lines(tmp_path / "pairs.jsonl", [{"source": f"the {i} river", "target": f"{i}"} for i in range(6)])
    run(make("seq2seq", data={"train": [pairs], "dev": [], "test": []}))
    source, out = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text("source\nthe 3 river\nthe 4 river\n", encoding="utf-8")
    assert main(["predict", str(tmp_path / "run"), str(source), "--output", str(out), "--max-new-tokens", "3"]) == 0
    head, *lines = out.read_text(encoding="utf-8").splitlines()
    assert head == "source,output,probabilities,error"
    assert len(lines) == 2


def test_runs_that_cannot_predict(tmp_path: Path) -> None:
    (tmp_path / "seed-0").mkdir()
    with pytest.raises(CheckpointError, match="not finished"):
        open_predictor(str(tmp_path))
    (tmp_path / "finetune.json").write_text('{"kind": "infilling", "length_penalty": 0}')
    with pytest.raises(CheckpointError, match="openglm fill"):
        open_predictor(str(tmp_path))


@pytest.mark.slow
def test_killed_and_gone_on_from(trained: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    write_lines(source, rows(20000))
    command = [sys.executable, "-m", "openglm", "predict", str(trained), str(source), "--output", str(out)]
    journal = tmp_path / ".out.jsonl.openglm-part" / "journal.json"
    for _ in range(2):
        running = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        before = journal.read_text() if journal.exists() else ""
        while running.poll() is None and not (journal.exists() and journal.read_text() != before):
            time.sleep(0.02)
        running.send_signal(signal.SIGKILL)
        assert running.wait() == -signal.SIGKILL
        assert not out.exists()
    assert main(command[3:]) == 0
    assert [record["n"] for record in read(out)] == list(range(20000))
