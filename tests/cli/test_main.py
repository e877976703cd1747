"""The command line as a whole: help, versions, the list of models, training end to end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import openglm
from openglm.cli.main import COMMANDS, main


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)])
def test_help_imports_no_torch(command: list[str]) -> None:
    code = (
        "import sys\nfrom openglm.cli.main import main\n"
        f"try:\n    main([*{command!r}, '--help'])\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "usage: openglm" in done.stdout


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert openglm.__version__ in capsys.readouterr().out


def test_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["fil"])
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("openglm: error: ")


def test_models(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--json"]) == 0
    entries = {e["name"]: e for e in map(json.loads, capsys.readouterr().out.splitlines())}
    assert len(entries) == 11
    assert Path(entries["default"]["path"]).is_dir()
    assert entries["glm-large-chinese"]["parameters"] == 355_659_776
    assert entries["glm-10b"]["parameters"] == 9_880_682_496
    assert entries["glm-base"]["parameters"] == 109_338_624
    assert entries["glm-515m"]["parameters"] == 514_632_960
    assert entries["glm-roberta-large"]["parameters"] == 354_873_344
    assert entries["glm-large"]["blanks"] == ["[MASK]"]
    assert "GLM-large-ch" in entries["glm-large-chinese"]["aliases"]
    names = [name for e in entries.values() for name in (e["name"], *e["aliases"])]
    assert len({name.lower() for name in names}) == len(names)
    assert main(["models"]) == 0
    assert "not on this machine" in capsys.readouterr().out


def test_a_model_of_ones_own(tmp_path: Path, text_lines: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Corpus -> vocabulary -> shard -> run, stopped and resumed -> model folder -> filled text."""
    corpus = tmp_path / "corpus.jsonl"
    documents = ["\n".join(text_lines[i : i + 8]) for i in range(0, len(text_lines), 8)]
    corpus.write_text("".join(json.dumps({"text": d}) + "\n" for d in documents), encoding="utf-8")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "model: {num_layers: 1, hidden_size: 32, num_attention_heads: 2, vocab_size: 640, max_sequence_length: 64}\n"
        "run: {steps: 6, stages: [{share: 1.0, rows: 4, length: 64}], precision: fp32, evaluate_every: 3,\n"
        "      evaluation_rows: 2, save_every: 2, log_every: 2}\n",
        encoding="utf-8",
    )
    vocabulary, shard, run = (str(tmp_path / name) for name in ("vocabulary", "shard", "run"))
    assert main(["tokenizer", "train", "--group", "100000", str(corpus), "--vocab-size", "600", "--threads", "1",
                 "--output", vocabulary]) == 0  # fmt: skip
    assert main(["data", "prepare", str(corpus), "--tokenizer", vocabulary, "--output", shard]) == 0
    pretrain = ["pretrain", str(recipe), "--tokenizer", vocabulary, "--data", f"all={shard}", "--valid",
                f"all={shard}", "--output", run, "--device", "cpu"]  # fmt: skip
    assert main([*pretrain, "--steps", "3"]) == 0
    assert "stopped after 3 updates" in capsys.readouterr().out
    assert main(pretrain) == 0
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    validated = [entry for entry in log if "validation" in entry]
    assert [entry["step"] for entry in validated] == [3, 6]
    assert set(validated[-1]["validation"]) == {"all/token", "all/sentence", "all/document"}
    capsys.readouterr()
    assert main(["fill", "老师[MASK]走到了市场。", "--model", str(tmp_path / "run" / "model"), "--device", "cpu"]) == 0
    assert capsys.readouterr().out.startswith("老师")


def test_training_input_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("model: {num_layer: 1}\n", encoding="utf-8")
    arguments = ["pretrain", str(recipe), "--tokenizer", str(tmp_path), "--data", "x=y", "--output", str(tmp_path)]
    assert main(arguments) == 2
    assert "num_layers" in capsys.readouterr().err
    missing = str(tmp_path / "no.jsonl")
    assert main(["tokenizer", "train", "--group", "100", missing, "--output", str(tmp_path / "v")]) == 2
    assert "no such file" in capsys.readouterr().err
