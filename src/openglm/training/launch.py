"""Who started this process and beside which others: torchrun, Slurm's srun, or nobody.

Knows environment variables; nothing about torch.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass

from ..errors import TrainingError

FIRST_PORT, PORTS = 29_500, 10_000  # where the processes of a Slurm job meet, by the job's number


@dataclass(frozen=True)
class Launch:
    """This process among those started with it.

    Attributes:
        rank: its number.
        local: its number on this machine.
        count: of processes.
    """

    rank: int = 0
    local: int = 0
    count: int = 1


def launch_of(environment: MutableMapping[str, str] | None = None) -> Launch:
    """The processes that torchrun or srun started, or this one alone.

    Of a job step of srun the variables that torch meets by (`MASTER_ADDR`, `RANK` and others) are
    filled in where they are not set.

    Raises:
        TrainingError: variables that are no numbers, or contradict each other.
    """
    env = os.environ if environment is None else environment
    if "RANK" not in env and _number(env, "SLURM_STEP_NUM_TASKS", 1) > 1:
        _from_slurm(env)
    if "RANK" not in env:
        return Launch()
    found = Launch(_number(env, "RANK", 0), _number(env, "LOCAL_RANK", 0), _number(env, "WORLD_SIZE", 1))
    if not 0 <= found.rank < found.count:
        raise TrainingError(
            f"RANK is {found.rank} and WORLD_SIZE {found.count}: not processes that were started together; "
            "start them with torchrun or srun"
        )
    return found


def _from_slurm(env: MutableMapping[str, str]) -> None:
    nodes = env.get("SLURM_STEP_NODELIST") or env.get("SLURM_JOB_NODELIST", "")
    values = {
        "RANK": env.get("SLURM_PROCID", ""),
        "LOCAL_RANK": env.get("SLURM_LOCALID", "0"),
        "WORLD_SIZE": env["SLURM_STEP_NUM_TASKS"],
        "MASTER_ADDR": first_node(nodes),
        "MASTER_PORT": str(FIRST_PORT + _number(env, "SLURM_JOB_ID", 0) % PORTS),
    }
    missing = [name for name, value in values.items() if not value]
    if missing:
        raise TrainingError(f"this Slurm step does not say {', '.join(missing)}; set them, or start with torchrun")
    for name, value in values.items():
        env.setdefault(name, value)


def first_node(nodes: str) -> str:
    """The first name of a Slurm list of nodes.

    Example:
        >>> first_node("gpu[003-006,9],login1")
        'gpu003'
    """
    match = re.match(r"([^,\[]+)(?:\[([^\],-]+)[^\]]*\])?", nodes)
    return "" if match is None else match[1] + (match[2] or "")


def _number(env: Mapping[str, str], name: str, default: int) -> int:
    text = env.get(name, str(default))
    try:
        return int(text)
    except ValueError as error:
        raise TrainingError(f"the environment variable {name} must be a number, not {text!r}") from error
