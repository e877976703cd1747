"""States on disk: what they hold, and what happens to damaged, foreign and unfinished ones."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from openglm.errors import TrainingError
from openglm.network.config import GLMConfig
from openglm.network.model import GLMModel
from openglm.training import state_formats
from openglm.training.optim import OptimizerOptions, build_optimizers
from openglm.training.parallel import Processes
from openglm.training.state import KEEP, load_state, save_state, states

ALONE = Processes(torch.device("cpu"))


def trained(config: GLMConfig, *, name: str = "muon", updates: int = 2) -> tuple[GLMModel, list[torch.optim.Optimizer]]:
    model = GLMModel(config)
    optimizers = build_optimizers(model, OptimizerOptions(name=name))
    for _ in range(updates):
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        for optimizer in optimizers:
            optimizer.step()
    return model, optimizers


def everything(model: GLMModel, optimizers: list[torch.optim.Optimizer]) -> dict[str, Any]:
    out: dict[str, Any] = dict(model.state_dict())
    for number, optimizer in enumerate(optimizers):
        for index, values in optimizer.state_dict()["state"].items():
            out |= {f"{number} {index} {key}": value for key, value in values.items()}
    return {name: value.clone() for name, value in out.items()}


@pytest.fixture
def saved(tmp_path: Path, tiny_config: GLMConfig) -> Path:
    model, optimizers = trained(tiny_config)
    save_state(tmp_path, 5, model, optimizers, {"step": 5}, ALONE)
    return tmp_path


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_round_trip(tmp_path: Path, tiny_config: GLMConfig, name: str) -> None:
    model, optimizers = trained(tiny_config, name=name)
    meta = {"step": 5, "losses": [0.1, 1 / 3, 1e-300], "nested": {"text": "三"}}
    path = save_state(tmp_path, 5, model, optimizers, meta, ALONE)
    expected = everything(model, optimizers)
    other = trained(tiny_config, name=name, updates=1)
    assert load_state(tmp_path, *other, ALONE) == (path, meta)
    found = everything(*other)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert all(parameter.requires_grad for parameter in other[0].parameters())


def test_fresh_optimizers_are_filled(saved: Path, tiny_config: GLMConfig) -> None:
    """Those of a resumed run have not made any update and hold nothing yet."""
    model = GLMModel(tiny_config)
    optimizers = build_optimizers(model, OptimizerOptions(name="muon"))
    load_state(saved, model, optimizers, ALONE)
    assert all(len(optimizer.state) for optimizer in optimizers)
    steps = {float(values["step"]) for values in optimizers[0].state.values()}
    assert steps == {2.0}


def test_no_state_is_no_error(tmp_path: Path, tiny_model: GLMModel) -> None:
    assert load_state(tmp_path, tiny_model, [], ALONE) is None
    assert load_state(tmp_path / "nothing", tiny_model, [], ALONE) is None


def test_new_rates_win_over_saved_ones(saved: Path, tiny_config: GLMConfig) -> None:
    model = GLMModel(tiny_config)
    optimizers = build_optimizers(model, OptimizerOptions(name="muon", learning_rate=0.5, muon_learning_rate=0.25))
    load_state(saved, model, optimizers, ALONE)
    assert [[group["peak_lr"] for group in each.param_groups] for each in optimizers] == [[0.5, 0.5], [0.25]]


def test_old_states_and_left_overs_are_removed(saved: Path, tiny_config: GLMConfig) -> None:
    model, optimizers = trained(tiny_config)
    (saved / "model").mkdir()
    for name in (".state-00000004.pt.abc.part", ".log.jsonl.x.part", "model/.model.safetensors.y.part"):
        (saved / name).write_bytes(b"half")
    (saved / ".state-00000009.part").mkdir()
    for step in (6, 7, 100_000_000):
        save_state(saved, step, model, optimizers, {"step": step}, ALONE)
    assert [step for step, _ in states(saved)] == [100_000_000, 7][:KEEP]
    assert len(list(saved.iterdir())) == KEEP + 1, "nothing but the states and the model folder"
    assert not list((saved / "model").iterdir())


# --- damage ----------------------------------------------------------------------------


def truncate(kept: float) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        content = path.read_bytes()
        path.write_bytes(content[: int(kept * len(content))])

    return damage


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


class Bomb:
    """Touches a file when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("exploded"),)


def plant_a_bomb(path: Path) -> None:
    path.write_bytes(pickle.dumps(Bomb(), protocol=2))


def plant_a_packed_bomb(path: Path) -> None:
    torch.save({"format": state_formats.FORMAT, "meta": Bomb(), "tensors": {}}, path)


def rewritten(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        payload = torch.load(path, weights_only=True)
        change(payload)
        torch.save(payload, path)

    return damage


def without(beginning: str) -> Callable[[Path], None]:
    """Of the first tensor whose name begins so there is nothing left."""

    def change(payload: dict[str, Any]) -> None:
        tensors = payload["tensors"]
        del tensors[next(name for name in tensors if name.startswith(beginning))]

    return rewritten(change)


def of_an_earlier_version(damage: Callable[[Path], None]) -> Callable[[Path], None]:
    """The same to a state that does not say which tensors it has."""

    def both(path: Path) -> None:
        rewritten(lambda payload: payload["meta"].pop("tensors"))(path)
        damage(path)

    return both


DAMAGE = [
    without("optimizer.exp_avg."),
    without("optimizer.momentum_buffer."),
    of_an_earlier_version(without("optimizer.exp_avg.")),
    rewritten(lambda payload: payload.pop("meta")),
    rewritten(lambda payload: payload.update(meta=7)),
    rewritten(lambda payload: payload.pop("tensors")),
    rewritten(lambda payload: payload["tensors"].update(more=torch.zeros(1))),
    truncate(0.0),
    truncate(0.001),
    truncate(0.5),
    truncate(0.99),
    flip_a_bit,
    plant_a_bomb,
    plant_a_packed_bomb,
]


@pytest.mark.parametrize("damage", DAMAGE)
def test_the_state_before_takes_over(
    saved: Path, tiny_config: GLMConfig, damage: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(saved)
    model, optimizers = trained(tiny_config, updates=3)
    damage(save_state(saved, 8, model, optimizers, {"step": 8}, ALONE))
    said: list[str] = []
    other = trained(tiny_config)
    restored = load_state(saved, *other, ALONE, say=said.append)
    assert restored == (saved / "state-00000005.pt", {"step": 5})
    assert len(said) == 1
    assert "state-00000008.pt" in said[0]
    assert [step for step, _ in states(saved)] == [5]
    assert (saved / "unreadable-state-00000008.pt").exists(), "kept, in case someone can mend it"
    assert not (saved / "exploded").exists()


@pytest.mark.parametrize("damage", DAMAGE)
def test_without_a_readable_state_nothing_starts_anew(
    saved: Path, tiny_config: GLMConfig, damage: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(saved)
    damage(saved / "state-00000005.pt")
    with pytest.raises(TrainingError, match="none of its states"):
        load_state(saved, *trained(tiny_config), ALONE)
    assert not (saved / "exploded").exists()


def test_states_of_another_format_are_named(saved: Path, tiny_config: GLMConfig) -> None:
    torch.save({"step": 3, "model": {}}, saved / "state-00000009.pt")
    with pytest.raises(TrainingError, match=r"state-00000009\.pt.*version"):
        load_state(saved, *trained(tiny_config), ALONE)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"num_layers": 3}, r"transformer\.layers\.2.*missing there"),
        ({"num_layers": 1}, r"transformer\.layers\.1.*missing here"),
        ({"vocab_size": 1024}, r"word_embeddings\.weight is \[640, 32\] there and \[1024, 32\] here"),
    ],
)
def test_a_state_of_another_model_is_refused(
    saved: Path, tiny_config: GLMConfig, change: dict[str, int], named: str
) -> None:
    model, optimizers = trained(dataclasses.replace(tiny_config, **change))
    before = everything(model, optimizers)
    with pytest.raises(TrainingError, match=named):
        load_state(saved, model, optimizers, ALONE)
    assert all(torch.equal(value, before[name]) for name, value in everything(model, optimizers).items())


def test_a_check_may_refuse(saved: Path, tiny_config: GLMConfig) -> None:
    def refuse(path: Path, meta: dict[str, Any]) -> None:
        raise TrainingError(f"{path.name} {meta['step']}")

    with pytest.raises(TrainingError, match=r"state-00000005\.pt 5"):
        load_state(saved, *trained(tiny_config), ALONE, check=refuse)


# --- disks that are full -----------------------------------------------------------------


def full(*args: Any, **kwargs: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def write_half(payload: Any, path: Path) -> None:
    """As torch does: the reason is in the text, the kind of error is not."""
    path.write_bytes(b"half")
    raise RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed\nmore")


@pytest.mark.parametrize(("place", "effect"), [("torch.save", write_half), ("torch.save", full), ("os.fsync", full)])
def test_a_full_disk(
    saved: Path,
    tiny_config: GLMConfig,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    effect: Callable[..., None],
) -> None:
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    model, optimizers = trained(tiny_config)
    with monkeypatch.context() as patched:
        patched.setattr(place, effect)
        with pytest.raises(TrainingError) as caught:
            save_state(saved, 8, model, optimizers, {"step": 8}, ALONE)
    for part in ("state-00000008.pt", "GiB are free", "state-00000005.pt, is intact", "the same command"):
        assert part in str(caught.value)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before
    assert load_state(saved, *trained(tiny_config), ALONE) is not None


# --- folders ---------------------------------------------------------------------------


@pytest.fixture
def folder_of_states(tmp_path: Path, tiny_config: GLMConfig) -> Path:
    """Two states in the form that several processes write, written by one."""
    for step in (5, 8):
        model, optimizers = trained(tiny_config, updates=step)
        path = save_state(tmp_path, step, model, optimizers, {"step": step}, ALONE)
        opened = state_formats.open_file(path)
        tensors = {name: torch.zeros(shape) for name, shape in opened.shapes.items()}
        opened.fill(tensors)
        state_formats.write_folder(tmp_path / f"state-{step:08d}", {"step": step}, tensors, ALONE)
        path.unlink()
    return tmp_path


@pytest.mark.filterwarnings("ignore:.*torch.distributed")
def test_folders_hold_what_files_hold(folder_of_states: Path, tiny_config: GLMConfig) -> None:
    other = trained(tiny_config)
    torch.manual_seed(1)
    assert load_state(folder_of_states, *other, ALONE) == (folder_of_states / "state-00000008", {"step": 8})
    steps = {float(values["step"]) for values in other[1][0].state.values()}
    assert steps == {8.0}
    # As one file again: the folder of the same step goes.
    save_state(folder_of_states, 8, *other, {"step": 8}, ALONE)
    assert [path.name for _, path in states(folder_of_states)] == ["state-00000008.pt", "state-00000005"]
    again = trained(tiny_config)
    load_state(folder_of_states, *again, ALONE)
    expected = everything(*other)
    assert all(torch.equal(value, expected[name]) for name, value in everything(*again).items())


@pytest.mark.filterwarnings("ignore:.*torch.distributed")
@pytest.mark.parametrize("name", [state_formats.META, state_formats.INDEX, "__0_0.distcp"])
@pytest.mark.parametrize("damage", [truncate(0.5), flip_a_bit, plant_a_bomb])
def test_damaged_folders_are_passed_over(
    folder_of_states: Path,
    tiny_config: GLMConfig,
    name: str,
    damage: Callable[[Path], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(folder_of_states)
    damage(folder_of_states / "state-00000008" / name)
    said: list[str] = []
    restored = load_state(folder_of_states, *trained(tiny_config), ALONE, say=said.append)
    assert restored == (folder_of_states / "state-00000005", {"step": 5})
    assert len(said) == 1
    assert not (folder_of_states / "exploded").exists()


@pytest.mark.filterwarnings("ignore:.*torch.distributed")
def test_code_in_an_index_is_not_executed(
    folder_of_states: Path, tiny_config: GLMConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where whoever put it there has made the sums right."""
    monkeypatch.chdir(folder_of_states)
    folder = folder_of_states / "state-00000008"
    plant_a_bomb(folder / state_formats.INDEX)
    payload = json.loads((folder / state_formats.META).read_text())
    payload["sums"]["index"] = hashlib.sha256((folder / state_formats.INDEX).read_bytes()).hexdigest()
    (folder / state_formats.META).write_text(json.dumps(payload))
    said: list[str] = []
    load_state(folder_of_states, *trained(tiny_config), ALONE, say=said.append)
    assert "its index names" in said[0]
    assert "does not belong" in said[0]
    assert not (folder_of_states / "exploded").exists()
