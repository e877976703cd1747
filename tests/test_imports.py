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
        "config",
        "files",
        "blanks",
        "batches",
        "tokenizer",
        "tokenizer_training",
        "pretraining.addresses",
        "pretraining.corpus",
        "pretraining.shards",
        "pretraining.spans",
        "pretraining.stream",
        "pretraining.text_stream",
        "pretraining.tokenise",
        "pretraining.writer",
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
    assert "torch.nn" in imported_by(PACKAGE / "model.py")
    assert "openglm.model.GLMModel" in imported_by(PACKAGE / "training" / "pretrainer.py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_transformers_is_never_imported(path: Path) -> None:
    assert not [name for name in imported_by(path) if name.partition(".")[0] == "transformers"]
    assert "import_module('transformers" not in path.read_text(encoding="utf-8").replace('"', "'")


# Who must not know whom: each line is what the docstrings of these modules promise.
FORBIDDEN = {
    "errors.py": ("openglm.",),
    "files.py": ("openglm.", "torch", "numpy"),
    "config.py": ("torch", "numpy", "openglm.model", "openglm.tokenizer", "openglm.checkpoints"),
    "blanks.py": ("torch", "openglm.tokenizer", "openglm.model", "openglm.batches"),
    "batches.py": ("torch", "openglm.tokenizer", "openglm.model"),
    "tokenizer.py": ("torch", "openglm.model", "openglm.pretraining", "openglm.training"),
    "tensors.py": ("openglm.model", "openglm.tokenizer", "openglm.pretraining", "openglm.infill"),
    "attention.py": ("openglm.model", "openglm.tokenizer", "openglm.blanks"),
    "cache.py": ("openglm.model", "openglm.tokenizer", "openglm.blanks"),
    "model.py": ("openglm.tokenizer", "openglm.blanks", "openglm.pretraining", "openglm.infill", "openglm.checkpoints"),
    "pretraining": ("torch", "openglm.model", "openglm.training", "openglm.infill", "openglm.cli"),
    "training": ("openglm.infill", "openglm.cli"),  # but for EXCEPTIONS
    "quantization.py": ("openglm.infill", "openglm.checkpoints", "openglm.blanks"),
    "vocabularies": ("torch", "openglm.model", "openglm.pretraining", "openglm.checkpoints", "openglm.infill"),
    "cloze": ("openglm.infill", "openglm.training", "openglm.finetuning", "openglm.evaluation", "openglm.cli"),
    "infill": (
        "openglm.training",
        "openglm.pretraining",
        "openglm.finetuning",
        "openglm.evaluation",
        "openglm.serve",
        "openglm.cli",
    ),
    "finetuning": ("openglm.serve", "openglm.cli"),
    "evaluation": ("openglm.serve", "openglm.cli"),
    "serve": ("openglm.training", "openglm.finetuning", "openglm.evaluation", "openglm.cli"),
    "checkpoints": ("openglm.training", "openglm.pretraining", "openglm.infill", "openglm.cli"),
}

# Training shows what the model writes; infilling is a finished room that one module looks into.
EXCEPTIONS = {"training/fills.py": "openglm.infill"}


@pytest.mark.parametrize("part", FORBIDDEN)
def test_imports_point_one_way(part: str) -> None:
    target = PACKAGE / part
    files = [target] if target.is_file() else sorted(target.rglob("*.py"))
    assert files, f"{part} is gone; change this list"
    for path in files:
        allowed = EXCEPTIONS.get(path.relative_to(PACKAGE).as_posix())
        for name in imported_by(path):
            for forbidden in set(FORBIDDEN[part]) - {allowed}:
                stem = forbidden.rstrip(".")
                inside = name.startswith(stem + ".") or (name == stem and not forbidden.endswith("."))
                assert not inside, f"{path.relative_to(PACKAGE)} imports {name}"
