"""`openglm eval` as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from openglm.checkpoints.native import save_model
from openglm.cli.main import main
from openglm.network.model import GLMModel
from openglm.tokenizer import BilingualTokenizer


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tiny_model: GLMModel, tokenizer: BilingualTokenizer) -> str:
    folder = tmp_path_factory.mktemp("model")
    save_model(folder, tiny_model, tokenizer)
    return str(folder)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "lambada").mkdir()
    rows = [{"text": f"the old teacher walked to the {word}"} for word in ("river", "market", "garden")]
    (tmp_path / "lambada" / "test.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return tmp_path


def test_a_table_and_files(model: str, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["eval", "lambada", "--model", model, "--data-dir", str(data), "--device", "cpu"]
    assert main([*command, "--output", str(data / "out.md")]) == 0
    first = capsys.readouterr()
    assert "| lambada" in first.out
    assert "GLM-10B" in first.out
    assert "lambada (zero-shot): accuracy (bi)" in first.err
    assert (data / "out.md").read_text(encoding="utf-8") == first.out
    assert json.loads((data / "out.json").read_text(encoding="utf-8"))["results"][0]["task"] == "lambada"
    assert main([*command, "--output", str(data / "out.json")]) == 0
    second = capsys.readouterr()
    assert second.out == first.out
    assert "kept from before" in second.err


def test_nobody_elses_table_is_replaced(model: str, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data / "notes.md").write_text("mine")
    command = ["eval", "lambada", "--model", model, "--data-dir", str(data), "--device", "cpu"]
    for name in ("notes.md", "notes.json"):
        assert main([*command, "--output", str(data / name)]) == 2
        assert "give another --output" in capsys.readouterr().err
    assert (data / "notes.md").read_text() == "mine"
    assert not (data / "notes.json").exists()


def test_json_for_machines(model: str, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["eval", "lambada", "--model", model, "--data-dir", str(data), "--limit", "2", "--json"]
    assert main(command) == 0
    out = capsys.readouterr()
    (line,) = out.out.splitlines()
    found = json.loads(line)
    assert (found["task"], found["count"], found["method"]) == ("lambada", 2, "zero-shot")
    assert not out.err


def test_the_data_folder_from_the_environment(
    model: str, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENGLM_EVAL", str(data))
    assert main(["eval", "lambada", "--model", model, "--limit", "1"]) == 0
    assert "lambada" in capsys.readouterr().out


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "--list"]) == 0
    assert {"fewclue/tnews", "wikitext", "infilling=FILE"} <= set(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "name what to evaluate"),
        (["lambda"], "Did you mean 'lambada'"),
        (["lambada", "--ratios", "a"], "--ratios takes numbers"),
        (["lambada", "--seeds", "0"], "--seeds must be from 1 to 1000"),
        (["lambada", "--seeds", "1000000000"], "--seeds must be from 1 to 1000"),
        (["lambada", "--limit", "0"], "limit must be at least 1"),
        (["lambada", "--output", "out.txt"], ".json or .md"),
        (["lambada", "--few-shot"], "no training data"),
        (["lambada", "--few-shot", "--zero-shot"], "not allowed with"),
        (["lambada", "--data-dir", "nowhere"], "no such file"),
        (["lambada", "--set", "steps=3"], "SECTION.KEY=VALUE"),
        (["lambada", "--pattern", "0,first"], "several such as 0,2,3, or all"),
        (["fewclue/eprstmt", "--pattern", "0,3"], "eprstmt has 3 patterns, 0 to 2; there is no pattern 3"),
        (["fewclue/eprstmt", "--pattern", "0,0"], "names 0 twice"),
    ],
)
def test_bad_input_is_one_line(
    model: str, data: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    command = ["eval", "--model", model, "--data-dir", str(data), *options]
    try:
        code = main(command)
    except SystemExit as stop:  # argparse's own
        code = stop.code
    assert code == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.splitlines()) == 1


def test_a_file_that_is_something_else_is_left_alone(
    model: str, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    notes = data / "notes.json"
    notes.write_text('{"mine": 1}', encoding="utf-8")
    assert main(["eval", "lambada", "--model", model, "--data-dir", str(data), "--output", str(notes)]) == 2
    assert "name another file" in capsys.readouterr().err
    assert notes.read_text(encoding="utf-8") == '{"mine": 1}'
