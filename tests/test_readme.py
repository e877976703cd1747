"""What the READMEs show is what happens."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(name: str) -> list[tuple[str, str]]:
    return FENCE.findall((ROOT / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["README.md", "README_zh.md"])
def test_commands_print_what_is_shown(name: str) -> None:
    """The last command of each console line that is openglm's own, with the output below it."""
    shown = 0
    for kind, content in blocks(name):
        if kind != "console":
            continue
        for entry in re.split(r"^\$ ", content, flags=re.MULTILINE)[1:]:
            line, output = entry.split("\n", 1)
            command = shlex.split(line.split("&& ")[-1])
            if command[0] != "openglm":
                continue
            done = subprocess.run(
                [sys.executable, "-m", *command], capture_output=True, text=True, encoding="utf-8", check=True
            )
            assert done.stdout == output
            shown += 1
    assert shown


@pytest.mark.parametrize("name", ["README.md", "README_zh.md"])
def test_python_prints_what_is_shown(name: str) -> None:
    found = blocks(name)
    index = next(i for i, (kind, _) in enumerate(found) if kind == "python")
    code, (kind, expected) = found[index][1], found[index + 1]
    assert kind == "text"
    done = subprocess.run([sys.executable, "-X", "utf8", "-c", code], capture_output=True, text=True, encoding="utf-8",
                          check=True)  # fmt: skip
    assert done.stdout == expected


def test_both_languages_show_the_same_code() -> None:
    assert blocks("README.md") == blocks("README_zh.md")


def test_links_lead_somewhere() -> None:
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md")]
    links = 0
    for page in pages:
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
            links += 1
    assert links > 5
