"""A small model with random weights, ready to fill."""

from __future__ import annotations

import pytest

from openglm.infill.infiller import Infiller
from openglm.network.model import GLMModel
from openglm.tokenizer import BilingualTokenizer


@pytest.fixture(scope="session")
def infiller(tiny_model: GLMModel, tokenizer: BilingualTokenizer) -> Infiller:
    return Infiller(tiny_model, tokenizer)
