"""`openglm models`: what can be loaded."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from ..checkpoints.find import DEFAULT_NAME, EMBEDDED, cached_folder
from ..checkpoints.published import PUBLISHED
from ..network.config import GLMConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--json", action="store_true", help="print JSON Lines, for machines")


def rows() -> list[dict[str, Any]]:
    """One entry per model: the embedded one, then the published ones."""
    values = json.loads((EMBEDDED / "config.json").read_text(encoding="utf-8"))
    sizes = {field.name for field in dataclasses.fields(GLMConfig)}  # beside them stands what other tools look for
    config = GLMConfig.from_dict({name: value for name, value in values.items() if name in sizes})
    entries = [_row(DEFAULT_NAME, [], config, "zh, en", "openglm", EMBEDDED)]
    for model in PUBLISHED:
        folder = cached_folder(model)
        entry = _row(model.name, list(model.aliases), model.config, model.language, model.vocabulary, folder)
        entries.append({**entry, "special_tokens": dict(model.special_tokens), "hub": model.hub})
    return entries


def _row(
    name: str, aliases: list[str], config: GLMConfig, language: str, vocabulary: str, folder: Path | None
) -> dict[str, Any]:
    return {
        "name": name,
        "aliases": aliases,
        "parameters": config.num_parameters,
        "context": config.max_sequence_length,
        "language": language,
        "vocabulary": vocabulary,
        "blanks": list(config.blanks),
        "path": None if folder is None else str(folder),
    }


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    entries = rows()
    if args.json:
        for entry in entries:
            print(json.dumps(entry, ensure_ascii=False))
        return 0
    header = ("NAME", "SIZE", "CONTEXT", "TEXT", "FILLS", "WHERE", "ALSO CALLED")
    table = [header] + [
        (
            entry["name"],
            f"{entry['parameters'] / 1e6:,.0f}M",
            str(entry["context"]),
            entry["language"],
            " ".join(entry["blanks"]),
            entry["path"] or "not on this machine",
            ", ".join(entry["aliases"]),
        )
        for entry in entries
    ]
    widths = [max(len(line[i]) for line in table) for i in range(len(header) - 1)]
    for line in table:
        print("  ".join([*(cell.ljust(width) for cell, width in zip(line, widths, strict=False)), line[-1]]).rstrip())
    return 0
