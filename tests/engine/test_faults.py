"""One caller's trouble is no other caller's: errors, extreme options, interrupts, forks."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from openglm.engine.beams import Hypothesis
from openglm.engine.decoding import SamplingJob
from openglm.engine.engine import Engine
from openglm.engine.interrupts import deferred
from openglm.engine.job import Job
from openglm.engine.options import FillOptions
from openglm.engine.paged_runner import PagedRunner
from openglm.engine.slot_runner import SlotRunner
from openglm.errors import CheckpointError, OpenGLMError
from openglm.infill.infiller import Infiller
from openglm.network.config import GLMConfig
from openglm.network.model import GLMModel
from openglm.tokenizer import BilingualTokenizer

from .test_engine import EOS, V, job_of, plainly, texts_of

Fills = list[list[int]]


@pytest.fixture(scope="module")
def model() -> GLMModel:
    torch.manual_seed(3)
    return GLMModel(GLMConfig(2, 32, 2, V, max_sequence_length=192, initializer_range=0.4)).eval()


def run_all(engine: Engine, jobs: Sequence[Job]) -> None:
    for job in jobs:
        engine.submit(job)
    while not all(job.done for job in jobs):
        engine.step()


def fills_of(job: Job) -> Fills:
    return [list(fill) for fill in job.outputs()[0].fills]


class Broken(SamplingJob):
    """Fails at one of its tasks: at once, or when something is written."""

    at = "advance"

    def begin(self, runner: Any, kv: Any) -> None:
        super().begin(runner, kv)
        if self.at == "begin":
            raise MemoryError("begin")

    @classmethod
    def advance(cls, batch: Any, runner: Any) -> None:
        for job, _ in batch:
            if job.at == "advance" and job.tokens_written:
                raise ZeroDivisionError
        super().advance(batch, runner)


@pytest.mark.parametrize("at", ["begin", "advance"])
def test_a_job_that_fails_fails_alone(model: GLMModel, at: str) -> None:
    engine, options = Engine(PagedRunner(model, EOS)), FillOptions()
    jobs: list[SamplingJob] = []
    texts = texts_of(7, 12)
    for number, text in enumerate(texts):
        job = job_of(text, options)
        if number % 3 == 0:
            job = Broken(job.layout, job.seqs, options, job.stop_tokens)
            job.at = at
        jobs.append(job)
    run_all(engine, jobs)
    for job, text in zip(jobs, texts, strict=True):
        if isinstance(job, Broken) and (at == "begin" or fills_of(job) != [[]]):
            assert isinstance(job.error, (MemoryError, ZeroDivisionError))
        else:
            assert job.error is None
            assert fills_of(job) == plainly(model, text)
    assert any(job.error for job in jobs)
    assert engine.running == engine.queued == engine.runner.num_held == 0


@pytest.mark.parametrize("kind", [PagedRunner, SlotRunner])
@pytest.mark.parametrize("work", ["allocate", "prefill", "decode"])
def test_a_text_the_runner_cannot_bear_fails_alone(
    model: GLMModel, kind: type[PagedRunner | SlotRunner], work: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = kind(model, EOS)
    engine, options = Engine(runner), FillOptions()
    texts = [*texts_of(8, 6), ([5] * 77, [3], [(4, 4)])]
    whole = getattr(runner, work)

    def picky(first: Any, *more: Any) -> Any:
        lengths = [first] if work == "allocate" else [len(each) for each in more[0]] if work == "prefill" else [
            position if position == 3 else 0 for _, position, _ in more[0]
        ]  # fmt: skip
        if 78 in lengths or (work == "decode" and 3 in lengths):
            raise MemoryError(work)
        return whole(first, *more)

    monkeypatch.setattr(runner, work, picky)
    jobs = [job_of(text, options) for text in texts if text[1][0] != 3 or len(text[0]) == 77]
    chosen = [text for text in texts if text[1][0] != 3 or len(text[0]) == 77]
    run_all(engine, jobs)
    *others, bad = jobs
    assert isinstance(bad.error, MemoryError)
    for job, text in zip(others, chosen, strict=False):
        if job.error is None:
            assert fills_of(job) == plainly(model, text)
    assert sum(job.error is None for job in others) >= 4
    assert engine.running == engine.queued == runner.num_held == 0


def test_a_model_whose_values_are_no_numbers_says_so(model: GLMModel) -> None:
    """Token 9 spoils whatever reads it; other texts in the same pass are filled."""
    torch.manual_seed(3)
    spoiled = GLMModel(model.config).eval()
    with torch.no_grad():
        spoiled.load_state_dict(model.state_dict())
        spoiled.word_embeddings.weight[9, 0] = math.nan
        weight = spoiled.word_embeddings.weight
        scores = spoiled.word_embeddings.scores
    spoiled.word_embeddings.scores = lambda hidden: torch.nn.functional.linear(  # type: ignore[method-assign]
        hidden, weight.nan_to_num(0.0)
    )
    assert scores is not spoiled.word_embeddings.scores
    engine, options = Engine(PagedRunner(spoiled, EOS)), FillOptions(temperature=0.8)
    good, bad = job_of(([1, 2, 3], [1], [(2, 3)]), options), job_of(([1, 9, 3], [1], [(2, 3)]), options)
    run_all(engine, [good, bad])
    assert isinstance(bad.error, CheckpointError)
    assert "no numbers" in str(bad.error)
    assert good.error is None


EXTREMES: list[dict[str, Any]] = [
    {"temperature": 1e-300}, {"temperature": 1e-40}, {"temperature": 1e308},
    {"temperature": 1.0, "top_p": 1e-46, "seed": 1},
    {"repetition_penalty": 1e-40}, {"repetition_penalty": 1e300}, {"repetition_penalty": 1e40, "temperature": 1e-5},
    *({"num_beams": 3, "length_penalty": value} for value in (-1e308, -1000.0, -100.0, 100.0, 1000.0, 1e308)),
    {"num_beams": 3, "repetition_penalty": 1e-300},
]  # fmt: skip


def test_extreme_options_hurt_nobody(tiny_model: GLMModel, tokenizer: BilingualTokenizer) -> None:
    infiller = Infiller(tiny_model, tokenizer)
    text = "the [MASK] old [MASK] bridge"
    plain = infiller.fill(text, max_new_tokens=6)
    extreme = [infiller.request(text, max_new_tokens=6, **options) for options in EXTREMES]
    victims = [infiller.request(text, max_new_tokens=6) for _ in range(4)]
    run_all(infiller.engine, [request.job for request in (*extreme, *victims)])
    for request in victims:
        assert request.result().text == plain.text
    for request in extreme:
        result = request.result()
        assert all(math.isfinite(fill.logprob) for fill in result.blanks)
        assert not {t for fill in result.blanks for t in fill.token_ids} & set(tokenizer.never_generated)
    assert extreme[0].result().text == plain.text, "a tiny temperature is greedy"


def test_beams_are_ranked_as_their_quotients_are() -> None:
    rng = np.random.default_rng(0)
    beams = []
    for _ in range(40):
        values = tuple((-rng.exponential(2.0, int(rng.integers(1, 30)))).tolist())
        beams.append(Hypothesis(((1,),), (values,), ("stop",)))
    for penalty in (-3.0, -0.5, 0.0, 0.7, 1.0, 2.5):
        quotients = [beam.logprob / beam.length**penalty for beam in beams]
        assert [beam.score(penalty) for beam in beams] == quotients
        order = sorted(range(40), key=lambda i: quotients[i])
        assert sorted(range(40), key=lambda i: beams[i].rank(penalty)) == order
    for penalty in (-1e308, -1000.0, 1000.0, 1e308):
        assert not any(math.isnan(beam.rank(penalty)) for beam in beams)
        assert all(math.isfinite(beam.score(penalty)) for beam in beams)
    longest = max(beams, key=lambda beam: beam.length)
    assert max(beams, key=lambda beam: beam.rank(1000.0)).length == longest.length


# --- Interrupts -----------------------------------------------------------------------------------


def test_an_interrupt_waits_for_the_books() -> None:
    kept = []

    def keep() -> None:
        with deferred():
            signal.raise_signal(signal.SIGINT)
            kept.append("all of it")

    with pytest.raises(KeyboardInterrupt):
        keep()
    assert kept == ["all of it"]
    before = signal.getsignal(signal.SIGINT)
    with deferred():
        pass
    assert signal.getsignal(signal.SIGINT) is before
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(deferred().__enter__()))
    thread.start()
    thread.join()
    assert found == [None]


@pytest.mark.parametrize("work", ["prefill", "decode"])
@pytest.mark.parametrize("kind", [PagedRunner, SlotRunner])
def test_an_interrupted_run_leaves_nothing(
    model: GLMModel, kind: type[PagedRunner | SlotRunner], work: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner, steps = kind(model, EOS), 0
    engine, options, whole = Engine(runner, max_num_seqs=4), FillOptions(), getattr(runner, work)

    def interrupted(*arguments: object) -> torch.Tensor:
        nonlocal steps
        steps += 1
        logits: torch.Tensor = whole(*arguments)
        if steps == 3:
            raise KeyboardInterrupt
        return logits

    monkeypatch.setattr(runner, work, interrupted)
    others = [job_of(text, options) for text in texts_of(5, 3)]
    for job in others:
        engine.submit(job)
    with pytest.raises(KeyboardInterrupt):
        list(engine.run([job_of(text, options) for text in texts_of(4, 20)]))
    assert [job.error for job in others] == [None] * 3, "they are another caller's"
    while not all(job.done for job in others):
        engine.step()
    assert [fills_of(job) for job in others] == [plainly(model, text) for text in texts_of(5, 3)]
    assert runner.num_held == engine.running == engine.queued == 0


def test_interrupts_at_any_moment_are_nobody_elses(model: GLMModel) -> None:
    """The main thread is interrupted again and again while another thread fills."""
    engine, options = Engine(PagedRunner(model, EOS)), FillOptions(temperature=0.8)
    texts = texts_of(11, 60)
    alone = [next(engine.run([job_of(text, options)])).seqs[0].part_b.fills for text in texts]
    found: list[object] = []
    armed, over, interrupts = threading.Event(), threading.Event(), 0

    def handler(number: int, frame: object) -> None:
        if armed.is_set():
            armed.clear()
            raise KeyboardInterrupt

    def fill() -> None:
        try:
            for text in texts:
                found.append(next(engine.run([job_of(text, options)])).seqs[0].part_b.fills)
        finally:
            over.set()

    def interrupt() -> None:
        rng = np.random.default_rng(0)
        while not over.is_set():
            time.sleep(float(rng.uniform(0, 0.004)))
            signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, handler)
    threads = [threading.Thread(target=work) for work in (fill, interrupt)]
    try:
        for thread in threads:
            thread.start()
        while not over.is_set():
            try:
                armed.set()
                list(engine.run([job_of(([3, 4, 5], [1], [(9, 9)]), options, copies=3)]))
            except KeyboardInterrupt:
                interrupts += 1
            finally:
                armed.clear()
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        over.set()
        for thread in threads:
            thread.join()
        signal.signal(signal.SIGINT, before)
    assert interrupts > 3
    assert found == alone
    assert engine.running == engine.queued == 0


# --- Forks ----------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_while_another_thread_fills(tiny_model: GLMModel, tokenizer: BilingualTokenizer) -> None:
    infiller = Infiller(tiny_model, tokenizer)
    text, over = "the [MASK] old [MASK] bridge", threading.Event()
    expected = infiller.fill(text, max_new_tokens=5).text

    def work() -> None:
        while not over.is_set():
            infiller.fill([text] * 3, max_new_tokens=20)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for _ in range(5):
            assert in_child(lambda: infiller.fill(text, max_new_tokens=5).text == expected)
    finally:
        over.set()
        thread.join()
    assert infiller.fill(text, max_new_tokens=5).text == expected


FORKS = """
import os, sys, threading, torch, openglm
torch.set_num_threads(2)
model = openglm.load()
texts = ["He lived in New [MASK] until his death, and [MASK] was buried there."] * 8
expected = model.fill(texts, max_new_tokens=5)[0].text
child = os.fork()
if child == 0:
    os._exit(model.fill(texts, max_new_tokens=5)[0].text != expected)
assert os.waitpid(child, 0)[1] == 0
assert torch.get_num_threads() == 2
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_fork_after_several_threads_computed() -> None:
    done = subprocess.run([sys.executable, "-c", FORKS], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def in_child(work: Callable[[], bool], seconds: float = 60.0) -> bool:
    """Whether `work` is true in a forked child that ends in time."""
    child = os.fork()
    if child == 0:
        code = 2
        try:
            code = 0 if work() else 1
        finally:
            os._exit(code)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status) == 0
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def test_errors_of_jobs_reach_their_caller(model: GLMModel, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = PagedRunner(model, EOS)
    engine = Engine(runner)

    def broken(*_: object) -> torch.Tensor:
        raise OpenGLMError("out of order")

    monkeypatch.setattr(runner, "decode", broken)
    with pytest.raises(OpenGLMError, match="out of order"):
        list(engine.run([job_of(([1, 2, 3], [1], [(5, 5)]), FillOptions())]))
    assert runner.num_held == engine.running == engine.queued == 0
