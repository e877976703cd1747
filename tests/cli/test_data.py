"""`openglm data` and `openglm tokenizer` as a user runs them."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import termios
from pathlib import Path

import fsspec
import pytest
import zstandard

from openglm.cli.main import main
from openglm.data.shards import Shard
from openglm.tokenizer import BilingualTokenizer, load_tokenizer


@pytest.fixture
def vocabulary(tmp_path: Path, tokenizer: BilingualTokenizer) -> str:
    folder = tmp_path / "vocabulary"
    folder.mkdir()
    for name, content in tokenizer.files().items():
        (folder / name).write_bytes(content)
    return str(folder)


@pytest.fixture
def corpus(tmp_path: Path, text_lines: list[str]) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    for i in range(3):
        lines = "".join(json.dumps({"body": line}) + "\n" for line in text_lines[i:90:3])
        (folder / f"{i}.jsonl.zst").write_bytes(zstandard.ZstdCompressor().compress(lines.encode()))
    (folder / "notes.md").write_text("not for training")
    return folder


def texts_of(shard: Path, tokenizer: BilingualTokenizer) -> list[str]:
    opened = Shard.open(shard, tokenizer)
    opened.verify()
    return [tokenizer.decode(opened.document(i).tolist()) for i in range(len(opened))]


def test_prepare_with_patterns(
    corpus: Path,
    vocabulary: str,
    tmp_path: Path,
    tokenizer: BilingualTokenizer,
    text_lines: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    expected = [line for i in range(3) for line in text_lines[i:90:3]]
    for number, files in enumerate([["*.jsonl.zst"], ["[01].*", "2.jsonl.zst"], [""]]):
        arguments = ["data", "prepare", *(str(corpus / name) for name in files), "--tokenizer", vocabulary]
        output = tmp_path / str(number)
        assert main([*arguments, "--output", str(output), "--field", "body", "--workers", str(number)]) == 0
        out = capsys.readouterr()
        assert re.fullmatch(rf"{output}: 90 documents, [\d,]+ sentences, [\d,]+ tokens\n", out.out)
        assert out.err == ""
        assert texts_of(output, tokenizer) == expected


def test_prepare_from_another_place_and_format(
    vocabulary: str, tmp_path: Path, tokenizer: BilingualTokenizer, text_lines: list[str]
) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    system = fsspec.filesystem("memory")
    with system.open("/cli/a.parquet", "wb") as file:
        parquet.write_table(pyarrow.table({"text": text_lines[:30]}), file)
    try:
        arguments = ["data", "prepare", "memory://cli/*.parquet", "--tokenizer", vocabulary]
        assert main([*arguments, "--output", str(tmp_path / "shard")]) == 0
    finally:
        system.rm("/cli", recursive=True)
    assert texts_of(tmp_path / "shard", tokenizer) == text_lines[:30]


def test_progress_is_shown_on_a_terminal(corpus: Path, vocabulary: str, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100)) if hasattr(termios, "tcsetwinsize") else pytest.skip("Python 3.11")
    command = [sys.executable, "-m", "openglm", "data", "prepare", str(corpus), "--field", "body", "--tokenizer"]
    subprocess.run([*command, vocabulary, "--output", str(tmp_path / "shard")], stderr=theirs, check=True)
    os.close(theirs)
    shown = os.read(ours, 10_000).decode()
    os.close(ours)
    assert "tokens/s" in shown
    assert "90 documents" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["corpus/*.csv"], r"corpus/\*\.csv: no files here"),
        (["corpus/none.txt"], r"corpus/none\.txt: no such file"),
        (["corpus"], r'corpus/0\.jsonl\.zst, line 1: expected a JSON object with the field "text"'),
        (["corpus", "--field", "body", "--workers", "-1"], "workers must be 0 or more"),
        (["nowhere://x/*.txt"], "nowhere"),
        (["corpus", "--field", "body", "--output", "corpus/notes.md"], r"notes\.md: the shard cannot be written"),
    ],
)
def test_wrong_input(
    corpus: Path,
    vocabulary: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["data", "prepare", "--tokenizer", vocabulary, "--output", "shard", *arguments]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert error.startswith("openglm: error: ")
    assert error.count("\n") == 1


def test_interrupted_and_repeated(
    corpus: Path, vocabulary: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from openglm.data import shards

    monkeypatch.setattr(shards, "BATCH_CHARACTERS", 500)
    command = ["data", "prepare", str(corpus), "--field", "body", "--tokenizer", vocabulary, "--workers", "1"]
    append = shards.ShardWriter.append

    def interrupt(self: shards.ShardWriter, *arguments: object) -> None:
        append(self, *arguments)  # type: ignore[arg-type]
        if self.progress.documents > 40:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shards.ShardWriter, "append", interrupt)
        assert main([*command, "--output", str(tmp_path / "shard")]) == 130
    capsys.readouterr()
    inspect = ["data", "inspect", str(tmp_path / "shard"), "--tokenizer", vocabulary]
    assert main(inspect) == 2
    assert "not finished; repeat its `openglm data prepare`" in capsys.readouterr().err
    assert main([*command, "--output", str(tmp_path / "shard")]) == 0
    assert main([*command, "--output", str(tmp_path / "at once")]) == 0
    for path in (tmp_path / "at once").iterdir():
        assert path.read_bytes() == (tmp_path / "shard" / path.name).read_bytes()
    assert len(list((tmp_path / "shard").iterdir())) == 4


def test_inspect_text_without_preparing(corpus: Path, vocabulary: str, capsys: pytest.CaptureFixture[str]) -> None:
    files = str(corpus / "*.zst")
    arguments = ["data", "inspect", files, "--tokenizer", vocabulary, "--length", "64", "-n", "2"]
    assert main([*arguments, "--objective", "token", "--field", "body"]) == 0
    assert capsys.readouterr().out.count("token: ") == 2
    assert main(arguments) == 2
    assert 'field "text"' in capsys.readouterr().err


def test_tokenizer_from_patterns(
    corpus: Path, tmp_path: Path, text_lines: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    train = ["tokenizer", "train", "--vocab-size", "520", "--threads", "1", "--output", str(tmp_path / "new")]
    assert main([*train, "--group", "100000", str(corpus / "*.zst"), "--field", "body"]) == 0
    tokenizer = load_tokenizer(tmp_path / "new")
    assert all(tokenizer.decode(tokenizer.encode(line)) == line for line in text_lines)
    capsys.readouterr()
    (tmp_path / "empty.txt").write_text("")
    for arguments, message in (
        (["--group", "100", str(tmp_path / "empty.txt")], "empty.txt: empty"),
        (["--group", "0", str(corpus / "*.zst"), "--field", "body"], "at least 1 character"),
        (["--group", "100", str(corpus / "*.csv")], "no files here"),
        (["--group", "some", str(corpus)], "number of characters"),
        (["--group", "100", str(corpus), "--output", str(tmp_path / "empty.txt")], "a file is there"),
    ):
        assert main([*train, *arguments]) == 2
        assert message in capsys.readouterr().err
