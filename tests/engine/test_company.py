"""A text gets the same alone, in a list and beside other callers' texts."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

import openglm
from openglm.infill.infiller import Infiller
from openglm.infill.results import Filled
from openglm.infill.scoring import prompts_of
from openglm.network.config import GLMConfig
from openglm.network.native import kernel_for
from openglm.scoring.candidates import token_logprobs
from openglm.scoring.question import Question

TEXT = "the king of a small house near river and 老师 说 今天 天气 很 好 we saw old man his dog went , . 北京 是"
WORDS = TEXT.split()
OPTIONS = {"max_new_tokens": 8, "temperature": 1.0, "seed": 3}

pytestmark = pytest.mark.slow


def texts_of(count: int) -> list[str]:
    """Of 3 to 120 words, one or two of them blanks."""
    rng = np.random.default_rng(0)
    texts = []
    for _ in range(count):
        words = [WORDS[i] for i in rng.integers(0, len(WORDS), int(rng.integers(3, 120)))]
        for place in rng.integers(0, len(words), int(rng.integers(1, 3))):
            words[place] = "[MASK]"
        texts.append(" ".join(words))
    return texts


@pytest.fixture(scope="module", params=[1, 3], ids=lambda threads: f"{threads} threads")
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.skipif(kernel_for(GLMConfig(1, 32, 2, 128)) is None, reason="needs the kernel")
def test_int8_does_not_depend_on_company(threads: int) -> None:
    """Texts, tokens and log-probabilities, to the last bit; other texts with other options run beside them."""
    model = openglm.load()
    assert model.model.quantized == "int8"
    texts = texts_of(200 if threads == 1 else 40)
    together = model.fill(texts, **OPTIONS)
    assert [model.fill(text, **OPTIONS) for text in texts] == together
    assert under_load(model, texts[:40]) == together[:40]


@pytest.mark.skipif(kernel_for(GLMConfig(1, 32, 2, 128)) is None, reason="needs the kernel")
@pytest.mark.parametrize("options", [{}, {"temperature": 1.0, "seed": 3}, {"num_beams": 3}], ids=str)
def test_the_score_of_a_fill_is_its_log_probability(options: dict[str, Any]) -> None:
    """Asked by its tokens, in trees with others: rounding to 8 bits would show a difference of 0.05."""
    model = openglm.load()
    prompts = prompts_of(texts_of(200)[::5], model.tokenizer, model.model, None)
    compared = 0
    for prompt, filled in zip(prompts, model.fill(texts_of(200)[::5], max_new_tokens=8, **options), strict=True):
        if any(blank.finish_reason != "stop" for blank in filled.blanks):
            continue
        own = tuple(tuple(blank.token_ids) for blank in filled.blanks)
        others = tuple(tuple((*ids[:1], 7 + i) for ids in own) for i in range(3))
        question = Question(prompt.part_a, (*others, own), (0,) * 4, ("",))
        [scores] = token_logprobs(model.model, [question], model.tokenizer.markers, model.tokenizer.eos)
        expected = [value for blank in filled.blanks for value in blank.token_logprobs]
        assert scores[-1].tolist() == pytest.approx(expected, abs=2e-5)
        compared += 1
    assert compared > 20


def under_load(model: Infiller, texts: list[str]) -> list[Filled]:
    """Each text by a call of its own, from four threads, while a fifth one searches with beams."""
    found: dict[int, Filled] = {}
    over = threading.Event()

    def fill(first: int) -> None:
        for number in range(first, len(texts), 4):
            found[number] = model.fill(texts[number], **OPTIONS)

    def search() -> None:
        while not over.is_set():
            model.fill(texts[::9], num_beams=3, max_new_tokens=5)

    threads = [threading.Thread(target=fill, args=(n,)) for n in range(4)]
    others = threading.Thread(target=search)
    for thread in (*threads, others):
        thread.start()
    for thread in threads:
        thread.join()
    over.set()
    others.join()
    return [found[number] for number in range(len(texts))]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_other_types_differ_by_rounding_alone(dtype: str) -> None:
    """Their matrix products add up in an order that depends on how many rows there are."""
    model = openglm.load(dtype=dtype)
    texts = texts_of(200)
    together = model.fill(texts, **OPTIONS)
    alone = [model.fill(text, **OPTIONS) for text in texts[::4]]
    same = [(a, b) for a, b in zip(alone, together[::4], strict=True) if a.text == b.text]
    assert len(same) >= (0.9 if dtype == "float32" else 0.5) * len(alone)
    worst = max(abs(a.logprob - b.logprob) for a, b in same)
    assert worst < (1e-4 if dtype == "float32" else 0.2)
