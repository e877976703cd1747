"""`openglm convert`: formats, options and one-line errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import openglm
from openglm.checkpoints.formats import FORMATS
from openglm.checkpoints.native import save_model
from openglm.cli.main import main
from openglm.network.model import GLMModel
from openglm.tokenizer import BilingualTokenizer


@pytest.fixture
def source(tmp_path: Path, tiny_model: GLMModel, tokenizer: BilingualTokenizer) -> str:
    save_model(tmp_path / "source", tiny_model, tokenizer)
    return str(tmp_path / "source")


@pytest.mark.parametrize("to", FORMATS)
def test_says_what_it_did(
    source: str, tmp_path: Path, tiny_model: GLMModel, to: str, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "new"
    assert main(["convert", source, str(target), "--to", to]) == 0
    first, *others = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{target}: openglm -> {to}, {tiny_model.config.num_parameters:,} parameters; all tensors")
    listed = {line.strip() for line in others if line.startswith("  ")}
    assert listed == {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()}
    assert any(line.startswith("note: ") and "GELU" in line for line in others) == (to == "huggingface")
    assert openglm.load(target).fill("老师[MASK]。", max_new_tokens=2).text.startswith("老师")


def test_options_and_json(source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "new"
    options = ["--model-parallel", "2", "--dtype", "float16", "--without-tokenizer", "--json"]
    assert main(["convert", source, str(target), "--to", "thudm", *options]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["from"], record["to"], record["folder"]) == ("openglm", "thudm", str(target))
    assert "tokenizer.model" not in record["files"]
    pieces = [name for name in record["files"] if name.endswith(".pt")]
    assert len(pieces) == 2
    for piece in pieces:
        state = torch.load(target / piece, weights_only=True)["module"]
        assert {tensor.dtype for tensor in state.values()} == {torch.float16}
    again = ["convert", str(target), str(tmp_path / "again"), "--to", "openglm", "--tokenizer", source]
    assert main(again) == 0
    assert openglm.load(tmp_path / "again").tokenizer.identity == openglm.load(source).tokenizer.identity


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--to", "flagai", "--model-parallel", "3"], "--model-parallel 3"),
        (["--to", "flagai", "--model-parallel", "0"], "--model-parallel 0"),
        (["--to", "openglm", "--model-parallel", "2"], "no model-parallel pieces"),
        (["--to", "flagai", "--tokenizer", "nowhere"], "nowhere"),
    ],
)
def test_options_that_do_not_fit(
    source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    assert main(["convert", source, str(tmp_path / "new"), *options]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_places_that_do_not_fit(source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", source, source, "--to", "flagai"]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["convert", str(tmp_path / "no" / "such" / "model"), str(tmp_path / "new"), "--to", "flagai"]) == 2
    assert capsys.readouterr().err.startswith("openglm: error: ")
    with pytest.raises(SystemExit) as stop:
        main(["convert", source, str(tmp_path / "new"), "--to", "onnx"])
    assert stop.value.code == 2
    assert "invalid choice" in capsys.readouterr().err
