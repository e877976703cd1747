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

from openglm.blanks import Markers, Writer, lay_out
from openglm.engine import native
from openglm.engine.decoding import Answers, Ends, Row
from openglm.engine.engine import Engine, Job
from openglm.engine.jobs import move_on
from openglm.engine.memory import Memory, PagedMemory, evenly
from openglm.engine.options import FillOptions
from openglm.engine.slots import SlotMemory
from openglm.infill.infiller import Infiller
from openglm.network.attention import prefix_mask
from openglm.network.config import GLMConfig
from openglm.network.model import GLMModel
from openglm.tokenizer import BilingualTokenizer

V, SOP, EOP, EOS = 128, 120, 121, 122
MARKERS = Markers(sop=SOP, eop=EOP)
NEVER = torch.arange(V) >= SOP
NEVER[[EOP, EOS]] = False
ENDS = Ends((EOP, EOS), NEVER)
MEMORIES: list[Callable[[GLMModel, int], Memory]] = [PagedMemory, SlotMemory]
if shutil.which(native.compiler()) and native.instructions() is not None:

    def with_kernel(model: GLMModel, pad_id: int) -> PagedMemory:
        memory = PagedMemory(model, pad_id)
        memory._fresh, memory._step = native.NativeFresh, native.NativeStep
        return memory

    MEMORIES.append(with_kernel)

Text = tuple[list[int], list[int], list[tuple[int, int]]]  # Part A, where its blanks are, their limits


@pytest.fixture(scope="module")
def model() -> GLMModel:
    torch.manual_seed(3)
    return GLMModel(GLMConfig(2, 32, 2, V, max_sequence_length=192, initializer_range=0.4)).eval()


@torch.inference_mode()
def plainly(model: GLMModel, text: Text) -> list[list[int]]:
    """Greedy fills without any cache."""
    part_a, positions, limits = text
    fills: list[list[int]] = []
    for blank, (fewest, most) in enumerate(limits):
        fills.append([])
        while len(fills[-1]) < most:
            layout = lay_out(np.array(part_a), positions[: blank + 1], [np.array(f, np.int64) for f in fills], MARKERS)
            ids = torch.from_numpy(layout.input_ids)[None]
            places = torch.from_numpy(np.stack([layout.position_ids, layout.block_position_ids]))[None]
            logits = model(ids, places, prefix_mask(torch.tensor([layout.separator]), len(layout)))[0, -1]
            logits = logits.masked_fill(NEVER, -torch.inf)
            if len(fills[-1]) < fewest:
                logits[[EOP, EOS]] = -torch.inf
            token = int(logits.argmax())
            if token in ENDS.ending:
                break
            fills[-1].append(token)
    return fills


def job_of(text: Text, options: FillOptions, copies: int = 1) -> Answers:
    part_a, positions, limits = text
    rows = [Row(Writer(positions, MARKERS), limits, np.random.default_rng(copy)) for copy in range(copies)]
    return Answers(lay_out(np.array(part_a), positions[:1], [[]], MARKERS), rows, options, ENDS)


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


@pytest.mark.parametrize("kind", MEMORIES)
def test_a_thousand_texts_are_filled_as_one_by_one_without_a_cache(model: GLMModel, kind: type) -> None:
    texts = texts_of(0, 100 if kind is SlotMemory else 1000)
    memory = kind(model, EOS)
    engine = Engine(memory, move_on, max_lines=24, cache_bytes=1500 * memory.bytes_per_token())
    options = FillOptions()
    found = [job.rows[0].writer.fills for job in engine.run(job_of(text, options) for text in texts)]
    assert found == [plainly(model, text) for text in texts]
    assert memory.texts_held == 0
    assert engine.running == engine.queued == 0


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6), lines=st.integers(1, 12), room=st.integers(50, 2000), kind=st.sampled_from(MEMORIES))
def test_room_changes_nothing(model: GLMModel, seed: int, lines: int, room: int, kind: type) -> None:
    """However many texts fit at once, each gets what it gets alone; samples too."""
    texts, options = texts_of(seed, 8), FillOptions(temperature=0.7)
    memory = kind(model, EOS)
    engine = Engine(memory, move_on, max_lines=lines, cache_bytes=room * memory.bytes_per_token())
    together = [job.rows for job in engine.run(job_of(text, options, copies=3) for text in texts)]
    for text, rows in zip(texts, together, strict=True):
        [alone] = Engine(kind(model, EOS), move_on).run([job_of(text, options, copies=3)])
        assert [row.writer.fills for row in rows] == [row.writer.fills for row in alone.rows]
    assert memory.texts_held == 0


def test_pages_are_used_again(model: GLMModel) -> None:
    memory = PagedMemory(model, EOS)
    engine, options = Engine(memory, move_on, max_lines=8), FillOptions()
    list(engine.run(job_of(text, options) for text in texts_of(1, 50)))
    size = len(memory.pages._uses)
    for seed in range(2, 6):
        list(engine.run(job_of(text, options) for text in texts_of(seed, 50)))
    assert len(memory.pages._uses) == size
    assert memory.pages.in_use == 0


def test_pages_are_given_back_when_no_text_is_held(model: GLMModel, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = PagedMemory(model, EOS)
    engine, options = Engine(memory, move_on), FillOptions()
    least = memory.pages.keys[0].nbytes
    list(engine.run(job_of(text, options) for text in texts_of(1, 50)))
    assert memory.pages.keys[0].nbytes > least, "few enough to be kept"
    monkeypatch.setattr("openglm.engine.pages.KEPT_BYTES", 0)
    found = [job.rows[0].writer.fills for job in engine.run(job_of(text, options) for text in texts_of(2, 50))]
    assert memory.pages.keys[0].nbytes == least
    assert found == [plainly(model, text) for text in texts_of(2, 50)]


def test_forks_share_pages_until_they_differ(model: GLMModel) -> None:
    memory = PagedMemory(model, EOS)
    [text], _ = memory.read([lay_out(np.arange(100), [5], [[]], MARKERS)])
    forks = [memory.fork(text) for _ in range(5)]
    assert memory.pages.in_use == 2
    memory.step(forks, [(token, 5, 2) for token in range(5)])
    assert memory.pages.in_use == 2 + 5
    # each fork sees its own token: what follows differs
    logits = memory.step([text, *forks], [(1, 5, 2)] + [(9, 5, 3)] * 5)
    assert len({round(float(row[0]), 4) for row in logits[1:]}) == 5
    for held in [text, *forks]:
        memory.free(held)
    assert memory.pages.in_use == 0


def test_cancelling_frees_at_once(model: GLMModel) -> None:
    memory = PagedMemory(model, EOS)
    engine, options = Engine(memory, move_on), FillOptions()
    jobs = [job_of(([1, 2, 3], [1], [(60, 60)]), options, copies=4) for _ in range(3)]
    for job in jobs:
        engine.submit(job)
    engine.step()
    assert memory.texts_held == 12
    engine.cancel(jobs[0])
    assert memory.texts_held == 8
    engine.cancel(jobs[0])  # twice is once
    running = engine.run([job_of(([1], [0], [(5, 5)]), options)])
    next(running)
    engine.cancel(jobs[1])
    engine.cancel(jobs[2])
    assert memory.texts_held == engine.running == 0


def test_an_interrupted_run_leaves_nothing(model: GLMModel) -> None:
    memory = PagedMemory(model, EOS)
    engine, options, steps = Engine(memory, move_on, max_lines=4), FillOptions(), 0

    def interrupted(moved: object, memory: object) -> None:
        nonlocal steps
        steps += 1
        if steps == 5:
            raise KeyboardInterrupt
        move_on(moved, memory)  # type: ignore[arg-type]

    engine._decide = interrupted
    jobs = [job_of(text, options) for text in texts_of(4, 20)]
    with pytest.raises(KeyboardInterrupt):
        list(engine.run(jobs))
    assert memory.texts_held == memory.pages.in_use == engine.running == engine.queued == 0
    assert [job.rows[0].writer.fills for job in engine.run([job_of(t, options) for t in texts_of(4, 20)])]


def test_threads_share_passes(model: GLMModel) -> None:
    """Calls from several threads at once give what they give alone, in fewer passes."""
    memory = PagedMemory(model, EOS)
    passes, step = [0], memory.step

    def counted(*arguments: object) -> torch.Tensor:
        passes[0] += 1
        return step(*arguments)  # type: ignore[arg-type]

    memory.step = counted  # type: ignore[method-assign]
    engine, options = Engine(memory, move_on), FillOptions()
    texts = [([n, n + 1, n + 2], [1], [(20, 20)]) for n in range(8)]
    alone = []
    for text in texts:
        alone += [job.rows[0].writer.fills for job in engine.run([job_of(text, options)])]
    alone_passes, passes[0] = passes[0], 0
    found: dict[int, object] = {}
    barrier = threading.Barrier(8)

    def work(number: int) -> None:
        barrier.wait()
        [job] = engine.run([job_of(texts[number], options)])
        found[number] = job.rows[0].writer.fills

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[n] for n in range(8)] == alone
    assert passes[0] < alone_passes / 2
    assert memory.texts_held == 0


def test_jobs_come_back_in_order_and_are_drawn_late(model: GLMModel) -> None:
    drawn = 0
    options = FillOptions()

    def jobs() -> object:
        nonlocal drawn
        for n in range(5000):
            drawn += 1
            yield job_of(([n % SOP], [0], [(0, 1 + n % 3)]), options)

    engine = Engine(PagedMemory(model, EOS), move_on)
    running = engine.run(jobs())  # type: ignore[arg-type]
    first = [next(running).layout.input_ids[0] for _ in range(50)]
    assert first == list(range(50))
    assert drawn <= 1200
    running.close()  # type: ignore[attr-defined]
    assert engine.queued == engine.running == 0


def test_beams_on_either_memory(tokenizer: BilingualTokenizer, tiny_model: GLMModel) -> None:
    """Slots copy where pages share; the search is the same."""
    paged, slotted = Infiller(tiny_model, tokenizer), Infiller(tiny_model, tokenizer)
    slotted.engine = Engine(SlotMemory(tiny_model, tokenizer.eos), move_on)
    text, options = "the [MASK] old [MASK][MASK] bridge", {"num_beams": 4, "num_return_sequences": 4}
    ours, theirs = (each.fill(text, max_new_tokens=5, **options) for each in (paged, slotted))
    answers = [[blank.token_ids for blank in answer.blanks] for answer in (ours, *ours.alternatives)]
    assert answers == [[blank.token_ids for blank in answer.blanks] for answer in (theirs, *theirs.alternatives)]
    assert paged.engine.memory.texts_held == slotted.engine.memory.texts_held == 0


@given(st.lists(st.integers(1, 500), max_size=60), st.integers(1, 4000))
def test_groups_hold_every_text_once_and_pad_little(lengths: list[int], positions: int) -> None:
    groups = list(evenly(lengths, positions))
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    for group in groups:
        longest, shortest = max(lengths[i] for i in group), min(lengths[i] for i in group)
        assert longest <= 1.25 * shortest + 8
        assert len(group) == 1 or longest * len(group) <= positions


def test_a_job_must_say_what_it_does() -> None:
    job = Job()
    for call in (lambda: job.begin(None, 0), job.open_lines, lambda: job.release(None)):  # type: ignore[arg-type]
        with pytest.raises(NotImplementedError):
            call()


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads resident memory from /proc")
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
    assert infiller.engine.memory.texts_held == 0


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling for a CPU needs g++")
@pytest.mark.parametrize("memory", [PagedMemory, SlotMemory])
def test_a_compiled_network_writes_the_same(model: GLMModel, memory: type[PagedMemory | SlotMemory]) -> None:
    """Slots: what a GPU runs as CUDA graphs, compiled here for the CPU."""
    texts, options = texts_of(5, 12), FillOptions()
    compiled = Engine(memory(model, EOS, compile=True), move_on)
    found = [job.rows[0].writer.fills for job in compiled.run(job_of(text, options) for text in texts)]
    assert found == [plainly(model, text) for text in texts]
