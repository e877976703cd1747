"""Model-parallel pieces: cutting and joining are inverses, and pieces that do not belong together are refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from openglm.checkpoints.ranks import RanksJoined, check_divisible, cut_of, divide, join, piece_info
from openglm.checkpoints.weights import TensorInfo, Weights
from openglm.errors import CheckpointError, OptionError
from openglm.network.model import GLMModel


class Held(Weights):
    """Weights that lie in memory."""

    def __init__(self, state: Mapping[str, Tensor], name: str = "rank") -> None:
        self.path, self._state = Path(name), state
        self.infos = {key: TensorInfo(tuple(tensor.shape), tensor.dtype) for key, tensor in state.items()}

    def read(self, name: str) -> Tensor:
        return self._state[name]

    def release(self) -> None:
        """Nothing is mapped."""


def cut(model: GLMModel, ranks: int) -> list[dict[str, Tensor]]:
    state = {name: divide(name, tensor, ranks) for name, tensor in model.state_dict().items()}
    return [{name: parts[rank].clone() for name, parts in state.items()} for rank in range(ranks)]


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_joining_undoes_cutting(tiny_model: GLMModel, ranks: int) -> None:
    pieces = cut(tiny_model, ranks)
    joined = RanksJoined(Path("folder"), [Held(piece) for piece in pieces])
    for name, tensor in tiny_model.state_dict().items():
        info = TensorInfo(tuple(tensor.shape), tensor.dtype)
        assert joined.infos[name] == info
        assert torch.equal(joined.read(name), tensor)
        for piece in pieces:
            assert tuple(piece[name].shape) == piece_info(name, info, ranks).shape


def test_each_piece_computes_whole_heads() -> None:
    """Of queries, keys and values alike, a rank has the rows of its own heads."""
    rows = torch.arange(24)[:, None].repeat(1, 2)  # width 8: queries 0-7, keys 8-15, values 16-23
    first, second = divide("transformer.layers.0.attention.query_key_value.weight", rows, 2)
    assert first[:, 0].tolist() == [0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19]
    assert second[:, 0].tolist() == [4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23]


def test_every_tensor_has_a_rule(tiny_model: GLMModel) -> None:
    cut_names = [name for name in tiny_model.state_dict() if cut_of(name).name != "WHOLE"]
    assert len(cut_names) == 1 + 6 * tiny_model.config.num_layers
    assert not [name for name in cut_names if "layernorm" in name or "position" in name or "dense.bias" in name]


@pytest.mark.parametrize("ranks", [0, -1, 3, 8])
def test_numbers_of_pieces_that_do_not_divide(tiny_model: GLMModel, ranks: int) -> None:
    infos = {"word_embeddings.weight": TensorInfo((640, 32), torch.float32)}
    with pytest.raises(OptionError, match=rf"--model-parallel {ranks}.*4 heads.*640 rows"):
        check_divisible(infos, tiny_model.config.num_attention_heads, ranks)


def test_copies_may_drift_by_rounding_only() -> None:
    name, bias = "transformer.final_layernorm.weight", torch.tensor([1.0, 2.0])
    assert torch.equal(join(name, [bias, bias * 1.001]), bias)
    with pytest.raises(CheckpointError, match=rf"ranks 0 and 2 disagree on {name}"):
        join(name, [bias, bias, bias + 1])
    with pytest.raises(CheckpointError, match="disagree"):
        join(name, [bias, bias * float("nan")])


def test_pieces_of_different_checkpoints(tiny_model: GLMModel) -> None:
    first, second = cut(tiny_model, 2)
    name = "transformer.layers.1.mlp.dense_h_to_4h.bias"
    for changed in (
        {key: tensor for key, tensor in second.items() if key != name},
        {**second, name: second[name][:3]},
        {**second, name: second[name].half()},
        {**second, "more": second[name]},
    ):
        with pytest.raises(CheckpointError, match=r"second: ranks disagree.*(dense_h_to_4h\.bias|more)"):
            RanksJoined(Path("folder"), [Held(first, "first"), Held(changed, "second")])
