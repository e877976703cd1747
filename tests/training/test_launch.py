"""Who started a process: torchrun, srun, or nobody; by environment variables alone."""

from __future__ import annotations

import pytest

from openglm.errors import TrainingError
from openglm.training.launch import Launch, first_node, launch_of

STEP = {
    "SLURM_STEP_NUM_TASKS": "16",
    "SLURM_PROCID": "9",
    "SLURM_LOCALID": "1",
    "SLURM_JOB_ID": "1234567",
    "SLURM_STEP_NODELIST": "gpu[003-006]",
}


def test_alone() -> None:
    assert launch_of({}) == Launch(0, 0, 1)
    assert launch_of({"SLURM_NTASKS": "16", "SLURM_PROCID": "0"}) == Launch(0, 0, 1), "a batch script is no job step"
    assert launch_of({**STEP, "SLURM_STEP_NUM_TASKS": "1"}) == Launch(0, 0, 1)


def test_torchrun() -> None:
    given = {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4"}
    assert launch_of(given) == Launch(3, 1, 4)
    assert launch_of({**STEP, **given}) == Launch(3, 1, 4), "inside a job step torchrun wins"


def test_srun() -> None:
    """Every process of a step finds the same place to meet."""
    places = set()
    for rank in range(16):
        environment = {**STEP, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank % 8)}
        assert launch_of(environment) == Launch(rank, rank % 8, 16)
        assert environment["RANK"] == str(rank)
        places.add((environment["MASTER_ADDR"], environment["MASTER_PORT"], environment["WORLD_SIZE"]))
    assert places == {("gpu003", "34067", "16")}


def test_what_is_set_is_kept() -> None:
    environment = {**STEP, "MASTER_ADDR": "head", "MASTER_PORT": "1"}
    launch_of(environment)
    assert (environment["MASTER_ADDR"], environment["MASTER_PORT"]) == ("head", "1")


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("gpu1", "gpu1"), ("gpu1,gpu2", "gpu1"), ("n[07-09,12]", "n07"), ("a[3],b", "a3"), ("x-y[1,5]", "x-y1"), ("", "")],
)
def test_the_first_node(nodes: str, first: str) -> None:
    assert first_node(nodes) == first


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"RANK": "4", "WORLD_SIZE": "4"}, "RANK is 4"),
        ({"RANK": "x", "WORLD_SIZE": "4"}, "RANK must be a number"),
        ({"RANK": "0", "WORLD_SIZE": "many"}, "WORLD_SIZE must be a number"),
        ({**STEP, "SLURM_STEP_NODELIST": ""}, "MASTER_ADDR"),
    ],
)
def test_what_contradicts_itself_is_named(environment: dict[str, str], named: str) -> None:
    with pytest.raises(TrainingError, match=named):
        launch_of(dict(environment))
