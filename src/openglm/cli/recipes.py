"""`openglm recipes`: the recipes that come with openglm."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("name", nargs="?", help="print this one, to make another of it")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from ..pretraining.recipe import Recipe, own_recipe, recipe_names

    if args.name is not None:
        print(own_recipe(args.name).read_text(encoding="utf-8"), end="")
        return 0
    for name in recipe_names():
        path = own_recipe(name)
        model = Recipe.read(path).model
        print(f"{name:8} {model.num_parameters / 1e6:6,.0f}M parameters  {_about(path)}")
    return 0


def _about(path: Path) -> str:
    """The first sentence of the comment that a recipe begins with."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").strip())
    return " ".join(lines).partition(". ")[0].partition("  ")[0].rstrip(".")
