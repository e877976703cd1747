"""Training state on disk: weights, optimizers, step and random generators of a run.

A state is one file, `state-<step>.pt`, written to a temporary name, synced and renamed;
the newest readable one is resumed from, older ones are removed once a newer is safe.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import TrainingError
from ..files import replacing

_NAME = re.compile(r"state-(\d+)\.pt$")
KEEP = 2


def states(folder: Path) -> list[tuple[int, Path]]:
    """(step, path) of the states in a run folder, newest first."""
    found = [(int(m.group(1)), path) for path in folder.glob("state-*.pt") if (m := _NAME.search(path.name))]
    return sorted(found, reverse=True)


def save_state(
    folder: Path, step: int, model: nn.Module, optimizers: list[torch.optim.Optimizer], extra: dict[str, Any]
) -> Path:
    """Write the state after update `step`, then drop all but the newest `KEEP`."""
    for left_over in folder.glob(".state-*.part"):  # of a run that was killed while saving
        left_over.unlink(missing_ok=True)
    path = folder / f"state-{step:08d}.pt"
    payload = {
        "step": step,
        "model": model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "rng": torch.get_rng_state(),
        "extra": extra,
    }
    with replacing(path) as part:
        torch.save(payload, part)
    for _, old in states(folder)[KEEP:]:
        old.unlink(missing_ok=True)
    return path


def load_state(
    folder: Path, model: nn.Module, optimizers: list[torch.optim.Optimizer]
) -> tuple[int, dict[str, Any]] | None:
    """Restore the newest state into model and optimizers; (step, extra), or None if there is none.

    Raises:
        TrainingError: the state does not belong to this model or cannot be read.
    """
    found = states(folder)
    if not found:
        return None
    path = found[0][1]
    try:
        payload = torch.load(path, map_location="cpu", weights_only=True)
        model.load_state_dict(payload["model"])
        for optimizer, saved in zip(optimizers, payload["optimizers"], strict=True):
            # The recipe may have been given new rates since; they win over the saved ones.
            peaks = [group["peak_lr"] for group in optimizer.param_groups]
            optimizer.load_state_dict(saved)
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["peak_lr"] = peak
        torch.set_rng_state(payload["rng"])
    except Exception as error:
        raise TrainingError(
            f"{path}: cannot be resumed from ({error}); remove it to resume from the one before, "
            "or give another --output"
        ) from error
    return int(payload["step"]), payload["extra"]
