"""Imports point one way, and looking at the package costs little."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import openglm

PACKAGE = Path(openglm.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))


def loaded_after(statement: str) -> set[str]:
    """Top-level modules that a fresh Python holds after one statement."""
    code = f"{statement}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_importing_the_package_is_light() -> None:
    heavy = {"torch", "transformers", "sentencepiece", "safetensors", "tokenizers", "zstandard", "yaml"}
    assert not loaded_after("import openglm") & heavy


@pytest.mark.parametrize(
    "module",
    [
        "errors",
        "files",
        "blanks",
        "layouts",
        "batches",
        "tokenizer",
        "network.config",
        "data.addresses",
        "data.corpus",
        "data.shards",
        "data.spans",
        "data.stream",
        "data.text_stream",
        "data.tokenize",
        "data.tokenizer_training",
        "data.writer",
    ],
)
def test_text_and_data_need_no_torch(module: str) -> None:
    assert not loaded_after(f"import openglm.{module}") & {"torch", "transformers"}


def imported_by(path: Path) -> set[str]:
    """Absolute names of everything a file imports, inside functions too."""
    names: set[str] = set()
    package = ["openglm", *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, node.module] if node.module else base)
            names.update({source, *(f"{source}.{alias.name}" for alias in node.names)})
    return names


def test_all_modules_are_looked_at() -> None:
    assert {"model.py", "blanks.py", "loop.py"} <= {path.name for path in MODULES}
    assert "torch.nn" in imported_by(PACKAGE / "network/model.py")
    assert "openglm.network.model.GLMModel" in imported_by(PACKAGE / "pretraining" / "pretrainer.py")


INTEGRATION = PACKAGE / "integrations" / "transformers"  # the one room that may import transformers


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_transformers_is_imported_by_its_integration_alone(path: Path) -> None:
    if INTEGRATION in path.parents:
        return
    assert not [name for name in imported_by(path) if name.startswith("openglm.integrations.transformers")]
    assert not [name for name in imported_by(path) if name.partition(".")[0] == "transformers"]
    assert "import_module('transformers" not in path.read_text(encoding="utf-8").replace('"', "'")


# The rooms from the bottom up: each knows only rooms of the rows above it here.
FLOORS = (
    ("errors",),
    ("files", "extras", "markdown"),
    ("checks",),
    ("blanks", "network"),
    ("layouts", "vocabularies"),
    ("batches", "tokenizer"),
    ("tensors",),
    ("engine", "data", "scoring", "checkpoints"),
    ("infill", "tasks"),
    ("reporting",),
    ("training",),
    ("pretraining", "finetuning"),
    ("evaluation", "serve"),
    ("integrations",),
    ("cli",),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
FACE = ("__init__.py", "__main__.py")  # the package's own two files hand names on

# What single modules promise beyond their room's floor.
FORBIDDEN = {
    "errors.py": ("openglm.",),
    "files.py": ("torch", "numpy"),
    "blanks.py": ("torch", "openglm.network", "openglm.layouts"),
    "layouts.py": ("torch", "openglm.network"),
    "batches.py": ("torch", "openglm.vocabularies", "openglm.network"),
    "network/config.py": ("torch", "numpy", "openglm.network.model"),
    "network/attention.py": ("openglm.network.model",),
    "network/cache.py": ("openglm.network.model",),
    "network": ("openglm.blanks", "openglm.layouts"),
    "data": ("torch", "openglm.network"),
    "vocabularies": ("torch", "openglm.network"),
}


def rooms_of(path: Path) -> set[str]:
    """The rooms, other than its own, that a module of the package imports from."""
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    inside = {name.split(".")[1] for name in imported_by(path) if name.startswith("openglm.")}
    return {room for room in inside - {own} if room in FLOOR or (PACKAGE / room).is_dir()}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_rooms_know_only_rooms_below(path: Path) -> None:
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if path.parent == PACKAGE and path.name in FACE:
        return
    assert room in FLOOR, f"{room} has no floor; give it one"
    upward = {other for other in rooms_of(path) if FLOOR.get(other, 99) >= FLOOR[room]}
    assert not upward, f"{path.relative_to(PACKAGE)} imports from {sorted(upward)}, which are not below {room}"


@pytest.mark.parametrize("part", FORBIDDEN)
def test_modules_keep_their_promises(part: str) -> None:
    target = PACKAGE / part
    files = [target] if target.is_file() else sorted(target.rglob("*.py"))
    assert files, f"{part} is gone; change this list"
    for path in files:
        for name in imported_by(path):
            for forbidden in FORBIDDEN[part]:
                stem = forbidden.rstrip(".")
                inside = name.startswith(stem + ".") or (name == stem and not forbidden.endswith("."))
                assert not inside, f"{path.relative_to(PACKAGE)} imports {name}"
