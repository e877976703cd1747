"""Products in pieces against torch's own."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from openglm.network import cpu_linear


@given(
    rows=st.integers(0, 20),
    out=st.integers(1, 40),
    into=st.integers(1, 40),
    bias=st.booleans(),
    threads=st.integers(1, 4),
    three=st.booleans(),
)
def test_linear_is_linear(rows: int, out: int, into: int, bias: bool, threads: int, three: bool) -> None:
    generator = torch.Generator().manual_seed(rows + 100 * out)
    x = torch.randn((rows, 1, into) if three else (rows, into), generator=generator)
    weight = torch.randn(out, into, generator=generator)
    b = torch.randn(out, generator=generator) if bias else None
    expected, before = F.linear(x, weight, b), cpu_linear.torch.get_num_threads
    cpu_linear.torch.get_num_threads = lambda: threads  # the number of pieces, not of threads that run
    try:
        with torch.inference_mode():
            found = cpu_linear.linear(x, weight, b)
    finally:
        cpu_linear.torch.get_num_threads = before
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_types_go_to_torch(dtype: torch.dtype) -> None:
    x, weight = torch.randn(2, 8, dtype=dtype), torch.randn(4, 8, dtype=dtype)
    with torch.inference_mode():
        assert torch.equal(cpu_linear.linear(x, weight), F.linear(x, weight))


def test_gradients_flow() -> None:
    x, weight = torch.randn(1, 8, requires_grad=True), torch.randn(4, 8, requires_grad=True)
    cpu_linear.linear(x, weight).sum().backward()
    assert x.grad is not None
    assert weight.grad is not None
