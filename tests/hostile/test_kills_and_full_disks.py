"""Every command that writes, killed at any moment and on a disk that fills: old or new, never half, never stuck.

The limit of a process's files stands in for the end of the disk; where a small file system can
be mounted, that is used as well.
"""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from openglm.checkpoints.resolve import open_checkpoint

from .attempts import attempt_outside

pytestmark = pytest.mark.slow

TASK = 'kind: choice\npatterns: ["{text:shorten} [MASK]"]\nverbalizer: {a: found, b: sold}\n'
RECIPE = """model: {num_layers: 1, hidden_size: 32, num_attention_heads: 2, vocab_size: 640, max_sequence_length: 64}
run: {steps: 40, stages: [{share: 1.0, rows: 2, length: 64}], precision: fp32, evaluate_every: 20, save_every: 5, \
workers: 0}
"""


@dataclass(frozen=True)
class Writing:
    """A command that writes.

    Attributes:
        line: the command; {model} and {out} stand for the model and the place written.
        out: the place, a file or a folder.
        replaces: whether it replaces whatever file is there.
    """

    line: str
    out: str
    replaces: bool = False


COMMANDS: Mapping[str, Writing] = {
    "fill": Writing("fill --input in.jsonl --model {model} --output {out} --max-new-tokens 2", "out.jsonl", True),
    "choose": Writing(
        "choose --input in.jsonl --choice found --choice sold --model {model} --output {out}", "o.jsonl", True
    ),
    "predict": Writing("predict task.yaml in.jsonl --model {model} --output {out}", "out.jsonl", True),
    "eval": Writing("eval perplexity=corpus.txt --model {model} --output {out}", "r.json"),
    "convert": Writing("convert {model} {out} --to flagai", "converted"),
    "prepare": Writing("data prepare corpus.txt --tokenizer {model} --output {out} --workers 0", "shard"),
    "tokenizer": Writing("tokenizer train --group 100000 corpus.txt --vocab-size 560 --output {out}", "vocabulary"),
    "pretrain": Writing("pretrain recipe.yaml --data corpus.txt --tokenizer {model} --output {out}", "run"),
    "finetune": Writing(
        "finetune cloze train.jsonl --task task.yaml --model {model} --output {out} --steps 6 --set run.batch_size=4",
        "tuned",
    ),
}


@pytest.fixture
def place(scratch: Path, text_lines: list[str]) -> Path:
    """A folder with an input of every kind."""
    prepare(scratch, text_lines)
    return scratch


def prepare(folder: Path, text_lines: list[str]) -> None:
    rows = [{"id": i, "text": f"{line} [MASK]"} for i, line in enumerate(text_lines[:300])]
    (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    labelled = [{"text": line, "label": "ab"[i % 2]} for i, line in enumerate(text_lines[:16])]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in labelled), encoding="utf-8")
    (folder / "corpus.txt").write_text("\n\n".join(text_lines), encoding="utf-8")
    (folder / "task.yaml").write_text(TASK)
    (folder / "recipe.yaml").write_text(RECIPE)


def words_of(writing: Writing, model: Path, out: Path | str | None = None) -> list[str]:
    return writing.line.format(model=model, out=out or writing.out).split()


def whole(name: str, out: Path) -> bool:
    """Whether what lies at the place is complete."""
    if name in ("fill", "choose", "predict"):
        records = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
        return [record["id"] for record in records] == list(range(300)) and not any("error" in r for r in records)
    if name == "eval":
        return bool(json.loads(out.read_text(encoding="utf-8"))["results"])
    if name in ("convert", "pretrain", "finetune"):
        open_checkpoint(out / "model" if name != "convert" else out)
    return any(out.iterdir())


@pytest.mark.parametrize("name", COMMANDS)
def test_killed_at_any_moment(place: Path, model: Path, name: str) -> None:
    """An old file stays until the new one is whole; the same command then does it all."""
    writing, rng = COMMANDS[name], random.Random(name)
    out = place / writing.out
    is_file = writing.replaces
    if is_file:
        out.write_text("old")
    started = time.monotonic()
    attempt_outside(words_of(writing, model, place / "first"), place)
    takes = time.monotonic() - started
    for _ in range(4):
        running = subprocess.Popen(
            [sys.executable, "-m", "openglm", *words_of(writing, model)],
            cwd=place, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            running.wait(takes * rng.uniform(0.3, 1.0))
        except subprocess.TimeoutExpired:
            os.killpg(running.pid, signal.SIGKILL)
            running.wait()
        if is_file:
            assert out.read_text(encoding="utf-8") == "old" or whole(name, out)
    found = attempt_outside(words_of(writing, model), place)
    # What is finished already is not made again.
    assert found.code == 0 or "already" in found.err
    assert whole(name, out)
    assert not [each for each in place.iterdir() if each.name.startswith(f".{writing.out}") and is_file]


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("limit", [0, 2_000, 20_000])
def test_a_disk_that_is_full(place: Path, model: Path, name: str, limit: int) -> None:
    writing = COMMANDS[name]
    out = place / writing.out
    if writing.replaces:
        out.write_text("old")

    def fill_up() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    found = attempt_outside(words_of(writing, model), place, before=fill_up)
    if found.code == 0:
        assert whole(name, out)  # it needed no more
        return
    assert found.code in (1, 2), found.err
    if writing.replaces:
        assert out.read_text() == "old"
        assert "cannot be written" in found.err
    assert attempt_outside(words_of(writing, model), place).code == 0, "it goes on once there is room"
    assert whole(name, out)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_small_file_system(place: Path, model: Path, name: str, small_disk: Path) -> None:
    writing = COMMANDS[name]
    (small_disk / "theirs").write_bytes(bytes(180_000))
    found = attempt_outside(words_of(writing, model, small_disk / writing.out), place)
    if found.code:
        assert "No space left" in found.err or "cannot be written" in found.err, found.err
    else:
        assert whole(name, small_disk / writing.out)
    assert (small_disk / "theirs").read_bytes() == bytes(180_000)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_place_that_is_read_only(place: Path, model: Path, name: str) -> None:
    if os.geteuid() == 0:
        (place / "closed").mkdir()
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", "closed"], cwd=place, capture_output=True)
        if mounted.returncode:
            pytest.skip("no file system can be mounted here")
    else:
        (place / "closed").mkdir(mode=0o500)
    writing = COMMANDS[name]
    try:
        found = attempt_outside(words_of(writing, model, place / "closed" / writing.out), place)
    finally:
        if os.geteuid() == 0:
            subprocess.run(["umount", "closed"], cwd=place, check=True)
    assert found.code == 2
    assert "Read-only" in found.err or "Permission denied" in found.err
