"""`openglm choose`: a text or a file in, rankings out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from openglm.cli.choose import BAR, bar
from openglm.cli.main import main

TEXT = "He was born in the United [MASK] of America."


def choose(*arguments: str) -> int:
    return main(["choose", *arguments, "--device", "cpu"])


def test_readable_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert choose(TEXT, "--choice", "States", "--choice", "bananas") == 0
    first, second = capsys.readouterr().out.splitlines()
    assert "United States of" in first
    assert "█" in first
    assert "bananas" in second
    assert choose(TEXT, "--choice", "States", "--choice", "bananas", "--json", "--top", "1") == 0
    record = json.loads(capsys.readouterr().out)
    assert record["fills"] == ["States"]
    assert record["probability"] > 0.5


def test_answers_and_texts_from_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answers = tmp_path / "answers.txt"
    answers.write_text("States\nbananas\n\nKingdom\n", encoding="utf-8")
    texts = tmp_path / "texts.jsonl"
    rows = [{"id": i, "text": text} for i, text in enumerate([TEXT, "The United [MASK] is an island."])]
    texts.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    out = tmp_path / "out.jsonl"
    options = ["--length-penalty", "1", "--calibrate", "--no-ends"]
    assert choose("--input", str(texts), "--choices", str(answers), "--output", str(out), *options) == 0
    assert capsys.readouterr().out == ""
    found = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [each["id"] for each in found] == [0, 1]
    for each in found:
        assert sum(one["probability"] for one in each["choices"]) == pytest.approx(1, abs=1e-4)
        assert each["choices"][0]["probability"] == max(one["probability"] for one in each["choices"])
        for one in each["choices"]:
            assert one["fills"] == [["States", "bananas", "Kingdom"][one["index"]]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((TEXT,), "no answers"),
        (("no blank", "--choice", "x"), "no blank"),
        ((TEXT, "--choice", "x", "--length-penalty", "nan"), "length_penalty must be a finite number"),
        ((TEXT, "--choice", "x", "--top", "0"), "--top"),
        ((TEXT, "--choice", "x", "--input", "y"), "not both"),
        ((TEXT, "--choice", "x", "--calibrate", "--context", "no blank here"), "no blank"),
        ((TEXT, "--choices", "missing.txt"), "missing.txt: cannot be read"),
    ],
)
def test_mistakes(arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert choose(*arguments) == 2
    assert message in capsys.readouterr().err


def test_a_bad_line_does_not_lose_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts, out = tmp_path / "texts.jsonl", tmp_path / "out.jsonl"
    bad = ('{"text": "nothing"}', '{"txt": 1}', "{", "", json.dumps({"text": TEXT}))
    texts.write_text("\n".join([json.dumps({"text": TEXT}), *bad]), encoding="utf-8")
    assert choose("--input", str(texts), "--choice", "States", "--output", str(out)) == 1
    error = capsys.readouterr().err
    for words in (
        "line 2: no blank",
        'line 3: expected a JSON object with the string field "text"',
        "line 4: not JSON",
    ):
        assert words in error
    lines = out.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 6
    assert lines[4] == ""
    assert [("choices" in json.loads(line), "error" in json.loads(line)) for line in lines if line] == [
        (True, False), (False, True), (False, True), (False, True), (True, False)
    ]  # fmt: skip


def test_several_answers_behind_one_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert choose(TEXT, "--choice", "States", "Kingdom", "bananas", "--no-color") == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert choose("The [MASK] of [MASK].", "--choice", "king", "France", "--choice", "one", "two", "--json") == 0
    first = json.loads(capsys.readouterr().out.splitlines()[0])
    assert len(first["fills"]) == 2


def test_an_empty_input_leaves_the_old_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts, out = tmp_path / "texts.jsonl", tmp_path / "out.jsonl"
    texts.write_bytes(b"")
    out.write_text("old")
    assert choose("--input", str(texts), "--choice", "x", "--output", str(out)) == 2
    assert "is empty" in capsys.readouterr().err
    assert out.read_text() == "old"


def test_the_output_is_no_file_that_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answers = tmp_path / "answers.txt"
    answers.write_text("States\nKingdom\n", encoding="utf-8")
    (tmp_path / "link").symlink_to(answers)
    for output in (answers, tmp_path / "link"):
        assert choose(TEXT, "--choices", str(answers), "--output", str(output)) == 2
        assert "a file that is read" in capsys.readouterr().err
    assert answers.read_text(encoding="utf-8") == "States\nKingdom\n"


def test_lines_and_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    lines, table, out = tmp_path / "in.txt", tmp_path / "in.csv", tmp_path / "out.csv"
    lines.write_text(f"{TEXT}\n\n{TEXT}\n")
    assert choose("--input", str(lines), "--choice", "States", "--choice", "bananas") == 0
    assert capsys.readouterr().out == "States\n\nStates\n"
    table.write_text(f"id,text\n01,{TEXT}\n")
    assert choose("--input", str(table), "--choice", "States", "--choice", "bananas", "--output", str(out)) == 0
    head, row = out.read_text().splitlines()
    assert head == "id,text,choice,choices,error"
    assert row.startswith(f"01,{TEXT},States,")
    monkeypatch.setattr("sys.stdin", None)
    assert choose("--choice", "x") == 2
    assert "give a text" in capsys.readouterr().err


def test_bars_grow_with_the_share() -> None:
    assert bar(0) == " " * BAR
    assert bar(1) == "█" * BAR
    assert [len(bar(i / 50)) for i in range(51)] == [BAR] * 51
    assert bar(0.5) == "█" * (BAR // 2) + " " * (BAR // 2)
