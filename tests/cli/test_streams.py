"""Standard streams that are closed, full or gone: a named error, an exit code, never a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from openglm.checkpoints.native import save_model
from openglm.network.model import GLMModel
from openglm.tokenizer import BilingualTokenizer

OPENGLM = f"{sys.executable} -m openglm"
LIGHT = ["--help", "--version", "fill --help", "models", "models --json", "completion bash"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tiny_model: GLMModel, tokenizer: BilingualTokenizer) -> str:
    folder = tmp_path_factory.mktemp("model")
    save_model(folder, tiny_model, tokenizer)
    return str(folder)


def shell(command: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    for words in ("Traceback", "internal error", "Exception ignored"):
        assert words not in done.stderr, done.stderr
    return done


@pytest.mark.parametrize("arguments", LIGHT)
@pytest.mark.parametrize("where", ["> /dev/full", ">&-"])
def test_output_that_cannot_be_written(arguments: str, where: str) -> None:
    done = shell(f"{OPENGLM} {arguments} {where}")
    assert done.returncode == 2
    assert "standard output: cannot be written" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("where", ["> /dev/full", ">&-"])
@pytest.mark.parametrize("how", ["fill 'a [MASK]'", "fill --json 'a [MASK]'", "fill", "choose 'a [MASK]' --choice x"])
def test_results_that_cannot_be_written(model: str, how: str, where: str) -> None:
    done = shell(f"echo 'a [MASK]' | {OPENGLM} {how} --model {model} --device cpu {where}")
    assert done.returncode == 2
    assert "standard output: cannot be written" in done.stderr


def test_messages_that_cannot_be_said(model: str) -> None:
    for where in ("2> /dev/full", "2>&-"):
        done = shell(f"printf 'no blank\\na [MASK]\\n' | {OPENGLM} fill --model {model} {where}")
        assert done.returncode == 1
        assert len(done.stdout.splitlines()) == 2
        assert shell(f"{OPENGLM} fill --unknown {where}").returncode == 2


def test_a_closed_standard_input(model: str) -> None:
    for command in ("fill", "fill -", "fill --input -", "choose --choice x --input -"):
        done = shell(f"{OPENGLM} {command} --model {model} <&-")
        assert done.returncode == 2
        assert "standard input" in done.stderr


def test_files_do_not_get_the_numbers_of_closed_streams(model: str, tmp_path: Path) -> None:
    """With standard error closed, a file would be opened under its number and get the messages."""
    out = tmp_path / "out.jsonl"
    (tmp_path / "in.jsonl").write_text('{"text": "a [MASK]"}\n{"text": "none"}\n')
    done = shell(f"{OPENGLM} fill --model {model} --input {tmp_path}/in.jsonl --output {out} >&- 2>&- <&-")
    assert done.returncode == 1
    assert len(out.read_text().splitlines()) == 2
    assert "openglm:" not in out.read_text()


def test_standard_output_by_name(model: str) -> None:
    for name in ("-", "/dev/stdout", "/dev/fd/1"):
        done = shell(f"{OPENGLM} fill --model {model} --json 'a [MASK]' --output {name} | cat")
        assert done.stdout.startswith('{"text": "a [MASK]"')


def test_outputs_that_would_destroy(model: str, tmp_path: Path) -> None:
    """Pipes, links and folders stay what they are, whichever command writes."""
    (tmp_path / "in.jsonl").write_text('{"text": "a [MASK]"}\n')
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "folder.jsonl").mkdir()
    for name in ("pipe.jsonl", "folder.jsonl", "in.jsonl"):
        for command in ("fill", "choose --choice x"):
            done = shell(f"{OPENGLM} {command} --model {model} --input {tmp_path}/in.jsonl --output {tmp_path}/{name}")
            assert done.returncode == 2, done.stderr
    assert sorted(each.name for each in tmp_path.iterdir()) == ["folder.jsonl", "in.jsonl", "pipe.jsonl"]
    assert (tmp_path / "in.jsonl").read_text() == '{"text": "a [MASK]"}\n'


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        ("openglm fi", {"fill", "finetune"}),
        ("openglm fill --max", {"--max-new-tokens", "--max-chars"}),
        ("openglm data pre", {"prepare"}),
        ("openglm convert x y --to th", {"thudm"}),
        ("openglm fill --truncate a", {"around"}),
    ],
)
def test_completion_in_bash(typed: str, wanted: set[str], tmp_path: Path) -> None:
    words = typed.split()
    script = f"""cd {tmp_path}; source <({OPENGLM} completion bash)
        COMP_WORDS=({" ".join(words)}); COMP_CWORD={len(words) - 1}; _openglm; echo "${{COMPREPLY[@]}}" """
    assert set(shell(script).stdout.split()) == wanted
