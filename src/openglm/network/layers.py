"""Layers that both architectures are made of; `GLMModel` fills their weights.

torch's layers draw weights of their own when they are made. `GLMModel` draws all of them (or
a file brings them), so here that would be work thrown away; on the meta device it would also
import sympy, which takes longer than loading a small model.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from .cpu_linear import linear


class Linear(nn.Linear):
    """A linear layer whose weights are left for `GLMModel` to fill."""

    def reset_parameters(self) -> None:
        """Leave the weights as they are."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., in_features] -> [..., out_features]."""
        return linear(x, self.weight, self.bias)


class Embedding(nn.Embedding):
    """An embedding whose weights are left for `GLMModel` to fill."""

    def reset_parameters(self) -> None:
        """Leave the weights as they are."""

    def scores(self, hidden: Tensor) -> Tensor:
        """Products with every row, [..., D] -> [..., rows]."""
        return linear(hidden, self.weight)


class LayerNorm(nn.LayerNorm):
    """A LayerNorm whose weights are left for `GLMModel` to fill."""

    def reset_parameters(self) -> None:
        """Leave the weights as they are."""


class RMSNorm(nn.RMSNorm):
    """x / root mean square of x, times a gain that is left for `GLMModel` to fill."""

    def reset_parameters(self) -> None:
        """Leave the gain as it is."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]; the gain, and so the result, may be of a wider type than x."""
        return F.rms_norm(x.to(self.weight.dtype), self.normalized_shape, self.weight, self.eps)
