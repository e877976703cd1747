"""The embedded model: it is there, it fits, and it behaves on real sentences."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import openglm
from openglm.checkpoints.find import EMBEDDED
from openglm.infill.infiller import Infiller

TEXTS = [
    "北京故宫是中国[MASK]非物质文化遗产。",
    "[MASK]是四川省的省会，[MASK]是湖北省的省会。",
    "The capital of France is [MASK].",
    "Water boils at a [MASK] of one hundred degrees.",
    "他在[MASK]出生，后来去了[MASK]读书，[sMASK]。",
    "从前有座山，[sMASK]，庙里有个老和尚。[gMASK]",
    "The war ended in [MASK]. [sMASK] The treaty was signed in [MASK].",
    "Photosynthesis is the process by which [gMASK]",
    "[MASK]",
    "A long list: " + "apples, pears, plums, " * 20 + "[MASK] and nuts.",
]


@pytest.fixture(scope="module")
def model() -> Infiller:
    return openglm.load(device="cpu")


def test_size_and_files() -> None:
    files = {path.name: path.stat().st_size for path in EMBEDDED.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.model", "tokenizer_config.json", "README.md"} <= set(files)
    assert sum(files.values()) <= 64 * 2**20


@pytest.mark.parametrize(
    "options",
    [
        {"max_new_tokens": 24},
        {"max_new_tokens": 24, "temperature": 0.9, "top_p": 0.95, "seed": 17},
        {"max_new_tokens": 8, "num_beams": 3, "num_return_sequences": 3},
    ],
)
def test_a_batch_gives_what_single_calls_give(model: Infiller, options: dict[str, float]) -> None:
    for text, result in zip(TEXTS, model.fill(TEXTS, **options), strict=True):
        alone = model.fill(text, **options)
        assert [a.text for a in (result, *result.alternatives)] == [a.text for a in (alone, *alone.alternatives)]


def test_real_text_is_more_probable_than_shuffled_text(model: Infiller) -> None:
    """A model that has learned something prefers the word that belongs there."""
    good = model.fill("He was born in the United [MASK] of America.", num_beams=8, num_return_sequences=8)
    assert any(a.blanks[0].text.strip() == "States" for a in (good, *good.alternatives))


def test_greedy_repeats_and_ends(model: Infiller) -> None:
    first, second = (model.fill(TEXTS, max_new_tokens=40) for _ in range(2))
    assert [r.text for r in first] == [r.text for r in second]
    for result in first:
        assert all(len(blank.token_ids) <= 40 for blank in result.blanks)


def test_needs_no_network_and_no_transformers() -> None:
    code = (
        "import socket, sys\n"
        "def refuse(*a, **k): raise AssertionError('network')\n"
        "socket.socket.connect = refuse\n"
        "import openglm\n"
        "assert openglm.load(device='cpu').fill('Paris is the [MASK] of France.').text\n"
        "assert 'transformers' not in sys.modules and 'sympy' not in sys.modules\n"
    )
    env = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr


def test_default_limits_fit_the_context(model: Infiller) -> None:
    with pytest.raises(openglm.OpenGLMError, match="at most 511"):
        model.fill(TEXTS[0], max_new_tokens=512)
