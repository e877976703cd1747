"""Modules and functions stay short enough to be read in one sitting, ruff counts their branches; names are unique."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import openglm

PACKAGE = Path(openglm.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
MODULE_LINES, FUNCTION_LINES = 400, 50


def lengths(source: str) -> Iterator[tuple[str, int]]:
    """Every function with the lines of its body; signature and docstring say what it is for and cost nothing."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            yield node.name, node.end_lineno - body[0].lineno + 1 if body else 0  # type: ignore[operator]


def test_lengths_are_counted() -> None:
    source = 'def f(\n    a: int,\n) -> int:\n    """Two\n\n    lines."""\n    return a\n'
    source += "class C:\n    async def g(self): ...\n"
    assert dict(lengths(source)) == {"f": 1, "g": 1}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_and_functions_are_short(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert source.count("\n") <= MODULE_LINES
    assert {name: lines for name, lines in lengths(source) if lines > FUNCTION_LINES} == {}


def test_a_class_has_a_name_of_its_own() -> None:
    """Of two classes with one name a reader must ask which is meant. The two architectures mirror each other."""
    mirrored = {"network/modern.py"}
    places: dict[str, list[str]] = {}
    for path in MODULES:
        where = path.relative_to(PACKAGE).as_posix()
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and where not in mirrored:
                places.setdefault(node.name, []).append(where)
    assert len(places) > 200
    assert {name: where for name, where in places.items() if len(where) > 1} == {}
