"""Batches: functions of their number, full rows, windows of real documents, sources by weight."""

from __future__ import annotations

import signal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openglm.batches import NO_DOCUMENT, Arrays, Batch
from openglm.data.rows import SHORTEST, cut, draw_documents
from openglm.data.samples import OBJECTIVE_NAMES, SampleMaker
from openglm.data.shards import Shard
from openglm.data.spans import Objectives
from openglm.data.stream import BatchStream, Source
from openglm.errors import DataError, OptionError
from openglm.layouts import Layout, put_back
from openglm.tokenizer import BilingualTokenizer

Ids = np.ndarray[Any, np.dtype[np.int64]]


@pytest.fixture(scope="module")
def documents(tokenizer: BilingualTokenizer, text_lines: list[str]) -> list[Ids]:
    """Sixty texts of one to nine lines."""
    texts = ["\n".join(text_lines[i : i + 1 + i % 9]) for i in range(0, 300, 5)]
    return [np.array(tokenizer.encode(text)) for text in texts]


@pytest.fixture(scope="module")
def source(tokenizer: BilingualTokenizer, documents: list[Ids]) -> Source:
    return Source("text", Shard.from_documents(documents, tokenizer), 1.0)


def stream_of(source: Source, tokenizer: BilingualTokenizer, **settings: Any) -> BatchStream:
    maker = SampleMaker(tokenizer, settings.pop("objectives", Objectives()))
    return BatchStream([source], maker, **{"rows": 4, "length": 96, "short_probability": 0.2, "seed": 3, **settings})


def content(batch: Batch[Arrays]) -> list[bytes]:
    names = ("groups", "input_ids", "targets", "loss_mask", "position_ids", "documents", "chosen")
    parts = [getattr(batch, name) for name in names]
    return [part.tobytes() for part in parts]


def test_batches_depend_on_their_number_alone(source: Source, tokenizer: BilingualTokenizer) -> None:
    stream = stream_of(source, tokenizer)
    forwards = [content(stream.batch(number)) for number in range(5)]
    backwards = [content(stream.batch(number)) for number in reversed(range(5))][::-1]
    fresh = content(stream_of(source, tokenizer).batch(3))
    assert forwards == backwards
    assert forwards[3] == fresh
    assert len({parts[1] for parts in forwards}) == 5, "every batch has data of its own"
    assert content(stream_of(source, tokenizer, seed=4).batch(3)) != fresh


def layouts_in(batch: Batch[Arrays]) -> list[tuple[Layout, str]]:
    out = []
    groups = np.full(batch.input_ids.size, -1)
    groups[batch.chosen] = batch.groups
    groups = groups.reshape(batch.input_ids.shape)
    for row in range(len(batch.input_ids)):
        for number in range(batch.documents[row].max() + 1):
            here = batch.documents[row] == number
            names = set(groups[row, here & batch.loss_mask[row]].tolist())
            assert len(names) == 1
            layout = Layout(
                batch.input_ids[row, here],
                batch.targets[row, here],
                batch.loss_mask[row, here],
                batch.position_ids[row, 0, here],
                batch.position_ids[row, 1, here],
                int(batch.in_part_a[row, here].sum()),
            )
            out.append((layout, OBJECTIVE_NAMES[names.pop()]))
    return out


@pytest.mark.parametrize("length", [32, 64, 200])
@pytest.mark.parametrize("short_probability", [0.0, 1.0])
def test_batches_hold_windows_of_the_corpus(
    source: Source, tokenizer: BilingualTokenizer, documents: list[Ids], length: int, short_probability: float
) -> None:
    """Every sample, put back, is a piece of one document after [CLS]; eos only where a document or sentence ends."""
    whole = [document.tolist() for document in documents]
    stream = stream_of(source, tokenizer, length=length, short_probability=short_probability)
    seen = set()
    for number in range(6):
        batch = stream.batch(number)
        assert batch.input_ids.shape == (4, length)
        assert batch.tokens == (batch.documents != NO_DOCUMENT).sum()
        assert batch.chosen.tolist() == np.flatnonzero(batch.loss_mask).tolist()
        assert batch.counts == tuple(np.bincount(batch.groups, minlength=3).tolist())
        assert (batch.position_ids < length).all()
        for layout, objective in layouts_in(batch):
            seen.add(objective)
            closed = layout.targets[-1] == tokenizer.markers.eop
            object.__setattr__(layout, "ends_with_eop", bool(closed))
            text = put_back(layout).tolist()
            assert text[0] == tokenizer.cls
            ended = text[-1] == tokenizer.eos
            inner = text[1 : -1 if ended else None]
            assert inner
            found = [(d, i) for d in whole for i in range(len(d) - len(inner) + 1) if d[i : i + len(inner)] == inner]
            assert found
            ends = tokenizer.sentence_ends
            assert not ended or any(i + len(inner) == len(d) or ends[inner[-1]] for d, i in found)
    assert seen == set(OBJECTIVE_NAMES)


def test_samples_are_those_of_the_batch(source: Source, tokenizer: BilingualTokenizer) -> None:
    stream = stream_of(source, tokenizer)
    shown = [sample for row in stream.rows_of_samples(2) for sample in row]
    for (layout, name), (placed, objective) in zip(shown, layouts_in(stream.batch(2)), strict=True):
        assert name == objective
        assert layout.input_ids.tolist() == placed.input_ids.tolist()
        assert layout.targets.tolist() == placed.targets.tolist()


@given(
    st.lists(st.integers(1, 120), min_size=1, max_size=30),
    st.sampled_from(OBJECTIVE_NAMES),
    st.sampled_from([0.0, 0.5, 1.0]),
    st.integers(0, 10_000),
)
def test_rows_of_any_corpus(
    tokenizer: BilingualTokenizer, sizes: list[int], objective: str, short: float, seed: int
) -> None:
    """Rows are never too long, every sample has its spans, and padding is only what no text fits into."""
    rng = np.random.default_rng(seed)
    texts = [rng.integers(0, tokenizer.num_pieces, size) for size in [*sizes, 9]]
    source = Source("any", Shard.from_documents(texts, tokenizer), 1.0)
    settings = Objectives(whole_words=0.5, input_noise=0.1, context_noise=0.02, single_span=0.1).only(objective)
    batch = stream_of(source, tokenizer, objectives=settings, short_probability=short, seed=seed).batch(0)
    used = batch.used_mask.sum(axis=1)
    assert ((used > 96 - SHORTEST) & (used <= 96)).all()
    for layout, _ in layouts_in(batch):
        assert layout.loss_mask.any()
        assert 0 < layout.separator < len(layout)


@pytest.mark.parametrize("objective", [*OBJECTIVE_NAMES, None])
def test_rows_are_full(tokenizer: BilingualTokenizer, text_lines: list[str], objective: str | None) -> None:
    """At least 98 % of positions are used when documents are longer than rows."""
    text = np.array(tokenizer.encode("\n".join(text_lines)))
    source = Source("long", Shard.from_documents([text, text[:2000], text[100:300]], tokenizer), 1.0)
    objectives = Objectives() if objective is None else Objectives().only(objective)
    stream = stream_of(source, tokenizer, length=256, short_probability=0.02, objectives=objectives)
    assert np.mean([stream.batch(number).used for number in range(8)]) > 0.98


def test_token_share_of_full_rows(tokenizer: BilingualTokenizer, text_lines: list[str]) -> None:
    """Windows cut to fit are blanked out as much as whole texts: `token_ratio`, or up to one span more."""
    text = np.array(tokenizer.encode("\n".join(text_lines)))
    source = Source("long", Shard.from_documents([text], tokenizer), 1.0)
    for ratio in (0.15, 0.3):
        stream = stream_of(
            source, tokenizer, rows=64, length=256, short_probability=0.0,
            objectives=Objectives(1.0, 0.0, 0.0, token_ratio=ratio),
        )  # fmt: skip
        layouts = [layout for layout, _ in layouts_in(stream.batch(0)) if len(layout) == 256]
        assert len(layouts) > 40
        spans = np.array([(layout.block_position_ids == 1).sum() for layout in layouts])
        blanked = np.array([layout.loss_mask.sum() for layout in layouts]) - spans
        texts = 256 - 2 * spans
        # A window may have grown by three tokens after its spans were chosen (no end token, one span less).
        assert (blanked >= (ratio * (texts - 3)).astype(int)).all()
        assert (blanked - ratio * texts).mean() < 4


def test_windows_begin_and_end_with_sentences(tokenizer: BilingualTokenizer, text_lines: list[str]) -> None:
    """Short ones on both sides, those that fill a row on one; and full windows keep their length."""
    shard = Shard.from_documents([np.array(tokenizer.encode("\n".join(text_lines)))], tokenizer)
    rng = np.random.default_rng(1)
    where = draw_documents(rng, [shard], np.ones(1), 500)
    wanted = np.full(500, 90)
    marks = set(np.asarray(shard.sentences).tolist()) | {0}
    for fills in (True, False):
        windows, open_right = cut(rng, [shard], *where, wanted, np.full(500, fills))
        begins = np.array([start in marks for start in windows.starts.tolist()])
        ends = np.array([end in marks for end in (windows.starts + windows.lengths).tolist()])
        assert (windows.closed == ~open_right).all()
        assert (ends >= windows.closed).all()
        if fills:
            assert (windows.lengths[windows.starts > 0] == 90).all()
            assert (begins | ends).mean() > 0.95
            assert 0.4 < begins.mean() < 0.65
            assert 0.4 < ends.mean() < 0.65
        else:
            assert begins.mean() > 0.95
            assert ends.mean() > 0.95


def test_sources_are_drawn_by_weight(source: Source, tokenizer: BilingualTokenizer) -> None:
    z = np.array(tokenizer.encode("zzzz"))
    other = Source("other", Shard.from_documents([np.repeat(z[:1], 60)] * 20, tokenizer), 3.0)
    maker = SampleMaker(tokenizer, Objectives())
    stream = BatchStream([source, other], maker, rows=8, length=64, short_probability=1.0, seed=0)
    samples = [layout for number in range(20) for layout, _ in layouts_in(stream.batch(number))]
    share = sum(z[0] in layout.targets.tolist() for layout in samples) / len(samples)
    assert 0.65 < share < 0.85


def test_corpus_of_crumbs_is_refused(tokenizer: BilingualTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Documents of one token give no sample at all; that must be said, not tried for ever."""
    crumbs = Source("crumbs", Shard.from_documents([np.array([9]), np.array([10])], tokenizer), 1.0)
    monkeypatch.setattr("openglm.data.rows.TRIES", 100)

    def give_up(number: int, frame: object) -> None:
        raise TimeoutError("still looking for a sample")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(60)  # only to end a search that would never end
    try:
        with pytest.raises(DataError, match="crumbs"):
            stream_of(crumbs, tokenizer).batch(0)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("settings", [{"rows": 0}, {"length": 31}])
def test_impossible_batches_are_refused(source: Source, tokenizer: BilingualTokenizer, settings: Any) -> None:
    with pytest.raises(OptionError):
        stream_of(source, tokenizer, **settings)


def test_streams_need_sources_of_some_weight(source: Source, tokenizer: BilingualTokenizer) -> None:
    maker = SampleMaker(tokenizer, Objectives())
    with pytest.raises(DataError):
        BatchStream([], maker, rows=1, length=64)
    with pytest.raises(OptionError, match="weight"):
        BatchStream([Source("none", source.shard, 0.0)], maker, rows=1, length=64)
