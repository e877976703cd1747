"""The engine against the plain account: one forward pass over the whole layout for every token."""

from __future__ import annotations

import gc
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openglm.blanks import Markers, PartA
from openglm.engine.decoding import SamplingJob, SamplingSequence
from openglm.engine.engine import Engine
from openglm.engine.job import Job
from openglm.engine.model_runner import ModelRunner, similar_lengths
from openglm.engine.options import FillOptions
from openglm.engine.paged_attention import DecodeCache, PrefillCache
from openglm.engine.paged_runner import PagedRunner
from openglm.engine.slot_runner import SlotRunner
from openglm.engine.stop_tokens import StopTokens
from openglm.infill.infiller import Infiller
from openglm.layouts import PartBState, lay_out
from openglm.network.attention import prefix_mask
from openglm.network.config import GLMConfig
from openglm.network.model import GLMModel
from openglm.network.native import kernel_for
from openglm.tokenizer import BilingualTokenizer

from ..conftest import random_model

V, SOP, EOP, EOS = 128, 120, 121, 122
MARKERS = Markers(sop=SOP, eop=EOP)
NEVER = torch.arange(V) >= SOP
NEVER[[EOP, EOS]] = False
STOP = StopTokens((EOP, EOS), NEVER)
RUNNERS: list[Callable[[GLMModel, int], ModelRunner]] = [PagedRunner, SlotRunner]
if kernel_for(GLMConfig(1, 32, 2, 128)):

    def without_kernel(model: GLMModel, pad_id: int) -> PagedRunner:
        runner = PagedRunner(model, pad_id)
        runner._prefill_cache, runner._decode_cache = PrefillCache, DecodeCache
        return runner

    RUNNERS.append(without_kernel)

Text = tuple[list[int], list[int], list[tuple[int, int]]]  # Part A, where its blanks are, their limits


@pytest.fixture(scope="module", params=["glm", "modern"])
def model(request: pytest.FixtureRequest) -> GLMModel:
    return random_model(GLMConfig(2, 32, 2, V, max_sequence_length=192, architecture=request.param), 0.4)


@torch.inference_mode()
def plainly(model: GLMModel, text: Text) -> list[list[int]]:
    """Greedy fills without any cache."""
    part_a, positions, limits = text
    fills: list[list[int]] = []
    for blank, (fewest, most) in enumerate(limits):
        fills.append([])
        while len(fills[-1]) < most:
            layout = lay_out(
                PartA(np.array(part_a), np.array(positions[: blank + 1])),
                [np.array(f, np.int64) for f in fills],
                MARKERS,
            )
            ids = torch.from_numpy(layout.input_ids)[None]
            places = torch.from_numpy(np.stack([layout.position_ids, layout.block_position_ids]))[None]
            logits = model(ids, places, prefix_mask(torch.tensor([layout.separator]), len(layout)))[0, -1]
            logits = logits.masked_fill(NEVER, -torch.inf)
            if len(fills[-1]) < fewest:
                logits[[EOP, EOS]] = -torch.inf
            token = int(logits.argmax())
            if token in STOP.ids:
                break
            fills[-1].append(token)
    return fills


def job_of(text: Text, options: FillOptions, copies: int = 1) -> SamplingJob:
    part_a, positions, limits = text
    seqs = [
        SamplingSequence(PartBState(positions, MARKERS), limits, np.random.default_rng(copy)) for copy in range(copies)
    ]
    return SamplingJob(
        lay_out(PartA(np.array(part_a), np.array(positions)), [[]], MARKERS, blanks=[0]), seqs, options, STOP
    )


def texts_of(seed: int, count: int) -> list[Text]:
    """Texts of random lengths with blanks at random places."""
    rng = np.random.default_rng(seed)
    texts = []
    for _ in range(count):
        length = int(rng.integers(1, 90))
        blanks = int(rng.integers(1, min(4, length) + 1))
        positions = sorted(rng.choice(length, blanks, replace=False).tolist())
        fewest = rng.integers(0, 3, blanks).tolist()
        limits = [(low, low + int(rng.integers(1, 9))) for low in fewest]
        texts.append((rng.integers(0, SOP, length).tolist(), positions, limits))
    return texts


@pytest.mark.parametrize("kind", RUNNERS)
def test_a_thousand_texts_are_filled_as_one_by_one_without_a_cache(model: GLMModel, kind: type) -> None:
    texts = texts_of(0, 100 if kind is SlotRunner else 1000)
    runner = kind(model, EOS)
    engine = Engine(runner, max_num_seqs=24, cache_bytes=1500 * runner.bytes_per_token())
    options = FillOptions()
    found = [job.seqs[0].part_b.fills for job in engine.run(job_of(text, options) for text in texts)]
    assert found == [plainly(model, text) for text in texts]
    assert runner.num_held == 0
    assert engine.running == engine.queued == 0


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6), lines=st.integers(1, 12), room=st.integers(50, 2000), kind=st.sampled_from(RUNNERS))
def test_room_changes_nothing(model: GLMModel, seed: int, lines: int, room: int, kind: type) -> None:
    """However many texts fit at once, each gets what it gets alone; samples too."""
    texts, options = texts_of(seed, 8), FillOptions(temperature=0.7)
    runner = kind(model, EOS)
    engine = Engine(runner, max_num_seqs=lines, cache_bytes=room * runner.bytes_per_token())
    together = [job.seqs for job in engine.run(job_of(text, options, copies=3) for text in texts)]
    for text, seqs in zip(texts, together, strict=True):
        [alone] = Engine(kind(model, EOS)).run([job_of(text, options, copies=3)])
        assert [seq.part_b.fills for seq in seqs] == [seq.part_b.fills for seq in alone.seqs]
    assert runner.num_held == 0


def test_pages_are_used_again(model: GLMModel) -> None:
    runner = PagedRunner(model, EOS)
    engine, options = Engine(runner, max_num_seqs=8), FillOptions()
    list(engine.run(job_of(text, options) for text in texts_of(1, 50)))
    size = len(runner.pages._uses)
    for seed in range(2, 6):
        list(engine.run(job_of(text, options) for text in texts_of(seed, 50)))
    assert len(runner.pages._uses) == size
    assert runner.pages.in_use == 0


def test_pages_are_given_back_when_no_text_is_held(model: GLMModel, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = PagedRunner(model, EOS)
    engine, options = Engine(runner), FillOptions()
    least = runner.pages.keys[0].nbytes
    list(engine.run(job_of(text, options) for text in texts_of(1, 50)))
    assert runner.pages.keys[0].nbytes > least, "few enough to be kept"
    monkeypatch.setattr("openglm.engine.pages.KEPT_BYTES", 0)
    found = [job.seqs[0].part_b.fills for job in engine.run(job_of(text, options) for text in texts_of(2, 50))]
    assert runner.pages.keys[0].nbytes == least
    assert found == [plainly(model, text) for text in texts_of(2, 50)]


def test_forks_share_pages_until_they_differ(model: GLMModel) -> None:
    runner = PagedRunner(model, EOS)
    text = runner.allocate(101)
    runner.prefill([text], [lay_out(PartA(np.arange(100), np.array([5])), [[]], MARKERS)])
    forks = [runner.fork(text) for _ in range(5)]
    assert runner.pages.in_use == 2
    runner.decode(forks, [(token, 5, 2) for token in range(5)])
    runner.append(forks)
    assert runner.pages.in_use == 2 + 5
    # each fork sees its own token: what follows differs
    logits = runner.decode([text, *forks], [(1, 5, 2)] + [(9, 5, 3)] * 5)
    assert len({round(float(row[0]), 4) for row in logits[1:]}) == 5
    for held in [text, *forks]:
        runner.free(held)
    assert runner.pages.in_use == 0


def test_cancelling_frees_at_once(model: GLMModel) -> None:
    runner = PagedRunner(model, EOS)
    engine, options = Engine(runner), FillOptions()
    jobs = [job_of(([1, 2, 3], [1], [(60, 60)]), options, copies=4) for _ in range(3)]
    for job in jobs:
        engine.submit(job)
    engine.step()
    assert runner.num_held == 12
    engine.cancel(jobs[0])
    assert runner.num_held == 8
    engine.cancel(jobs[0])  # twice is once
    running = engine.run([job_of(([1], [0], [(5, 5)]), options)])
    next(running)
    engine.cancel(jobs[1])
    engine.cancel(jobs[2])
    assert runner.num_held == engine.running == 0


def test_threads_share_passes(model: GLMModel) -> None:
    """Calls from several threads at once give what they give alone, in fewer passes."""
    runner = PagedRunner(model, EOS)
    passes, decode = [0], runner.decode

    def counted(*arguments: object) -> torch.Tensor:
        passes[0] += 1
        return decode(*arguments)  # type: ignore[arg-type]

    runner.decode = counted  # type: ignore[method-assign]
    engine, options = Engine(runner), FillOptions()
    texts = [([n, n + 1, n + 2], [1], [(20, 20)]) for n in range(8)]
    alone = []
    for text in texts:
        alone += [job.seqs[0].part_b.fills for job in engine.run([job_of(text, options)])]
    alone_passes, passes[0] = passes[0], 0
    found: dict[int, object] = {}
    barrier = threading.Barrier(8)

    def work(number: int) -> None:
        barrier.wait()
        [job] = engine.run([job_of(texts[number], options)])
        found[number] = job.seqs[0].part_b.fills

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[n] for n in range(8)] == alone
    assert passes[0] < alone_passes / 2
    assert runner.num_held == 0


def test_jobs_come_back_in_order_and_are_drawn_late(model: GLMModel) -> None:
    drawn = 0
    options = FillOptions()

    def jobs() -> object:
        nonlocal drawn
        for n in range(5000):
            drawn += 1
            yield job_of(([n % SOP], [0], [(0, 1 + n % 3)]), options)

    engine = Engine(PagedRunner(model, EOS))
    running = engine.run(jobs())  # type: ignore[arg-type]
    first = [next(running).layout.input_ids[0] for _ in range(50)]
    assert first == list(range(50))
    assert drawn <= 1200
    running.close()  # type: ignore[attr-defined]
    assert engine.queued == engine.running == 0


@pytest.mark.parametrize("kind", RUNNERS)
def test_a_sequence_that_waits_is_not_written_to(model: GLMModel, kind: type) -> None:
    """Others are decoded meanwhile, in any order, longer and shorter ones."""
    runner, layouts = (
        kind(model, EOS),
        [lay_out(PartA(np.arange(n) % SOP, np.array([1])), [[]], MARKERS) for n in (150, 20, 150)],
    )
    handles = [runner.allocate(len(layout)) for layout in layouts]
    with torch.inference_mode():
        runner.prefill(handles, layouts)
        expected = runner.decode(handles[:1], [(7, 1, 2)])
        for _ in range(120):
            runner.decode(handles[1:2], [(9, 1, 2)])
            runner.append(handles[1:2])
        runner.decode(handles[2:], [(9, 1, 2)])
        torch.testing.assert_close(runner.decode(handles[:1], [(7, 1, 2)]), expected, atol=1e-4, rtol=0)


def test_beams_on_either_memory(tokenizer: BilingualTokenizer, tiny_model: GLMModel) -> None:
    """Slots copy where pages share; the search is the same."""
    paged, slotted = Infiller(tiny_model, tokenizer), Infiller(tiny_model, tokenizer)
    slotted.engine = Engine(SlotRunner(tiny_model, tokenizer.eos))
    text, options = "the [MASK] old [MASK][MASK] bridge", {"num_beams": 4, "num_return_sequences": 4}
    ours, theirs = (each.fill(text, max_new_tokens=5, **options) for each in (paged, slotted))
    answers = [[blank.token_ids for blank in answer.blanks] for answer in (ours, *ours.alternatives)]
    assert answers == [[blank.token_ids for blank in answer.blanks] for answer in (theirs, *theirs.alternatives)]
    assert paged.engine.runner.num_held == slotted.engine.runner.num_held == 0


@given(st.lists(st.integers(1, 500), max_size=60), st.integers(1, 4000))
def test_groups_hold_every_text_once_and_pad_little(lengths: list[int], positions: int) -> None:
    groups = list(similar_lengths(lengths, positions))
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    for group in groups:
        longest, shortest = max(lengths[i] for i in group), min(lengths[i] for i in group)
        assert longest <= 1.25 * shortest + 8
        assert len(group) == 1 or longest * len(group) <= positions


def test_a_job_must_say_what_it_does(model: GLMModel) -> None:
    class Silent(Job):
        """Says nothing."""

    with pytest.raises(TypeError, match=r"abstract.*advance.*begin.*outputs.*release.*running_seqs"):
        Silent(lay_out(PartA(np.array([1]), np.array([0])), [[]], MARKERS), num_seqs=1, max_tokens=1, num_answers=1)  # type: ignore[abstract]


def test_beams_cannot_be_stopped_one_by_one(tokenizer: BilingualTokenizer, tiny_model: GLMModel) -> None:
    request = Infiller(tiny_model, tokenizer).request("the [MASK] bridge", num_beams=2)
    with pytest.raises(NotImplementedError, match="answer 1"):
        request.job.stop(1)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads resident runner from /proc")
def test_ten_thousand_fills_leave_no_more_than_a_thousand(tiny_model: GLMModel, tokenizer: BilingualTokenizer) -> None:
    infiller = Infiller(tiny_model, tokenizer)

    def fill(times: int) -> int:
        for number in range(times):
            texts = [f"the {number} [MASK] old [MASK] bridge", "老师[MASK]走到了。", "[MASK]", "a [sMASK] b"]
            infiller.fill(texts, max_new_tokens=3)
            next(infiller.stream(texts[0], max_new_tokens=5))  # left in the middle
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    after_a_thousand = fill(200)
    assert fill(1800) < after_a_thousand + 8 * 2**20
    assert infiller.engine.runner.num_held == 0


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling for a CPU needs g++")
@pytest.mark.parametrize("runner", [PagedRunner, SlotRunner])
def test_a_compiled_network_writes_the_same(model: GLMModel, runner: type[PagedRunner | SlotRunner]) -> None:
    """Slots: what a GPU runs as CUDA graphs, compiled here for the CPU."""
    texts, options = texts_of(5, 12), FillOptions()
    compiled = Engine(runner(model, EOS, compile=True))
    found = [job.seqs[0].part_b.fills for job in compiled.run(job_of(text, options) for text in texts)]
    assert found == [plainly(model, text) for text in texts]
