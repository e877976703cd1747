"""The network on a CPU as one compiled graph.

Between the matrix products of a layer lie dozens of small operations. Compiled, those that
follow each other become one kernel (benchmarks/README.md says what that saves). Products of
int8 weights and attention over pages are called from the graph as they are.

Knows the network and caches; nothing about texts or pages.
"""

from __future__ import annotations

import shutil
import threading
import types
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import OptionError
from ..network.model import GLMModel
from ..network.native import compiler
from ..network.quantization import NUMBERED

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

    from ..network.cache import Cache

# --- What a graph does not look into ----------------------------------------------------------

_running = threading.local()  # what the graph that runs in this thread attends with: cache, mask, rows


def _int8_product(x: Tensor, number: int, out_features: int) -> Tensor:
    return NUMBERED[number].product(x)


def _attend(q_1NTH: Tensor, k_1NTH: Tensor, v_1NTH: Tensor, layer: int) -> Tensor:
    cache, mask, rows = _running.call
    _, N, T, H = q_1NTH.shape

    def by_row(x: Tensor) -> Tensor:
        _, head, token, one = x.stride()
        return x.as_strided((rows, N, T // rows, H), (T // rows * token, head, token, one))

    mixed_BNSH: Tensor = cache.attend(layer, by_row(q_1NTH), by_row(k_1NTH), by_row(v_1NTH), mask)
    return mixed_BNSH.transpose(1, 2).reshape(1, T, N, H).transpose(1, 2)


def _like_attend(q_1NTH: Tensor, k_1NTH: Tensor, v_1NTH: Tensor, layer: int) -> Tensor:
    return q_1NTH.new_empty(q_1NTH.transpose(1, 2).shape).transpose(1, 2)


_library: Any = torch.library.Library("openglm", "DEF")  # type: ignore[no-untyped-call]
_library.define("int8_product(Tensor x, int number, int out_features) -> Tensor")
_library.define("attend(Tensor q, Tensor k, Tensor v, int layer) -> Tensor")
_library.impl("int8_product", _int8_product, "CPU")
_library.impl("attend", _attend, "CPU")
torch.library.register_fake(
    "openglm::int8_product", lambda x, number, out_features: x.new_empty(x.shape[0], out_features), lib=_library
)
torch.library.register_fake("openglm::attend", _like_attend, lib=_library)


class _Through:
    """The cache as a graph sees it."""

    def attend(
        self, layer: int, q_BNSH: Tensor, k_BNSH: Tensor, v_BNSH: Tensor, mask: Tensor | BlockMask | None
    ) -> Tensor:
        out: Tensor = torch.ops.openglm.attend(q_BNSH, k_BNSH, v_BNSH, layer)
        return out

    def advance(self, tokens: int) -> None:
        """Nothing to count."""


# --- The graph --------------------------------------------------------------------------------


def check_compiler() -> None:
    """Raise OptionError where torch finds no C++ compiler."""
    name = compiler()
    if shutil.which(name) is None:
        raise OptionError(f"compile on a CPU needs a C++ compiler, and {name} is not installed; set CXX to another one")


class CompiledStates:
    """`GLMModel.hidden_states` as a graph, compiled when it is first used.

    Args:
        model: a network whose weights and modules stay as they are.

    Raises:
        OptionError: no C++ compiler.
    """

    def __init__(self, model: GLMModel) -> None:
        check_compiler()

        def hidden_states(input_ids_1T: Tensor, position_ids_12T: Tensor) -> Tensor:
            return model.hidden_states(input_ids_1T, position_ids_12T, None, cache=_Through())

        # torch counts the graphs of a piece of code, and refuses when there are many: each model has its own.
        code = hidden_states.__code__.replace()
        own = types.FunctionType(code, globals(), code.co_name, None, hidden_states.__closure__)
        # Nothing in the model changes, so that looking whether it did at each step would be lost time.
        skip = torch.compiler.skip_guard_on_all_nn_modules_unsafe
        self._graph = torch.compile(own, dynamic=True, fullgraph=True, options={"guard_filter_fn": skip})

    def __call__(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        attention_mask: Tensor | BlockMask | None = None,
        *,
        cache: Cache,
    ) -> Tensor:
        """[B, S] ids and [B, 2, S] positions -> [B, S, D]."""
        B, S = input_ids.shape
        # All tokens in one row: one graph then does for any number of texts, and one for a single token.
        flat_ids, flat_positions = input_ids.reshape(1, -1), position_ids.transpose(0, 1).reshape(1, 2, -1)
        _running.call = (cache, attention_mask, B)
        try:
            hidden: Tensor = self._graph(flat_ids, flat_positions)
        finally:
            del _running.call
        cache.advance(S)
        return hidden.view(B, S, -1)
