"""`openglm pretrain` as users call it: text files, patterns, settings, and what goes wrong."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from openglm.checkpoints.native import load_model
from openglm.cli.main import main
from openglm.tokenizer import BilingualTokenizer

ROOT = Path(__file__).parent.parent.parent
MODEL = {"num_layers": 1, "hidden_size": 32, "num_attention_heads": 2, "vocab_size": 640, "max_sequence_length": 64}
RUN = {
    "steps": 4,
    "stages": [{"share": 1.0, "rows": 4, "length": 64}],
    "precision": "fp32",
    "evaluate_every": 2,
    "evaluation_rows": 2,
    "save_every": 2,
    "log_every": 1,
}


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump({"model": MODEL, "run": RUN}), encoding="utf-8")
    return path


@pytest.fixture
def vocabulary(tmp_path: Path, tokenizer: BilingualTokenizer) -> Path:
    folder = tmp_path / "vocabulary"
    folder.mkdir()
    for name, content in tokenizer.files().items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def corpus(tmp_path: Path, text_lines: list[str]) -> Path:
    """Two files of JSON Lines, one of them compressed."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    documents = ["\n".join(text_lines[i : i + 8]) for i in range(0, len(text_lines), 8)]
    halves = ["".join(json.dumps({"text": text}) + "\n" for text in half) for half in (documents[::2], documents[1::2])]
    (folder / "a.jsonl").write_text(halves[0], encoding="utf-8")
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(halves[1].encode()))
    return folder


def log_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def test_text_files_become_a_model(
    recipe: Path, vocabulary: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files as a shell expands them, nothing prepared, everything else by default."""
    monkeypatch.chdir(tmp_path)
    files = [str(path) for path in sorted(corpus.iterdir())]
    assert main(["pretrain", str(recipe), "--tokenizer", str(vocabulary), "--device", "cpu", "--data", *files]) == 0
    run = tmp_path / "runs" / "tiny"
    log = log_of(run)
    assert [entry["step"] for entry in log if "loss" in entry] == [1, 2, 3, 4]
    validated = [entry["validation"] for entry in log if "validation" in entry]
    assert [set(losses) for losses in validated] == [{"text/token", "text/sentence", "text/document"}] * 2
    assert list((run / "tensorboard").iterdir())
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert load_model(run / "model").config.num_layers == 1
    card = (run / "model" / "README.md").read_text(encoding="utf-8")
    assert yaml.safe_load(card.split("---")[1])["library_name"] == "openglm"
    assert main(["fill", "老师[MASK]走到了市场。", "--model", str(run / "model"), "--device", "cpu"]) == 0


def test_a_run_may_be_stopped_by_the_clock(
    recipe: Path, vocabulary: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["pretrain", str(recipe), "--tokenizer", str(vocabulary), "--device", "cpu", "--data", f"all={corpus}",
               "--output", str(tmp_path / "run"), "--track", "none"]  # fmt: skip
    assert main([*command, "--max-seconds", "0.000001"]) == 0
    assert "stopped after 0 updates" in capsys.readouterr().out
    assert main([*command, "--steps", "3", "--set", "run.log_every=3"]) == 0
    assert "stopped after 3 updates" in capsys.readouterr().out
    assert main(command) == 0
    assert "finished" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--data", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--data", "CORPUS", "--set", "run.compil=true"], "compile"),
        (["--data", "CORPUS", "--set", "run.stages=3"], "stages"),
        (["--data", "x=CORPUS", "--data", "x=CORPUS"], "two sources"),
        (["--data", "CORPUS", "--tokenizer", "nowhere"], "nowhere"),
        (["--data", "CORPUS", "--max-seconds", "-1"], "--max-seconds"),
        (["--data", "CORPUS", "--track", "notebook"], "notebook"),
        (["--data", "CORPUS", "--device", "cuda:99"], "GPU number 99"),
        (["--data", "CORPUS", "--set", "model.vocab_size=128"], "model.vocab_size"),
        (["--data", "CORPUS", "--set", "run.stages=[{share: 1.0, rows: 1, length: 128}]"], "max_sequence_length"),
        ([], "--data"),
    ],
)
def test_what_is_wrong_is_named(
    recipe: Path,
    vocabulary: Path,
    corpus: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    named: str,
) -> None:
    given = [argument.replace("CORPUS", str(corpus)) for argument in arguments]
    given += [] if "--tokenizer" in given else ["--tokenizer", str(vocabulary)]
    assert main(["pretrain", str(recipe), "--output", str(tmp_path / "run"), *given]) == 2
    message = capsys.readouterr().err
    assert named in message
    assert message.count("\n") == 1
    assert not (tmp_path / "run" / "model").exists()


def test_an_empty_corpus_is_refused(
    recipe: Path, vocabulary: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.txt").write_text("\n\n", encoding="utf-8")
    command = ["pretrain", str(recipe), "--tokenizer", str(vocabulary), "--data", str(tmp_path / "empty.txt")]
    assert main([*command, "--output", str(tmp_path / "run")]) == 2
    assert "empty.txt" in capsys.readouterr().err


@pytest.mark.slow
def test_the_script_of_the_base_recipe(tmp_path: Path, text_lines: list[str]) -> None:
    """From text files to a model, stopped once on the way, at a size for a CPU."""
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for part in ("zh-train-0", "en-train-0", "zh-valid", "en-valid"):
        chosen = [line for line in text_lines if line.isascii() == part.startswith("en")]
        lines = "".join(json.dumps({"text": "\n".join(chosen[i : i + 10])}) + "\n" for i in range(0, len(chosen), 10))
        compressed = subprocess.run(
            [sys.executable, "-c", "import sys, zstandard; sys.stdout.buffer.write(zstandard.compress("
             "sys.stdin.buffer.read()))"], input=lines.encode(), capture_output=True, check=True,
        ).stdout  # fmt: skip
        (corpus / f"{part}.jsonl.zst").write_bytes(compressed)
    small = ["model.num_layers=1", "model.hidden_size=64", "model.num_attention_heads=2", "run.compile=false",
             "run.workers=1", "run.accumulate=1", "run.steps=3", "run.stages=[{share: 1.0, rows: 2, length: 64}]",
             "run.evaluation_rows=2"]  # fmt: skip
    settings = [part for setting in small for part in ("--set", setting)]
    environment = {**os.environ, "CORPUS": str(corpus), "OUT": str(tmp_path / "out"), "PYTHON": sys.executable}
    script = ["bash", str(ROOT / "recipes" / "base.sh"), *settings, "--device", "cpu"]
    for last, limit in (("stopped after 2 updates", ["--steps", "2"]), ("finished", [])):
        done = subprocess.run([*script, *limit], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert last in done.stdout
    assert (tmp_path / "out" / "run" / "model" / "model.safetensors").is_file()
