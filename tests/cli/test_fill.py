"""`openglm fill` as a user runs it: real processes, real pipes, exit codes."""

from __future__ import annotations

import csv
import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import zstandard

from openglm.checkpoints.native import save_model
from openglm.cli.main import main
from openglm.network.model import GLMModel
from openglm.tokenizer import BilingualTokenizer


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tiny_model: GLMModel, tokenizer: BilingualTokenizer) -> str:
    folder = tmp_path_factory.mktemp("model")
    save_model(folder, tiny_model, tokenizer)
    return str(folder)


def openglm(*arguments: str, stdin: bytes = b"", env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "openglm", *arguments],
        input=stdin,
        capture_output=True,
        env={**os.environ, **(env or {})},
    )
    out = subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())
    assert "Traceback" not in out.stderr
    return out


def test_texts(model: str) -> None:
    done = openglm("fill", "--model", model, "--max-new-tokens", "4", "the [MASK] bridge", "老师[MASK]。")
    assert done.returncode == 0
    first, second = done.stdout.splitlines()
    assert first.startswith("the ")
    assert first.endswith(" bridge")
    assert second.startswith("老师")
    assert "\033" not in done.stdout
    assert done.stderr == ""


def test_colours_on_a_terminal_only(model: str) -> None:
    import pty

    def shown(*arguments: str, **env: str) -> str:
        ours, theirs = pty.openpty()
        command = [sys.executable, "-m", "openglm", "fill", "--model", model, "--min-new-tokens", "1", "a [MASK] b"]
        done = subprocess.run([*command, *arguments], stdout=theirs, env={**os.environ, **env}, check=True)
        os.close(theirs)
        out = os.read(ours, 10_000).decode()
        os.close(ours)
        assert done.returncode == 0
        return out

    coloured, plain = shown(NO_COLOR=""), shown("--no-color", NO_COLOR="")
    assert coloured.startswith("a \033[1;32m")
    assert "\033[0m b" in coloured
    assert "\033" not in plain
    assert "\033" not in shown(NO_COLOR="1")


def test_json_and_alternatives(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(
        ["fill", "--model", model, "--json", "--num-beams", "3", "-n", "3", "--max-new-tokens", "3", "a [MASK] b"]
    )
    record = json.loads(capsys.readouterr().out)
    assert code == 0
    assert record["text"] == "a [MASK] b"
    filled = record["filled"]
    blank = filled["blanks"][0]
    assert filled["text"][blank["start"] : blank["end"]] == blank["text"]
    assert len(filled["alternatives"]) == 2
    assert filled["alternatives"][0]["logprob"] <= filled["logprob"]


def test_lines_from_standard_input(model: str) -> None:
    done = openglm("fill", "--model", model, "--max-new-tokens", "2", stdin="a [MASK]\n老师[MASK]。\r\n".encode())
    assert done.returncode == 0
    assert [line[:1] for line in done.stdout.splitlines()] == ["a", "老"]


def test_file_with_bad_lines(model: str, tmp_path: Path) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    lines = [
        json.dumps({"text": "the [MASK] bridge", "id": 7, "tags": ["x"]}).encode(),
        b"{not json",
        json.dumps({"text": "no blank here", "id": 8}).encode(),
        b'{"text": "\xff [MASK]"}',
        json.dumps({"other": "field"}).encode(),
        json.dumps({"text": "老师[MASK]走到了[MASK]。", "id": 9}, ensure_ascii=False).encode(),
    ]
    source.write_bytes(b"\n".join(lines) + b"\n")
    done = openglm("fill", "--model", model, "--input", str(source), "--output", str(target), "--max-new-tokens", "3")
    assert done.returncode == 1
    assert done.stdout == ""
    for words in (
        "line 2: not JSON",
        "line 3: no blank",
        "line 4: not valid UTF-8",
        "line 5: expected",
        "4 of 6 lines",
    ):
        assert words in done.stderr
    records = [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]
    assert len(records) == 6
    assert records[0]["id"] == 7
    assert records[0]["tags"] == ["x"]
    assert records[0]["filled"]["text"].startswith("the ")
    assert records[2]["id"] == 8
    assert "no blank" in records[2]["error"]
    assert len(records[5]["filled"]["blanks"]) == 2
    assert sorted(each.name for each in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


def test_byte_order_mark_and_empty_lines(model: str, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_bytes(b'\xef\xbb\xbf{"text": "a [MASK]"}\r\n\r\n{"text": "b [MASK]"}\n\nnot json')
    done = openglm("fill", "--model", model, "--input", str(source), "--max-new-tokens", "2")
    assert done.returncode == 1
    assert "line 5: not JSON" in done.stderr
    shown = [json.loads(line).get("text", "")[:1] if line else None for line in done.stdout.splitlines()]
    assert shown == ["a", None, "b", None, ""]


def test_file_gives_what_single_calls_give(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = ["the [MASK] bridge", "老师[MASK]走到了[MASK]。", "[MASK]", "a " * 20 + "[MASK]"]
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts), encoding="utf-8")
    options = ["--model", model, "--max-new-tokens", "4", "--temperature", "1", "--seed", "5", "--json"]
    assert main(["fill", "--input", str(source), *options]) == 0
    together = [json.loads(line)["filled"]["text"] for line in capsys.readouterr().out.splitlines()]
    for text, filled in zip(texts, together, strict=True):
        assert main(["fill", text, *options]) == 0
        assert json.loads(capsys.readouterr().out)["filled"]["text"] == filled


def test_other_field_and_colours(model: str, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('{"question": "a [MASK]", "text": 3}\n', encoding="utf-8")
    done = openglm("fill", "--model", model, "--input", str(source), "--field", "question", "--max-new-tokens", "2")
    assert done.returncode == 0
    assert json.loads(done.stdout)["text"] == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no blank"], "no blank"),
        (["a [MASK]", "--max-new-tokens", "0"], "max_new_tokens"),
        (["a [MASK]", "--max-new-tokens", "-4"], "max_new_tokens"),
        (["a [MASK]", "--max-new-tokens", "many"], "max-new-tokens"),
        (["a [MASK]", "--max-new-tokens", "1000"], "at most 63"),
        (["a [MASK]", "--temperature", "-1"], "temperature"),
        (["a [MASK]", "--top-p", "0"], "top_p"),
        (["a [MASK]", "--top-p", "1.1"], "top_p"),
        (["a [MASK]", "--unknown"], "--unknown"),
        (["a [MASK]", "--device", "toaster"], "device"),
        (["a [MASK]", "--device", "mps"], "cannot be computed on"),
        (["a [MASK]", "--device", "meta"], "cannot be computed on"),
        (["a [MASK]", "--device", "cuda:99"], "cuda"),
        (["a [MASK]", "--device", ""], "device"),
        (["a [MASK]", "--dtype", "float16", "--quantize", "int8"], "exclude each other"),
        (["a [MASK]", "--num-beams", "1000000000"], "at most 1024"),
        (["a [MASK]", "-n", "1000000000", "--temperature", "1"], "at most 1024"),
        (["a [MASK]", "--dtype", "int3"], "dtype"),
        (["the river " * 60 + "[MASK]"], "--truncate"),
        (["--input", "does-not-exist.jsonl"], "No such file"),
        (["--input", "."], "Is a directory"),
        (["a [MASK]", "--input", "x"], "not both"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    model: str, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main(["fill", "--model", model, *arguments])
    except SystemExit as stop:  # argparse
        code = int(str(stop.code))
    captured = capsys.readouterr()
    assert code == 2
    assert words in captured.err
    assert captured.err.startswith("openglm: error: ")
    assert len(captured.err.splitlines()) == 1
    assert captured.out == ""


def test_wrong_models(tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fill", "a [MASK]", "--model", "glm-larg"]) == 2
    assert "Did you mean" in capsys.readouterr().err
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in Path(model).iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert main(["fill", "a [MASK]", "--model", str(broken)]) == 2
    assert "truncated or corrupted" in capsys.readouterr().err
    weights.unlink()
    assert main(["fill", "a [MASK]", "--model", str(broken)]) == 2
    assert "no such file" in capsys.readouterr().err


def test_empty_inputs(model: str, tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_bytes(b"")
    done = openglm("fill", "--model", model, "--input", str(empty), "--output", str(tmp_path / "out.jsonl"))
    assert done.returncode == 2
    assert "is empty" in done.stderr
    assert not (tmp_path / "out.jsonl").exists()
    done = openglm("fill", "--model", model, stdin=b"")
    assert done.returncode == 2
    assert "is empty" in done.stderr


def test_output_is_never_the_input(model: str, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('{"text": "a [MASK]"}\n', encoding="utf-8")
    done = openglm("fill", "--model", model, "--input", str(source), "--output", str(source))
    assert done.returncode == 2
    assert source.read_text(encoding="utf-8") == '{"text": "a [MASK]"}\n'


def test_reader_that_goes_away(model: str, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('{"text": "a [MASK]"}\n' * 2000, encoding="utf-8")
    command = f"{sys.executable} -m openglm fill --model {model} --max-new-tokens 1 --input {source} | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stderr == ""
    assert json.loads(done.stdout)


def test_input_may_be_a_pipe(model: str) -> None:
    command = f'{sys.executable} -m openglm fill --model {model} --input <(echo \'{{"text": "a [MASK]"}}\')'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["filled"]["text"].startswith("a ")


def test_interrupted_run_is_gone_on_from(model: str, tmp_path: Path) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(f'{{"text": "a [MASK] b", "id": {i}}}\n' for i in range(20000)), encoding="utf-8")
    target.write_text("old", encoding="utf-8")
    command = [sys.executable, "-m", "openglm", "fill", "--model", model, "--max-new-tokens", "1"]
    command += ["--input", str(source), "--output", str(target)]
    for number in (signal.SIGINT, signal.SIGKILL):
        running = subprocess.Popen(
            command,
            stderr=subprocess.PIPE,
            text=True,
            # Whoever runs the tests in the background may have them ignore interrupts.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        journal = tmp_path / ".out.jsonl.openglm-part" / "journal.json"
        before = journal.read_text() if journal.exists() else ""
        while running.poll() is None and not (journal.exists() and journal.read_text() != before):
            time.sleep(0.02)
        running.send_signal(number)
        errors = running.communicate()[1]
        assert running.returncode == (130 if number == signal.SIGINT else -number)
        assert "Traceback" not in errors
        assert target.read_text() == "old"
        assert number == signal.SIGKILL or "goes on from there" in errors
    done = openglm(*command[3:])
    assert done.returncode == 0
    assert "were done before" in done.stderr
    records = [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]
    assert [record["id"] for record in records] == list(range(20000))
    assert all(record["filled"]["text"].startswith("a ") for record in records)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


def test_an_unfinished_output_of_another_input_is_kept(model: str, tmp_path: Path) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"text": "a [MASK]"}\n', encoding="utf-8")
    part = tmp_path / ".out.jsonl.openglm-part"
    part.mkdir()
    (part / "output").write_text("{}\n")
    (part / "journal.json").write_text('{"identity": "another", "records": 1, "bytes": 3}')
    assert main(["fill", "--model", model, "--input", str(source), "--output", str(target)]) == 2
    assert (part / "output").read_text() == "{}\n"
    assert not target.exists()


def test_one_line_out_for_every_line_in(model: str) -> None:
    lines = [b"a [MASK]", b"", b"no blank", b"\xff [MASK]", b"  ", b"the [MASK] bridge"]
    done = openglm("fill", "--model", model, "--max-new-tokens", "2", stdin=b"\n".join(lines))
    out = done.stdout.split("\n")
    assert done.returncode == 1
    assert len(out) == len(lines) + 1
    assert out[0].startswith("a ")
    assert out[1:3] == ["", "no blank"]
    assert out[3].endswith(" [MASK]")
    assert out[5].startswith("the ")
    assert "line 3: no blank" in done.stderr
    assert "line 4: not valid UTF-8" in done.stderr
    assert "2 of 6 lines" in done.stderr


def test_lines_are_written_as_they_are_ready(model: str) -> None:
    """A line goes in, its result comes out, and only then the next line goes in."""
    command = [sys.executable, "-m", "openglm", "fill", "--model", model, "--max-new-tokens", "2"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        for line in (b"one [MASK]\n", b"two [MASK]\n", b"three [MASK]\n"):
            running.stdin.write(line)
            running.stdin.flush()
            assert running.stdout.readline().startswith(line.split()[0])
        running.stdin.close()
        assert running.wait() == 0


@pytest.mark.parametrize("form", ["txt", "csv", "tsv", "jsonl"])
def test_forms_of_files(model: str, form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = tmp_path / f"in.{form}", tmp_path / f"out.{form}"
    rows = {
        "txt": 'a [MASK]\n"q" [MASK]\n',
        "csv": 'id,text\n007,a [MASK]\n008,"""q"" [MASK]"\n009,\n',
        "tsv": 'id\ttext\n007\ta [MASK]\n008\t"q" [MASK]\n',
        "jsonl": '{"id": "007", "text": "a [MASK]"}\n{"id": "008", "text": "\\"q\\" [MASK]"}\n',
    }
    source.write_bytes(b"\xef\xbb\xbf" + rows[form].encode())
    code = main(["fill", "--model", model, "--input", str(source), "--output", str(target), "--max-new-tokens", "2"])
    text = target.read_text(encoding="utf-8")
    if form == "txt":
        assert code == 0
        assert [line[:3] for line in text.splitlines()] == ["a " + text[2], '"q"']
        return
    if form == "csv":
        assert code == 1
        assert "line 4: no blank" in capsys.readouterr().err
    if form == "jsonl":
        records = [json.loads(line) for line in text.splitlines()]
    elif form == "csv":
        records = list(csv.DictReader(text.splitlines()))
    else:
        records = [dict(zip(text.split("\n")[0].split("\t"), line.split("\t"), strict=True))
                   for line in text.splitlines()[1:]]  # fmt: skip
    assert [record["id"] for record in records[:2]] == ["007", "008"]
    assert records[1]["text"] == '"q" [MASK]'
    filled = records[1]["filled"]
    assert (filled["text"] if form == "jsonl" else filled).startswith('"q" ')


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", "id,sentence\n1,x\n", 'no column "text" (choose one with --field); it has id, sentence'),
        ("b.csv", "text,text\na,b\n", "names a column twice"),
        ("c.csv", "id;text\n1;a\n", "separated by semicolons"),
        ("d.csv", 'text\n"a [MASK]\nb\n', "line 2: not a row of a table"),
        ("e.tsv", "text\tid\na [MASK]\n", "line 2: 1 cells where the first row has 2"),
        ("f.jsonl", "[" * 100_000 + "\n", "line 1: not JSON (nested too deeply)"),
        ("i.json", '[\n {"text": "a [MASK]"}\n]\n', "one JSON list; write one object per line"),
        ("g.jsonl", '{"text": ["a [MASK]"]}\n', 'the field "text" must be text, not list'),
        ("h.jsonl", '{"texts": "a [MASK]"}\n', "Did you mean 'texts'"),
    ],
)
def test_wrong_files_are_named(
    model: str, name: str, content: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert main(["fill", "--model", model, "--input", str(tmp_path / name)]) in (1, 2)
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("name", ["in.jsonl.gz", "in.csv.gz", "in.jsonl.zst", "in.txt.gz"])
def test_packed_inputs(model: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = {"jsonl": '{"text": "a [MASK]"}\n' * 50, "csv": "text\n" + "a [MASK]\n" * 50, "txt": "a [MASK]\n" * 50}
    content = lines[name.split(".")[1]].encode()
    packed = gzip.compress(content) if name.endswith(".gz") else zstandard.compress(content)
    command = ["fill", "--model", model, "--input", str(tmp_path / name), "--max-new-tokens", "1"]
    (tmp_path / name).write_bytes(packed)
    assert main(command) == 0
    assert len(capsys.readouterr().out.splitlines()) == 50 + name.startswith("in.csv")
    for damaged in (packed[:-9], packed[: len(packed) // 2], b"", b"no archive"):
        (tmp_path / name).write_bytes(damaged)
        assert main(command) == 2
        assert "cannot be read" in capsys.readouterr().err


def test_half_a_surrogate_pair(model: str, tmp_path: Path) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"text": "a [MASK]", "other": "\\ud83d"}\n{"text": "\\ud83d [MASK]"}\n', encoding="utf-8")
    assert main(["fill", "--model", model, "--input", str(source), "--output", str(target)]) == 1
    first, second = (json.loads(line) for line in target.read_text(encoding="utf-8").splitlines())
    assert first["other"] == "\ud83d"
    assert "filled" in first
    assert second["error"]


def test_truncation_is_announced(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = "the river " * 60 + "[MASK]"
    assert main(["fill", "--model", model, "--truncate", "start", "--max-new-tokens", "2", text]) == 0
    captured = capsys.readouterr()
    assert "did not see" in captured.err
    assert captured.out.startswith("the river " * 60)
