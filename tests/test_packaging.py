"""What is built from the repository holds all of it, and a wheel works with nothing of the checkout beside it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BACKEND = "import sys, setuptools.build_meta as b; print(b.build_{kind}(sys.argv[1]))"
LEFT_OUT = {".git", ".venv", "venv", "build", "dist", "runs", "site", "__pycache__"}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkout, copied: builds leave files in it."""
    pytest.importorskip("setuptools", "77", reason="building needs setuptools 77: pip install 'setuptools>=77'")
    target = tmp_path_factory.mktemp("packaging") / "openglm"

    def ignored(folder: str, names: list[str]) -> set[str]:
        return {name for name in names if name in LEFT_OUT or name.endswith((".egg-info", "_cache"))}

    return Path(shutil.copytree(ROOT, target, ignore=ignored))


def built(copy: Path, kind: str) -> Path:
    out = copy.parent / kind
    out.mkdir()
    code = BACKEND.format(kind=kind)
    done = subprocess.run([sys.executable, "-c", code, str(out)], cwd=copy, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (made,) = out.iterdir()
    return made


def test_the_source_distribution_is_whole(copy: Path) -> None:
    with tarfile.open(built(copy, "sdist")) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = [
        "LICENSE",
        "CHANGELOG.md",
        "constraints.txt",
        "mkdocs.yml",
        "src/openglm/recipes/mini.yaml",
        "docs/reference.md",
    ]
    wanted += [path.relative_to(copy).as_posix() for path in copy.glob("compat/flagai/src/**/*.py")]
    wanted += [path.relative_to(copy).as_posix() for path in copy.glob("tests/**/*.py")]
    wanted += [path.relative_to(copy).as_posix() for path in copy.glob("src/openglm/**/*") if path.is_file()]
    wanted = [name for name in wanted if "__pycache__" not in name and ".egg-info" not in name]
    assert len(wanted) > 300
    assert not set(wanted) - names


def test_a_wheel_fills_a_blank_alone(copy: Path, tmp_path: Path) -> None:
    wheel = built(copy, "wheel")
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(site)]
    subprocess.run([*install, str(wheel)], check=True)
    code = (
        "import openglm; print(openglm.__file__)\n"
        "print(openglm.load(device='cpu').fill('Paris is the [MASK] of France.').text)"
    )
    env = {**os.environ, "PYTHONPATH": str(site), "PYTHONUTF8": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=elsewhere, capture_output=True, text=True, env=env,
                          check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    where, text = done.stdout.splitlines()
    assert Path(where).is_relative_to(site)
    assert text.startswith("Paris is the ")
    assert text.endswith(" of France.")
