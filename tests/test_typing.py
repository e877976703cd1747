"""What an editor sees: a script that uses every public name, with one misspelt option, which type checkers find."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import openglm

SCRIPT = """\
from collections.abc import Iterator

import openglm
from openglm import BlankedText, BlankKind, FillOptions, GLMConfig, GLMModel, Infiller, OpenGLMError, Piece, Scored

model: Infiller = openglm.load("default", device="cpu", dtype="float32", quantize=None, compile=False)
text = BlankedText(literals=("a ", " b"), kinds=(BlankKind.MASK,))
filled: openglm.Filled = model.fill("a [MASK]", max_new_tokens=[4], temperature=0.8, top_p=0.9, seed=1)
fill: openglm.Fill = filled.answers[0].blanks[0]
many: list[openglm.Filled] = model.fill([text, "b [MASK]"], num_beams=4, num_return_sequences=2, truncate="around")
pieces: Iterator[Piece] = model.stream(text, min_new_tokens=1)
results: Iterator[openglm.Filled | OpenGLMError] = model.fill_iter(iter([text]), on_error="return", top_k=5)
scored: Scored = model.score("a [MASK]", "b")
lists: list[Scored] = model.score(["a [MASK]", "[MASK] b [MASK]"], ["b", ["a", "c"]], truncate="start")
ranked: list[Scored] = model.choose(text, ["b", ["c"]], length_penalty=1.0, calibrate=True, context="[MASK]")
rankings: list[list[Scored]] = model.choose(["a [MASK]"], ["b", "c"], ends=False)
place, share, cut = ranked[0].index, ranked[0].probability, ranked[0].truncated
options, network, config = FillOptions(repetition_penalty=1.2), GLMModel(GLMConfig(1, 8, 2, 128)), model.model.config
tokenizer: openglm.Tokenizer = model.tokenizer
kinds = [openglm.BertTokenizer, openglm.BilingualTokenizer, openglm.ChineseTokenizer, openglm.GPT2Tokenizer]
behind: list[object] = [openglm.evaluate, openglm.finetune, openglm.pretrain]
print(openglm.RobertaTokenizer, openglm.__version__, kinds, str(filled), filled.to_dict(), scored.to_dict())
try:
    model.fill("a [MASK]", max_new_token=3)  # the misspelt one
except (openglm.InputError, openglm.ContextLengthError, openglm.OptionError, openglm.UnsupportedBlankError) as error:
    print(error, openglm.ConfigError, openglm.CheckpointError, openglm.ModelNotFoundError, openglm.TokenizerError)
    raise openglm.DataError("x") from openglm.TrainingError("y")
"""
WRONG = next(i for i, line in enumerate(SCRIPT.splitlines(), 1) if "the misspelt one" in line)
ROOT = Path(__file__).parent.parent


def test_the_script_uses_every_public_name() -> None:
    missing = [name for name in openglm.__all__ if not re.search(rf"\b{name}\b", SCRIPT)]
    assert not missing


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        [sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--cache-dir={ROOT / '.mypy_cache'}"],
        ["pyright", f"--pythonpath={sys.executable}"],
    ],
    ids=["mypy", "pyright"],
)
def test_type_checkers_find_the_misspelt_option_and_nothing_else(command: list[str], tmp_path: Path) -> None:
    if command[0] == "pyright" and shutil.which("pyright") is None:
        pytest.skip("pyright is not installed")
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    environment = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "MYPYPATH": str(ROOT / "src")}
    if command[0] == "pyright":
        (tmp_path / "pyrightconfig.json").write_text(
            f'{{"extraPaths": ["{ROOT / "src"}"], "typeCheckingMode": "strict"}}'
        )
    done = subprocess.run([*command, str(script)], capture_output=True, text=True, cwd=tmp_path, env=environment)
    lines = {int(n) for n in re.findall(r"script\.py:(\d+):(?:\d+ -)? error", done.stdout)}
    assert lines == {WRONG}, done.stdout + done.stderr
