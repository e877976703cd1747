"""`--engine ray` on this machine: the lines of the plain command, also after a worker has died."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from openglm.errors import OptionError
from openglm.integrations.parts import begin, plan
from openglm.integrations.ray import connect, run_parts

ray = pytest.importorskip("ray", reason="needs Ray: pip install '.[ray]'")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    ray.init(num_cpus=2, include_dashboard=False, logging_level="warning")
    yield ray
    ray.shutdown()


def command(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "openglm", *map(str, arguments)]
    return subprocess.run(line, cwd=cwd, capture_output=True, text=True, encoding="utf-8", check=False)


def test_the_lines_are_those_of_the_plain_command(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    rows = [{"id": i, "text": f"{i} men and [MASK] women came."} for i in range(6)]
    (source / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (source / "b.jsonl").write_text('{"text": "no blank"}\n' + json.dumps(rows[0]) + "\n")
    options = ["--max-new-tokens", "4", "--temperature", "0.8", "--seed", "3"]
    for name in ("a", "b"):
        command("fill", "--input", f"in/{name}.jsonl", "--output", f"plain/{name}.jsonl", *options, cwd=tmp_path)
    shared = ["fill", "--input", "in", "--output", "out", "--engine", "ray", "--workers", "1", *options]
    done = command(*shared, cwd=tmp_path)
    assert done.returncode == 1, done.stderr  # one line has no blank
    for name in ("a", "b"):
        assert (tmp_path / f"out/{name}.jsonl").read_bytes() == (tmp_path / f"plain/{name}.jsonl").read_bytes()
    (tmp_path / "out/b.jsonl").unlink()
    again = command(*shared, cwd=tmp_path)
    assert "1 of 2 parts were done before" in again.stderr
    assert (tmp_path / "out/b.jsonl").read_bytes() == (tmp_path / "plain/b.jsonl").read_bytes()
    other = command(*shared, "--top-k", "3", cwd=tmp_path)
    assert other.returncode == 2
    assert "other inputs or options" in other.stderr


class DiesOnce:
    """Work that kills its worker in the middle of its first part."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __call__(self) -> Any:
        def work(source: Path, target: Path) -> int:
            target.write_text("half")
            if not self.marker.exists():
                self.marker.touch()
                os._exit(1)
            target.write_bytes(source.read_bytes())
            return 0

        return work


def test_a_worker_that_dies_has_its_part_done_again(cluster: Any, tmp_path: Path) -> None:
    lines = [f"line {i}\n" for i in range(50)]
    (tmp_path / "a.txt").write_text("".join(lines))
    parts = plan(str(tmp_path / "a.txt"), str(tmp_path / "out"), part_bytes=100)
    left = begin(str(tmp_path / "out"), parts, {})
    done = list(run_parts(DiesOnce(tmp_path / "died"), left, workers=1))
    assert sorted(target for target, _, _ in done) == sorted(part.target for part in parts)
    assert (tmp_path / "died").exists()
    assert "".join(Path(part.target).read_text() for part in parts) == "".join(lines)


def test_a_cluster_that_is_not_there() -> None:
    if ray.is_initialized():
        ray.shutdown()
    with pytest.raises(OptionError, match="no Ray cluster can be reached at"):
        connect("127.0.0.1:1")


def test_what_does_not_go_together(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("{}\n")
    for arguments, message in [
        (["fill", "x [MASK]", "--engine", "ray"], "no texts"),
        (["fill", "--input", "a.jsonl", "--engine", "ray"], "a folder"),
        (["fill", "--input", "a.jsonl", "--output", "o", "--engine", "ray", "--workers", "0"], "--workers"),
        (["fill", "--input", "gone", "--output", "o", "--engine", "ray"], "gone"),
    ]:
        done = command(*arguments, cwd=tmp_path)
        assert done.returncode == 2
        assert message in done.stderr
