"""What every hostile attempt must come to: an exit code, a short named error, nothing internal, nothing lost."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from openglm.cli.main import main

NEVER = ("Traceback", "internal error", "Exception ignored", "Fatal Python error")
LONGEST = 4000  # characters of a message


@dataclass(frozen=True)
class Outcome:
    """Exit code and what was said."""

    code: int
    out: str
    err: str


def attempt(arguments: Sequence[str]) -> Outcome:
    """Run a command in this process and check what any attempt must come to."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            code = main(list(arguments))
        except SystemExit as stop:
            code = int(str(stop.code))
    return checked(arguments, Outcome(code, out.getvalue(), err.getvalue()))


def attempt_outside(
    arguments: Sequence[str], folder: Path, *, before: Callable[[], None] | None = None, env: Mapping[str, str] = {}
) -> Outcome:
    """Run a command in a process of its own, in a folder."""
    done = subprocess.run(
        [sys.executable, "-m", "openglm", *arguments],
        cwd=folder,
        capture_output=True,
        preexec_fn=before,
        env={**os.environ, **env},
        timeout=300,
        check=False,
    )
    said = Outcome(done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace"))
    return checked(arguments, said)


def checked(arguments: Sequence[str], outcome: Outcome) -> Outcome:
    """What no attempt may come to."""
    shown = f"{[each[:80] for each in arguments]}: {outcome.code} {outcome.err[:1500]}"
    assert outcome.code in (0, 1, 2), shown
    assert not any(words in outcome.err for words in NEVER), shown
    assert all(len(line) < LONGEST for line in outcome.err.splitlines()), shown
    if outcome.code == 2:
        assert "openglm: error: " in outcome.err, shown
    return outcome


def listing(folder: Path) -> dict[str, bytes | str]:
    """What lies in a folder: content by path."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else "folder"
        for path in sorted(folder.rglob("*"))
    }
