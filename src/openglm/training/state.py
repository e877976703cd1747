"""Training state on disk: all that a run needs to go on as if it had never stopped.

A state is `state-<step>.pt`, one file, or of a run of several processes `state-<step>`, a
folder. Both hold the same tensors under the same names, so a run may go on with another
number of processes. Both are written to a temporary name, synced and renamed; the newest
`KEEP` are kept, and one that cannot be read is passed over for the one before.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO

import torch
from torch import Tensor, nn

from ..errors import TrainingError
from ..files import lock_file, sync_folder
from .parallel import Processes
from .state_formats import (
    Meta,
    OpenState,
    Shape,
    UnreadableError,
    open_file,
    open_folder,
    remove,
    write_file,
    write_folder,
)

KEEP = 2
UNREADABLE = "unreadable-"  # what the name of a state that was passed over begins with
LOCK = ".lock"  # of a run folder
TENSORS = "tensors"  # in the plain values: a digest of the names of all tensors
_NAME = re.compile(r"state-(\d{8,})(\.pt)?")

Optimizers = Sequence[torch.optim.Optimizer]


def states(folder: Path) -> list[tuple[int, Path]]:
    """(step, path) of the states in a run folder, newest first."""
    if not folder.is_dir():
        return []
    found = [(int(m.group(1)), path) for path in folder.iterdir() if (m := _NAME.fullmatch(path.name))]
    return sorted(found, reverse=True)


def sweep(folder: Path) -> None:
    """Remove what a run that was killed while writing left in its folder and its model folder."""
    for left_over in (*folder.glob(".*.part"), *folder.glob("model/.*.part")):
        remove(left_over)


def lock(folder: Path) -> IO[bytes]:
    """Keep a second run out of a folder until the file returned is closed, or this process ends.

    Raises:
        TrainingError: another process trains there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = (folder / LOCK).open("ab")
    # Not inherited: data workers that outlive a killed run for a moment do not hold it.
    if not lock_file(file, inherited=False):
        file.close()
        raise TrainingError(
            f"{folder}: another process is training in this folder; wait for it to end, or give another --output"
        )
    return file


def save_state(
    folder: Path, step: int, model: nn.Module, optimizers: Optimizers, meta: Meta, processes: Processes
) -> Path:
    """Write the state after update `step`, then drop all but the newest `KEEP`; all processes call it.

    Args:
        meta: plain values, as JSON holds them.

    Raises:
        TrainingError: it cannot be written; earlier states are as they were.
    """
    tensors = _named_tensors(model, optimizers)
    meta = {**meta, TENSORS: _digest(tensors)}
    path = folder / (f"state-{step:08d}.pt" if processes.count == 1 else f"state-{step:08d}")
    problem = ""
    try:
        if processes.first:
            sweep(folder)
        if processes.count == 1:
            write_file(path, meta, tensors)
        else:
            write_folder(path, meta, tensors, processes)
    except (OSError, RuntimeError) as error:
        problem = str(error).strip().split("\n")[0]
    problem = processes.agree(problem)
    if problem:
        if processes.first:
            sweep(folder)
        raise TrainingError(_not_written(path, problem))
    if processes.first:
        _drop_old(folder, path)
    return path


def _named_tensors(model: nn.Module, optimizers: Optimizers) -> dict[str, Tensor]:
    """Every tensor of a run: `model.NAME`, and `optimizer.KEY.NAME` for each weight."""
    out: dict[str, Tensor] = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for optimizer in optimizers:
        for parameter, values in optimizer.state.items():
            out |= {f"optimizer.{k}.{names[id(parameter)]}": v for k, v in values.items() if isinstance(v, Tensor)}
    return out


def _not_written(path: Path, problem: str) -> str:
    try:
        room = f"{shutil.disk_usage(path.parent).free / 2**30:.1f} GiB are free there"
    except OSError:
        room = "the disk may be full"
    kept = states(path.parent)
    last = f"the last state, {kept[0][1].name}, is intact" if kept else "there is no earlier state"
    return f"{path}: cannot be written ({problem}); {room}, {last}. Make room, then the same command goes on"


def _drop_old(folder: Path, newest: Path) -> None:
    found = states(folder)
    step = next(number for number, path in found if path == newest)
    twins = [path for number, path in found if number == step and path != newest]  # of the other form
    older = [path for _, path in found if path not in twins][KEEP:]
    for path in (*twins, *older):
        remove(path)
    sync_folder(folder)


def load_state(
    folder: Path,
    model: nn.Module,
    optimizers: Optimizers,
    processes: Processes,
    *,
    check: Callable[[Path, Meta], None] = lambda path, meta: None,
    say: Callable[[str], None] = lambda text: None,
    set_aside: bool = True,
) -> tuple[Path, Meta] | None:
    """Restore the newest readable state into model and optimizers; all processes call it.

    The rates of the optimizers stay what they are.

    Args:
        check: raises if the state must not be used; called before anything changes.
        say: is told of states that cannot be read; the one before is used.
        set_aside: rename states that cannot be read.

    Returns:
        The state and its plain values; None if there is no state.

    Raises:
        TrainingError: no state can be read, or the newest one belongs to another model.
    """
    found = processes.by_first(lambda: states(folder))
    for _, path in found:
        try:
            opened = open_folder(path, processes) if path.is_dir() else open_file(path)
            problem = ""
        except UnreadableError as error:
            problem = str(error)
        problem = processes.agree(problem)
        if not problem:
            check(path, opened.meta)
            problem = processes.agree(_restore(path, opened, model, optimizers))
        if not problem:
            return path, {name: value for name, value in opened.meta.items() if name != TENSORS}
        say(f"{path} CANNOT BE READ ({problem}); the state before it is used")
        if set_aside and processes.first:
            _set_aside(path)
    if found:
        now = f", they are now called {UNREADABLE}..." if set_aside else ""
        raise TrainingError(
            f"{folder}: none of its states can be read ({problem}){now}; "
            "copy a good one there, or give another --output to start anew"
        )
    return None


def _set_aside(path: Path) -> None:
    aside = path.with_name(f"{UNREADABLE}{path.name}")
    remove(aside)
    path.rename(aside)


def _restore(path: Path, opened: OpenState, model: nn.Module, optimizers: Optimizers) -> str:
    """Fill model and optimizers; the reason why that is not possible, if it is not."""
    here: dict[str, Tensor] = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    _compare(path, {name: tuple(tensor.shape) for name, tensor in here.items()}, opened.shapes)
    weights = dict(model.named_parameters())
    fresh: dict[str, Tensor] = {}
    try:
        _check_whole(opened)
        names = {id(weight): name for name, weight in weights.items()}
        for optimizer in optimizers:
            _check_alike(optimizer, names, opened.shapes)
        for name, shape in opened.shapes.items() if optimizers else ():
            if name.startswith("optimizer."):
                weight = _weight_of(name, weights)
                fresh[name] = torch.zeros_like(weight) if shape == tuple(weight.shape) else torch.zeros(shape)
        with torch.no_grad():
            opened.fill({**here, **fresh})
    except UnreadableError as error:
        return str(error)
    for optimizer in optimizers:
        _fill(optimizer, names, fresh)
    return ""


def _check_whole(opened: OpenState) -> None:
    """Refuse a state that lacks tensors it was written with, or has others."""
    told = opened.meta.get(TENSORS)  # absent in states of earlier versions
    if told is not None and told != _digest(opened.shapes):
        raise UnreadableError("tensors it was written with are missing, or others were added")


def _check_alike(optimizer: torch.optim.Optimizer, names: Mapping[int, str], shapes: Iterable[str]) -> None:
    """Refuse a state in which an optimizer lacks values of some of its weights that it has of others."""
    own = {names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]}
    keys: dict[str, set[str]] = {}
    for name in shapes:
        kind, _, rest = name.partition(".")
        key, _, weight = rest.partition(".")
        if kind == "optimizer" and weight in own:
            keys.setdefault(weight, set()).add(key)
    known = set().union(*keys.values())
    for weight, found in keys.items():
        if found != known:
            raise UnreadableError(f"the optimizer's {', '.join(sorted(known - found))} of {weight} is missing")


def _digest(names: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()


def _weight_of(name: str, weights: Mapping[str, Tensor]) -> Tensor:
    weight = name.split(".", 2)[-1]
    if weight not in weights:
        raise UnreadableError(f"it holds {name}, but there is no such weight")
    return weights[weight]


def _fill(optimizer: torch.optim.Optimizer, names: Mapping[int, str], tensors: Mapping[str, Tensor]) -> None:
    by_weight: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        _, key, weight = name.split(".", 2)
        by_weight.setdefault(weight, {})[key] = tensor.detach()
    weights = [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]
    # The format of optimizers: weights by their number. Rates and the like are those of now.
    saved = {number: by_weight[name] for number, name in enumerate(weights) if name in by_weight}
    optimizer.load_state_dict({"state": saved, "param_groups": optimizer.state_dict()["param_groups"]})


def _compare(path: Path, here: Mapping[str, Shape], there: Mapping[str, Shape]) -> None:
    names = [*here, *(name for name in there if name.startswith("model."))]
    for name in dict.fromkeys(names):
        if here.get(name) != there.get(name):
            first, second = (list(shapes[name]) if name in shapes else "missing" for shapes in (there, here))
            raise TrainingError(
                f"{path}: of another model: {name.removeprefix('model.')} is {first} there and {second} here; "
                "go on with the recipe it was made with, or give another --output"
            )
