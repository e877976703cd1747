"""Pickled weights: what is let through, and what is written without `torch.save`."""

from __future__ import annotations

import os
import random
import zipfile
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from openglm.checkpoints.pickles import PickleFile, PickleWriter, load_pickle
from openglm.checkpoints.weights import TensorInfo
from openglm.errors import CheckpointError


def infos_of(state: dict[str, torch.Tensor]) -> dict[str, TensorInfo]:
    return {name: TensorInfo(tuple(tensor.shape), tensor.dtype) for name, tensor in state.items()}


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    shapes = {"a": (3, 5), "b.weight": (7,), "c": (2, 1, 4), "large": (300, 40)}
    dtypes = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
    return {name: torch.randn(shape).to(dtype) for (name, shape), dtype in zip(shapes.items(), dtypes, strict=True)}


@pytest.mark.parametrize("mmap", [True, False])
def test_torch_reads_what_is_written(tmp_path: Path, state: dict[str, torch.Tensor], mmap: bool) -> None:
    path = tmp_path / "weights.bin"
    with PickleWriter(path, infos_of(state), lambda table: {"module": table, "iteration": 5, "names": {"x"}}) as writer:
        for name, tensor in state.items():
            writer.write(name, tensor.T if name == "none" else tensor)
    content = torch.load(path, weights_only=True, mmap=mmap)
    assert content["iteration"] == 5
    assert content["names"] == {"x"}
    assert list(content["module"]) == list(state)
    for name, tensor in state.items():
        assert content["module"][name].dtype == tensor.dtype
        assert torch.equal(content["module"][name], tensor)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None, "check sums hold"
        for entry in archive.infolist():
            if "/data/" in entry.filename:
                assert archive_offset(path, entry) % 64 == 0, "tensors can be mapped"


def archive_offset(path: Path, entry: zipfile.ZipInfo) -> int:
    with path.open("rb") as file:
        file.seek(entry.header_offset + 26)
        lengths = [int.from_bytes(file.read(2), "little") for _ in range(2)]
    return entry.header_offset + 30 + sum(lengths)


def test_writing_converts_and_straightens(tmp_path: Path) -> None:
    path, tensor = tmp_path / "weights.bin", torch.randn(4, 6).T
    with PickleWriter(path, {"x": TensorInfo((6, 4), torch.float16)}) as writer:
        writer.write("x", tensor)
    assert torch.equal(torch.load(path, weights_only=True)["x"], tensor.half())


def test_writing_other_than_announced(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    with pytest.raises(ValueError, match="announced"), PickleWriter(tmp_path / "w", infos_of(state)) as writer:
        writer.write("c", state["c"])
    with pytest.raises(ValueError, match="announced"), PickleWriter(tmp_path / "w", infos_of(state)) as writer:
        writer.write("a", state["c"])
    with pytest.raises(ValueError, match="not written"), PickleWriter(tmp_path / "w", infos_of(state)) as writer:
        writer.write("a", state["a"])


@pytest.mark.parametrize("archive", [True, False])
def test_states_of_generators_do_not_hinder(tmp_path: Path, archive: bool) -> None:
    """What the original training code stores beside the weights."""
    path = tmp_path / "mp_rank_00_model_states.pt"
    content = {
        "module": OrderedDict(x=torch.ones(2, 2)),
        "iteration": 17,
        "random_rng_state": random.getstate(),
        "np_rng_state": np.random.get_state(),
        "torch_rng_state": torch.get_rng_state(),
        "csr_tensor_module_names": {"embedding"},
        "lr_scheduler": {"decay_style": "cosine"},
        "losses": np.zeros(3, np.float32),
    }
    torch.save(content, path, _use_new_zipfile_serialization=archive)
    file = PickleFile(path)
    assert torch.equal(file.read("x"), torch.ones(2, 2))
    assert file.notes == {"iteration": 17}
    file.release()
    assert torch.equal(file.read("x"), torch.ones(2, 2)), "it is opened again"


class Calls:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize(
    ("harmful", "named"),
    [
        (Calls(os.system, "touch executed"), "system"),
        (Calls(eval, "open('executed', 'w')"), r"builtins\.eval"),
        (Calls(np.fromfile, "executed"), "numpy"),
        (Calls(getattr, "text", "upper"), "getattr"),
        (Path("executed"), "pathlib"),
    ],
)
def test_everything_else_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harmful: object, named: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "weights.bin"
    torch.save({"module": {"x": torch.ones(2)}, "optimizer": harmful}, path)
    with pytest.raises(CheckpointError, match=rf"weights\.bin: refused.*{named}"):
        load_pickle(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["weights.bin"]


def test_nothing_stays_allowed(tmp_path: Path) -> None:
    torch.save({"x": torch.ones(2)}, tmp_path / "weights.bin")
    before = set(torch.serialization.get_safe_globals())  # torch gives them in no order
    load_pickle(tmp_path / "weights.bin")
    assert set(torch.serialization.get_safe_globals()) == before


@pytest.mark.parametrize(
    "content", [None, 3, [], {}, {"module": {}}, {"x": 3}, [torch.ones(2)], {"module": {"x": "y"}}]
)
def test_no_table_of_weights(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "weights.bin")
    with pytest.raises(CheckpointError, match="no table of weights"):
        PickleFile(tmp_path / "weights.bin")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("archive", [True, False])
def test_damaged_bytes_never_get_through(tmp_path: Path, archive: bool) -> None:
    """Either the damage lies inside a tensor or it is an error of ours; never another one."""
    path = tmp_path / "weights.bin"
    torch.save({f"w{i}": torch.randn(2, 3) for i in range(4)}, path, _use_new_zipfile_serialization=archive)
    whole = path.read_bytes()
    rng, refused = random.Random(4), 0
    for _ in range(150):
        content = bytearray(whole)
        for _ in range(rng.randrange(1, 4)):
            content[rng.randrange(len(content))] = rng.randrange(256)
        path.write_bytes(content[: rng.choice([len(content), rng.randrange(len(content))])])
        with suppress(CheckpointError):
            PickleFile(path)
            continue
        refused += 1
    assert refused > 50
