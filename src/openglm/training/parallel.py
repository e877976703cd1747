"""The processes of one run: which of them this is, and what they do together.

A run alone in its process is the plain case and imports nothing more. Several processes
are started by torchrun, one per GPU, or several on a CPU:

    python -m torch.distributed.run --nproc-per-node 8 -m openglm pretrain RECIPE
    srun --ntasks-per-node 8 openglm pretrain RECIPE        # in a Slurm job of any number of nodes

They share out the batches of every update, and hold a part of every weight, gradient and
optimizer state each (FSDP). Small numbers, such as counts, travel between the hosts (gloo),
so that no GPU is waited for; weights and gradients between GPUs (NCCL).
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from ..errors import OpenGLMError, TrainingError
from .launch import launch_of

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

T = TypeVar("T")

MOMENT = 0.2  # seconds
_exchanged: deque[Tensor] = deque(maxlen=4)  # kept, so that gloo's threads are not the last to hold them

LOST = "another process of this run ended; its own message says why. The same command goes on from the last state"


@dataclass(frozen=True)
class Processes:
    """This process among those of its run.

    Attributes:
        device: where this process computes.
        rank: its number; process 0 writes the files of the run.
        count: of processes.
        mesh: of devices, with the dimension "data". Tensor parallelism would be a second one.
    """

    device: torch.device
    rank: int = 0
    count: int = 1
    mesh: DeviceMesh | None = None

    @classmethod
    def join(cls, device: str = "auto") -> Processes:
        """The processes that torchrun or srun started, or this one alone.

        Args:
            device: "auto", or what torch calls a device. Several processes take a GPU each.

        Raises:
            TrainingError: a device that is not there, or more processes than GPUs.
        """
        launch = launch_of()
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        chosen = _device(device, launch.local if launch.count > 1 else None)
        if launch.count == 1:
            return cls(chosen)
        return cls(chosen, launch.rank, launch.count, _start_group(chosen, launch.count))

    def leave(self) -> None:
        """End the conversation; to be called once all is done."""
        if self.count == 1:
            return
        self.wait()
        # gloo's threads may still hold what was exchanged last, and a thread that lets go of
        # it while Python shuts down brings the process down with it: they get a moment.
        time.sleep(MOMENT)
        torch.distributed.destroy_process_group()

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and talks to the user."""
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """The sum over all processes of each value; all of them must ask. Waits for all."""
        if self.count == 1:
            return [float(value) for value in values]
        summed = torch.tensor(values, dtype=torch.float64)
        _exchanged.append(summed)
        with _lost_peers():
            torch.distributed.all_reduce(summed)
        out: list[float] = summed.tolist()
        return out

    def wait(self) -> None:
        """Until all processes are here."""
        self.sum([0.0])

    def by_first(self, action: Callable[[], T]) -> T:
        """What `action` returns in the first process, where alone it is done; its errors too."""
        if self.count == 1:
            return action()
        box: list[Any] = [None, None]
        if self.first:
            try:
                box[0] = action()
            except OpenGLMError as error:
                box[1] = error
        with _lost_peers():
            torch.distributed.broadcast_object_list(box)
        if box[1] is not None:
            raise box[1]
        out: T = box[0]
        return out

    def agree(self, problem: str) -> str:
        """The problems of all processes in one text, empty if none has any; all must ask."""
        if self.count == 1:
            return problem
        found: list[Any] = [None] * self.count
        with _lost_peers():
            torch.distributed.all_gather_object(found, problem)
        return "; ".join(dict.fromkeys(text for text in found if text))

    def check_shares(self, accumulate: int) -> None:
        """Whether the batches of an update can be shared out evenly.

        Raises:
            TrainingError: they cannot; says what to set.
        """
        if accumulate % self.count:
            fitting = -(-accumulate // self.count) * self.count
            raise TrainingError(
                f"the {accumulate} batches of an update (run.accumulate) cannot be shared out among "
                f"{self.count} processes; set run.accumulate to {fitting}, or use another number of processes"
            )

    def share_out(self, root: nn.Module, parts: Iterable[nn.Module]) -> None:
        """Leave each process its rows of every weight (FSDP); alone: put all on the device.

        Each of `parts` is gathered for its own forward and backward pass, what else `root`
        holds for the whole of one. Gradients are summed over the processes.
        """
        if self.mesh is None:
            root.to(self.device)
            return
        from torch.distributed.fsdp import fully_shard

        for module in (*parts, root):
            # Gathered again for the backward pass, the root too: between passes, also those
            # of an evaluation, every weight is in its rows.
            sharded = fully_shard(module, mesh=self.mesh["data"], reshard_after_forward=True)
            sharded.set_gradient_divide_factor(1.0)
            sharded.set_force_sum_reduction_for_comms(True)

    def whole_weights(self, model: nn.Module) -> dict[str, Tensor] | None:
        """All weights on the host in the first process, None in the others; all must ask."""
        out: dict[str, Tensor] = {}
        for name, tensor in model.state_dict().items():
            whole = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
            if self.first:
                out[name] = whole.detach().cpu()
        return out if self.first else None


def _device(name: str, local: int | None) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise TrainingError(f"device {name!r} is unknown; use cpu, cuda or cuda:0") from error
    if device.type == "cuda":
        available = torch.cuda.device_count()
        if local is not None and device.index is not None:
            raise TrainingError(f"several processes take a GPU each; say cuda, not {name}")
        index = (local if local is not None else device.index) or 0
        if index >= available:
            raise TrainingError(
                f"there is no GPU number {index}: torch sees {available}; use --device cpu, or start fewer processes"
            )
        torch.cuda.set_device(index)
        return torch.device("cuda", index)
    if local is not None and device.type != "cpu":
        raise TrainingError(f"several processes train on cpu or cuda, not on {name}")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().split("\n")[0]
        raise TrainingError(f"device {name!r} cannot be used here ({reason})") from error
    return device


def _start_group(device: torch.device, count: int) -> DeviceMesh:
    from torch.distributed.device_mesh import init_device_mesh

    try:
        if device.type == "cuda":
            torch.distributed.init_process_group("cpu:gloo,cuda:nccl", device_id=device)
        else:
            torch.distributed.init_process_group("gloo")
            # torch says that on a CPU it deals out tensors by a detour; nobody can do anything about it.
            logging.getLogger("torch.distributed.tensor._collective_utils").setLevel(logging.ERROR)
    except (RuntimeError, ValueError) as error:
        raise TrainingError(
            f"the {count} processes of this run could not find each other ({error}); start them with torchrun"
        ) from error
    return init_device_mesh(device.type, (count,), mesh_dim_names=("data",))


@contextmanager
def _lost_peers() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise TrainingError(LOST) from error
