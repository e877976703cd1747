"""Settings of what is saved beside a network (adapter, prompt, head): JSON that names its format."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..files import write_atomically


def write_settings(path: Path, form: str, values: Mapping[str, Any]) -> None:
    """Write plain values, the file complete or not at all."""
    text = json.dumps({"format": form, **values}, indent=2, ensure_ascii=False)
    write_atomically(path, (text + "\n").encode())


def read_settings(path: Path, form: str) -> dict[str, Any]:
    """The values that `write_settings` wrote.

    Raises:
        OSError, ValueError: not readable, or not of this format.
    """
    values: Any = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(values, dict) or values.pop("format", None) != form:
        raise ValueError(f"no {form} file")
    return values
