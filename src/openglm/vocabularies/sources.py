"""Where a vocabulary comes from: a file, or the content of one already read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import TokenizerError

Source = bytes | str | Path  # content, or the path of a file


def read_source(source: Source) -> tuple[bytes, str]:
    """The content, and what to call it in messages.

    Raises:
        TokenizerError: no such file, it cannot be read, or it only points to the file meant.
    """
    content, name = (source, "the vocabulary file") if isinstance(source, bytes) else _read(Path(source))
    if content.startswith(b"version https://git-lfs"):
        raise TokenizerError(f"{name}: only a Git LFS pointer, not the file itself; fetch it with `git lfs pull`")
    return content, name


def _read(path: Path) -> tuple[bytes, str]:
    try:
        return path.read_bytes(), str(path)
    except FileNotFoundError as error:
        raise TokenizerError(f"{path}: no such vocabulary file") from error
    except OSError as error:
        raise TokenizerError(f"{path}: cannot be read ({error.strerror or error})") from error


def read_lines(source: Source) -> tuple[list[str], str]:
    """The lines of a text file, without their ends, and what to call it.

    Raises:
        TokenizerError: not readable, empty, or not UTF-8 text.
    """
    content, name = read_source(source)
    text = _text(content, name)
    # Not splitlines: a vocabulary may hold characters that it takes for ends of lines.
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return lines if lines[-1] else lines[:-1], name


def read_json(source: Source) -> tuple[Any, str]:
    """A JSON file, and what to call it.

    Raises:
        TokenizerError: not readable, empty, or not JSON.
    """
    content, name = read_source(source)
    try:
        return json.loads(_text(content, name)), name
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"{name}: not JSON, or cut short ({error}); copy or download it again") from error


def _text(content: bytes, name: str) -> str:
    if not content:
        raise TokenizerError(f"{name}: empty; copy or download it again")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{name}: not UTF-8 text (byte {error.start}); copy or download it again") from error
