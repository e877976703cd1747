"""What two processes do together; `test_distributed.py` starts this with torchrun.

    python -m torch.distributed.run --nproc-per-node 2 tests/training/two_processes.py FOLDER

FOLDER holds `recipe.json`, a tokenizer, the shard `shard/`, and a run of one process in
`parts/`, stopped after two updates. Every process checks what it sees; a failed check ends it
with a traceback, and torchrun with an error.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from openglm.data.shards import Shard
from openglm.data.stream import Source
from openglm.errors import TrainingError
from openglm.pretraining.pretrainer import Trainer
from openglm.pretraining.recipe import Recipe
from openglm.tokenizer import load_tokenizer
from openglm.training.muon import Muon
from openglm.training.parallel import Processes
from openglm.training.state import states


def check_small_talk(processes: Processes) -> None:
    assert processes.sum([1.0, processes.rank]) == [2.0, 1.0]
    assert processes.by_first(lambda: f"said by {processes.rank}") == "said by 0"
    assert processes.agree("") == ""
    assert processes.agree("full" if processes.rank else "") == "full"

    def refuse() -> None:
        raise TrainingError("no")

    with pytest.raises(TrainingError, match=r"^no$"):  # the error of the first process is everyone's
        processes.by_first(refuse)


def check_muon(processes: Processes) -> None:
    """Matrices whose rows or whose number cannot be halved, too."""
    from torch.distributed.tensor import Shard as Rows
    from torch.distributed.tensor import distribute_tensor

    generator = torch.Generator().manual_seed(4)
    shapes = [(6, 4), (5, 3), (6, 4), (1, 4), (6, 4), (4, 9), (4, 9)]
    plain = [torch.randn(shape, generator=generator, requires_grad=True) for shape in shapes]

    def shared(tensor: torch.Tensor) -> Any:
        return distribute_tensor(tensor.detach().clone(), processes.mesh, [Rows(0)])

    spread = [shared(weight).requires_grad_() for weight in plain]
    optimizers = [Muon(weights, lr=0.05, weight_decay=0.1) for weights in (plain, spread)]
    for _ in range(3):
        for a, b in zip(plain, spread, strict=True):
            a.grad = torch.randn(a.shape, generator=generator)
            b.grad = shared(a.grad)
        for optimizer in optimizers:
            optimizer.step()
    for a, b in zip(plain, spread, strict=True):
        torch.testing.assert_close(b.full_tensor(), a, rtol=1e-5, atol=1e-6)


def check_full_disk(trainer: Trainer, folder: Path) -> None:
    """One process cannot write: none goes on, and nothing is lost."""
    from torch.distributed.checkpoint import filesystem

    before = sorted(folder.rglob("*"))
    original = filesystem.FileSystemWriter.write_data

    def fail(*args: Any, **kwargs: Any) -> Any:
        if trainer.processes.rank == 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(*args, **kwargs)

    filesystem.FileSystemWriter.write_data = fail  # type: ignore[method-assign]
    try:
        with pytest.raises(TrainingError, match=r"(?s)No space left.*is intact|is intact.*No space left"):
            trainer.loop.save()
    finally:
        filesystem.FileSystemWriter.write_data = original  # type: ignore[method-assign]
    trainer.processes.wait()
    assert sorted(folder.rglob("*")) == before


def check_training(processes: Processes, folder: Path) -> None:
    """Goes on from the state of one process, is asked to stop, goes on, and ends."""
    recipe = Recipe.from_dict(json.loads((folder / "recipe.json").read_text()))
    tokenizer = load_tokenizer(folder)
    source = Source("text", Shard.open(folder / "shard", tokenizer), 1.0)

    def trainer() -> Trainer:
        return Trainer(recipe, tokenizer, [source], [source], folder / "parts", processes=processes)

    first = trainer()
    original = first.loop._gradient

    def gradient(*args: Any) -> Any:
        if first.done == 3 and processes.rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)  # to one of them
        return original(*args)

    first.loop._gradient = gradient  # type: ignore[method-assign]
    assert not first.run()
    assert first.done == 4, "both stop after the same update"
    assert states(folder / "parts")[0][1].name == "state-00000004"
    check_full_disk(first, folder / "parts")
    for parameter in first.model.parameters():
        assert parameter.device_mesh.mesh_dim_names == ("data",)  # type: ignore[attr-defined]
        assert parameter.to_local().numel() < parameter.numel()  # type: ignore[attr-defined]
    second = trainer()
    assert second.run()
    assert (second.done, processes.first) == (recipe.run.steps, second.report is not None)


def main() -> None:
    processes = Processes.join("cpu")
    assert processes.count == 2
    check_small_talk(processes)
    check_muon(processes)
    check_training(processes, Path(sys.argv[1]))
    processes.leave()


if __name__ == "__main__":
    main()
