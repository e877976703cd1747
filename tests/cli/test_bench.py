"""`openglm bench` as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

SHORT = ["--tokens", "2", "--context", "8,16", "--batch", "1,3", "--threads", "1"]
RUN = [sys.executable, "-m", "openglm", "bench", *SHORT]


def run(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*RUN, *options], capture_output=True, text=True, check=False)


def test_every_measurement_stands_beside_its_ceiling() -> None:
    done = run("--json")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["name"] for line in lines] == [
        f"{what} {rest}"
        for context in (8, 16)
        for what, rest in (
            ("read", f"{context} tokens"),
            ("decode", f"1 x 1 token after {context}"),
            ("decode", f"3 x 1 token after {context}"),
        )
    ]
    for line in lines:
        assert line["share"] == pytest.approx(line["rate"] / line["ceiling"])
        assert line["unit"] == ("op/s" if line["name"].startswith("read") else "B/s")
        assert line["tokens_per_second"] > 0


def test_for_people() -> None:
    done = run("--dtype", "float32")
    assert done.returncode == 0, done.stderr
    first, header, *rows = done.stdout.splitlines()
    assert "M weights in float32, 1 threads" in first
    assert header.split() == ["ms", "tokens/s", "rate", "ceiling", "share"]
    assert len(rows) == 6
    assert all(row.endswith(" %") for row in rows)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--context", "600"], "600"),
        (["--context", "0"], "above 0"),
        (["--batch", "x"], "'x'"),
        (["--threads", "0"], "from 1 to"),
        (["--quantize", "int2"], "int2"),
    ],
)
def test_bad_options(options: list[str], named: str) -> None:
    done = run(*options)
    assert done.returncode == 2
    assert named in done.stderr
    assert "Traceback" not in done.stderr
