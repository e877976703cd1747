"""Says it when the tests of `openglm-flagai` cannot run."""

from __future__ import annotations

import pytest

from .conftest import _is_ours


def test_flagai_is_installed() -> None:
    if not _is_ours():
        pytest.skip(
            "flagai is not installed, or is FlagAI's own: pip install ./compat/flagai, in an environment without it"
        )
    import flagai

    assert "flagai.model.glm_model" in flagai.COVERED
