"""Micro-batches: who takes which, and that workers change nothing but the time."""

from __future__ import annotations

import os
import signal
import time
from itertools import chain, islice
from typing import Any

import pytest
import torch

from openglm.data.stream import Source
from openglm.errors import DataError, OpenGLMError, TrainingError
from openglm.pretraining.pretrainer import MicroBatches
from openglm.pretraining.recipe import Recipe
from openglm.tokenizer import BilingualTokenizer
from openglm.training.loader import Numbers, draw

from .runs import recipe_values


@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_processes_share_out_every_update(count: int) -> None:
    shares = [Numbers(2, 5, 6, rank, count) for rank in range(count)]
    assert sorted(chain(*shares)) == list(range(12, 30))
    for update in range(2, 5):
        assert sorted(chain(*(share.of(update) for share in shares))) == list(range(6 * update, 6 * update + 6))
    assert {len(list(share)) for share in shares} == {18 // count}


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(source: Source, tokenizer: BilingualTokenizer, workers: int) -> None:
    make = MicroBatches(Recipe.from_dict(recipe_values(accumulate=2)), tokenizer, [source])
    numbers = Numbers(1, 6, 2, 0, 1)
    state = torch.get_rng_state()
    expected, found = (list(draw(make, numbers, workers=n, pin=False)) for n in (0, workers))
    assert torch.equal(torch.get_rng_state(), state)
    assert len(found) == len(expected) == 10
    for a, b in zip(expected, found, strict=True):
        for name, value in vars(a).items():
            other = getattr(b, name)
            assert torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other, name


def fail_at_three(number: int) -> int:
    if number == 3:
        raise DataError("document 3 is not what it was")
    return number


@pytest.mark.parametrize("workers", [0, 2])
def test_errors_arrive_as_they_are(workers: int) -> None:
    stream = draw(fail_at_three, range(10), workers=workers, pin=False)
    assert list(islice(stream, 3)) == [0, 1, 2]
    with pytest.raises(OpenGLMError) as caught:
        next(stream)
    assert str(caught.value) == "document 3 is not what it was"
    assert type(caught.value) is DataError


def process_of(number: int) -> Any:
    time.sleep(0.01)
    return number, os.getpid()


def test_a_worker_that_is_killed_is_named() -> None:
    stream = draw(process_of, range(1000), workers=1, pin=False)
    _, worker = next(stream)
    assert worker != os.getpid()
    os.kill(worker, signal.SIGKILL)
    with pytest.raises(TrainingError, match=r"run\.workers"):
        list(stream)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_workers_leave_signals_to_the_training_process(number: int) -> None:
    """A signal to the whole group, as Ctrl-C sends it, must not end the workers first."""
    stream = draw(process_of, range(40), workers=1, pin=False)
    _, worker = next(stream)
    os.kill(worker, number)
    assert [n for n, _ in stream] == list(range(1, 40))


def test_workers_end_with_the_stream() -> None:
    stream = draw(process_of, range(1000), workers=1, pin=False)
    _, worker = next(stream)
    stream.close()
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)
