"""Experiment trackers, if installed: Weights & Biases and trackio, behind one small interface.

Nothing leaves the machine unless it was asked for: left to itself a run uses trackio, which
keeps its data on this machine, and Weights & Biases only where that is set up. A tracker that
fails is reported once and left out from then on; training goes on. Knows nothing about what
the numbers mean.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import OptionError, suggest
from ..files import write_atomically

PROJECT = "openglm"
TRACKERS = ("trackio", "wandb")
CHOICES = ("auto", "none", *TRACKERS)
IDENTITY = "tracking.json"  # in the folder of the run: under which id trackers know it


class Tracker:
    """One tracker of one run.

    Args:
        name: "trackio" or "wandb".
        module: the imported package.
        say: shows a line to the user.
    """

    def __init__(self, name: str, module: Any, say: Callable[[str], None]) -> None:
        self.name = name
        self._module, self._say = module, say
        self._alive = True

    def start(self, folder: Path, run_id: str, run_name: str, config: Mapping[str, Any]) -> None:
        """Begin the run, or go on with the one of this id."""
        common: dict[str, Any] = {"project": PROJECT, "config": dict(config), "resume": "allow"}
        if self.name == "wandb":
            self._guarded("init", **common, name=run_name, id=run_id, dir=str(folder))
        else:  # trackio knows runs by their names alone
            self._guarded("init", **common, name=f"{run_name}-{run_id[:6]}")

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Record the values of one step."""
        self._guarded("log", dict(values), step=step)

    def finish(self) -> None:
        """End the run."""
        self._guarded("finish")

    def _guarded(self, function: str, *args: Any, **kwargs: Any) -> None:
        if not self._alive:
            return
        try:
            # Trackers greet on standard output, which belongs to the results of a command.
            with contextlib.redirect_stdout(sys.stderr):
                getattr(self._module, function)(*args, **kwargs)
        except Exception as error:  # whatever a service or its client can raise
            self._alive = False
            self._say(f"{self.name} failed ({type(error).__name__}: {error}); the run goes on without it")


def choose_trackers(track: str, say: Callable[[str], None]) -> list[Tracker]:
    """The trackers that `track` asks for, imported but not started.

    Args:
        track: "none"; "wandb" or "trackio"; "auto": trackio if it is installed, and Weights &
            Biases if it is installed and set up (`WANDB_API_KEY` or `WANDB_MODE` is set, or
            `~/.netrc` names its host).
        say: shows a line to the user.

    Raises:
        OptionError: an unknown name, or a tracker asked for by name that is not installed.
    """
    if track not in CHOICES:
        raise OptionError(f"track must be one of {', '.join(CHOICES)}, not {track!r}.{suggest(track, CHOICES)}")
    if track == "none":
        return []
    named = track != "auto"
    wanted: Sequence[str] = (track,) if named else [n for n in TRACKERS if n != "wandb" or _wandb_is_set_up()]
    found = []
    for name in wanted:
        module = _imported(name)
        if module is not None:
            found.append(Tracker(name, module, say))
        elif named:
            raise OptionError(f"track {name!r} needs the package {name}, which is not usable here: pip install {name}")
    return found


def start_trackers(
    trackers: Sequence[Tracker], folder: Path, run_name: str, config: Mapping[str, Any], *, fresh: bool
) -> None:
    """Begin a run with all of them, or go on with the one that `folder` was tracked as.

    Args:
        fresh: the run starts at its first update; it gets an id of its own.
    """
    if trackers:
        run_id = _run_id(folder, fresh)
        for tracker in trackers:
            tracker.start(folder, run_id, run_name, config)


def _imported(name: str) -> Any:
    """The package, or None; a folder of that name in the working directory is not it."""
    try:
        module = importlib.import_module(name)
    except Exception:  # a broken installation raises anything
        return None
    return module if hasattr(module, "init") else None


def _wandb_is_set_up() -> bool:
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_MODE"):
        return True
    try:
        return "api.wandb.ai" in (Path.home() / ".netrc").read_text(encoding="utf-8", errors="replace")
    except (OSError, RuntimeError):  # no such file, no home
        return False


def _run_id(folder: Path, fresh: bool) -> str:
    path = folder / IDENTITY
    if not fresh:
        try:
            return str(json.loads(path.read_text(encoding="utf-8"))["id"])
        except (OSError, ValueError, TypeError, KeyError):
            pass  # never tracked before
    run_id = uuid.uuid4().hex[:16]
    write_atomically(path, (json.dumps({"id": run_id}) + "\n").encode())
    return run_id
