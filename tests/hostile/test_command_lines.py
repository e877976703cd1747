"""Command lines that nobody should write: every option of every command with values that make no sense.

Names of files are relative and stay in a scratch folder. `serve` is left out: it would wait for requests.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from openglm.cli.completion import _parsers
from openglm.cli.main import build_full_parser

from .attempts import attempt, listing

VALUES = (
    "", " ", "-", "0", "-1", "-0", "1.5", "nan", "inf", "-inf", "1e400", "1e-46", "9" * 30, "2147483648", "0x10",
    "\u0661", "true", "null", "{}", "[]", "[MASK]", "[MASK] [sMASK] [gMASK]", "a=b", "a.b=c", "=", "--", "--help",
    "x" * 5000, "文" * 300, "n\x00ul", "\udcff", "\ud800", "a\nb", "%s %d %n", "*", "missing.jsonl", "missing/deep.csv",
    "old.txt", "link", "pipe-name", "text.jsonl", "cpu", "mps", "xla", "meta", "cuda:99", "float16", "int8", "int4",
)  # fmt: skip
LEFT_OUT = {"serve", "completion"}
# What would take long where a value happens to make sense.
SHORT = {"pretrain": ["--max-seconds", "0.5"], "finetune": ["--max-seconds", "0.5"], "bench": ["--tokens", "1"]}


def commands() -> Iterator[tuple[tuple[str, ...], argparse.ArgumentParser]]:
    for path, parser in _parsers(build_full_parser()):
        leaf = not any(isinstance(action, argparse._SubParsersAction) for action in parser._actions)
        if path and leaf and path[0] not in LEFT_OUT:
            yield path, parser


def command_line(rng: random.Random, path: tuple[str, ...], parser: argparse.ArgumentParser, model: str) -> list[str]:
    """A command with up to four options, some of them with a value that fits its place."""
    out = [*path]
    options = [action for action in parser._actions if action.option_strings and action.dest != "help"]
    for action in parser._actions:
        if not action.option_strings:
            out += [rng.choice(["old.txt", "text.jsonl", "recipe.yaml", rng.choice(VALUES)])]
    for action in rng.sample(options, min(len(options), rng.randint(0, 4))):
        out.append(rng.choice(action.option_strings))
        if action.nargs != 0:
            out.append(rng.choice(VALUES))
    if any(action.dest == "model" for action in options):
        out += ["--model", model if rng.random() < 0.8 else rng.choice(VALUES)]
    if any(action.dest == "max_new_tokens" for action in options) and "--max-new-tokens" not in out:
        out += ["--max-new-tokens", "2"]
    return [*out, *SHORT.get(path[0], [])]


def attack(scratch: Path, model: Path, seed: int, count: int) -> None:
    (scratch / "old.txt").write_text("old [MASK]\n")
    (scratch / "text.jsonl").write_text('{"text": "a [MASK]", "sentence": "b", "label": "yes"}\n')
    (scratch / "recipe.yaml").write_text("model: {num_layers: 1}\n")
    (scratch / "link").symlink_to("old.txt")
    inputs = {"old.txt", "text.jsonl", "recipe.yaml", "link"}
    before = listing(scratch)
    rng = random.Random(seed)
    known = list(commands())
    assert len(known) > 10
    for _ in range(count):
        path, parser = rng.choice(known)
        line = command_line(rng, path, parser, str(model))
        attempt(line)
        written = {line[i + 1] for i, each in enumerate(line[:-1]) if each in ("--output", "--out")}
        for name in inputs - written - ({"old.txt"} if "link" in written else set()):
            assert listing(scratch)[name] == before[name], f"{line} changed {name}"
    left = [name for name in listing(scratch) if ".openglm-part" in name or name.endswith(".part")]
    assert not left


@pytest.mark.usefixtures("no_curves")
def test_some_command_lines(scratch: Path, model: Path) -> None:
    attack(scratch, model, seed=1, count=60)


@pytest.mark.exhaustive
@pytest.mark.usefixtures("no_curves")
@pytest.mark.parametrize("seed", range(2, 6))
def test_many_command_lines(scratch: Path, model: Path, seed: int) -> None:
    attack(scratch, model, seed=seed, count=300)
