"""Which spans are blanked out: the same statistics as recorded from the original code."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from math import factorial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.random import Generator

from openglm.blanks import BlankKind
from openglm.data.samples import OBJECTIVE_NAMES, Blanked, SampleMaker, Windows
from openglm.data.shards import Shard
from openglm.data.spans import MAX_SPAN, Objectives, draw_lengths, place_spans, sentence_spans, token_spans
from openglm.errors import OptionError
from openglm.layouts import Layout, Layouts, fills_of, put_back
from openglm.tokenizer import BilingualTokenizer, ChineseTokenizer

DRAWS = 4000


@pytest.fixture(scope="module")
def recorded(reference: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((reference / "pretrain.json").read_text(encoding="utf-8"))
    return values


@pytest.fixture
def rng() -> Generator:
    return np.random.default_rng(5)


def assert_same_distribution(ours: Mapping[Any, int], theirs: Mapping[Any, float]) -> None:
    """Pearson's chi-square for two samples, five standard deviations wide; rare values are pooled."""
    total_ours, total_theirs = sum(ours.values()), sum(theirs.values())
    bins: list[list[float]] = []
    rest = [0.0, 0.0]
    for key in sorted({*ours, *theirs}, key=str):
        pair = [float(ours.get(key, 0)), float(theirs.get(key, 0))]
        if sum(pair) >= 20:
            bins.append(pair)
        else:
            rest = [a + b for a, b in zip(rest, pair, strict=True)]
    if sum(rest):
        bins.append(rest)
    scale = (total_theirs / total_ours) ** 0.5
    chi2 = sum((a * scale - b / scale) ** 2 / (a + b) for a, b in bins)
    freedom = len(bins) - 1
    assert freedom > 0
    assert chi2 < freedom + 5 * (2 * freedom) ** 0.5, f"chi-square {chi2:.0f} at {freedom} degrees of freedom"


def assert_mean(values: np.ndarray[Any, Any], mean: float, std: float, count: int) -> None:
    """The means of two samples differ by at most five standard errors."""
    error = std * (1 / len(values) + 1 / count) ** 0.5
    assert abs(values.mean() - mean) < 5 * error


# --- token objective -----------------------------------------------------------------


def test_poisson_weights(recorded: dict[str, Any], rng: Generator) -> None:
    weights = np.array(recorded["poisson_weights_1_to_39"])
    assert MAX_SPAN == len(weights) == 39
    np.testing.assert_allclose(weights, [3.0**k * np.exp(-3.0) / factorial(k) for k in range(1, 40)], rtol=1e-6)
    first = Counter(draw_lengths(rng, 5 * DRAWS, 1)[:, 0].tolist())
    expected = {k: 1e7 * weight / weights.sum() for k, weight in enumerate(weights.tolist(), 1)}
    assert_same_distribution(first, expected)


@pytest.mark.parametrize(("mean", "expected"), [(3.0, 3.157), (1.0, 1.582), (6.0, 6.015)])
def test_mean_span(rng: Generator, mean: float, expected: float) -> None:
    """The mean of a Poisson distribution without its zero."""
    lengths = draw_lengths(rng, 400, 500, mean)
    assert lengths.sum(axis=1).min() >= 500
    assert lengths.mean() == pytest.approx(expected, abs=0.03)
    assert lengths.min() == 1
    assert lengths.max() <= MAX_SPAN


def test_lengths_stop_as_soon_as_they_suffice(rng: Generator) -> None:
    for total in (1, 2, 5, 38, 200):
        for starts, ends in token_draws(rng, 1000, total, count=200):
            lengths = ends - starts
            # The last one drawn may stand anywhere; without it there was too little.
            assert total <= lengths.sum() < total + lengths.max()


Bounds = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]


def token_draws(rng: Generator, room: int, total: int, *, count: int = DRAWS, **options: Any) -> Iterator[Bounds]:
    """Starts and ends of the spans of `count` texts."""
    spans = token_spans(rng, np.full(count, room), np.full(count, total), **options)
    for text in range(count):
        here = spans.owner == text
        yield spans.starts[here], spans.ends[here]


def recorded_gaps(starts: np.ndarray[Any, Any], ends: np.ndarray[Any, Any]) -> list[int]:
    """Tokens between neighbours, as the recorded histogram counts them: up to 61, its last bin holds 60 and 61."""
    return [min(60, gap) for gap in (starts[1:] - ends[:-1]).tolist() if gap <= 61]


@pytest.mark.parametrize("name", ["token_spans", "token_spans_short"])
def test_token_spans(recorded: dict[str, Any], rng: Generator, name: str) -> None:
    theirs = recorded["statistics"][name]
    length, count = theirs["seq_length"], theirs["samples_drawn"]
    lengths: Counter[str] = Counter()
    gaps: Counter[int] = Counter()
    bins: Counter[int] = Counter()
    totals, numbers = [], []
    for starts, ends in token_draws(rng, length - 2, int(0.15 * length)):
        starts, ends = starts + 1, ends + 1  # after [CLS]
        assert starts[0] >= 1
        assert ends[-1] <= length - 1
        assert (starts[1:] > ends[:-1]).all(), "neighbours touch"
        lengths.update(str(size) for size in (ends - starts).tolist())
        gaps.update(recorded_gaps(starts, ends))
        bins.update((starts * 20 // length).tolist())
        totals.append((ends - starts).sum())
        numbers.append(len(starts))
    assert_same_distribution(lengths, theirs["span_length_histogram"])
    assert_same_distribution(gaps, dict(enumerate(theirs["gap_between_neighbouring_spans_histogram_0_to_60"])))
    assert_same_distribution(bins, dict(enumerate(theirs["span_start_relative_histogram_20_bins"])))
    assert_mean(np.array(totals), theirs["masked_total_mean"], theirs["masked_total_std"], count)
    assert_mean(np.array(numbers), theirs["span_count_mean"], theirs["span_count_std"], count)
    assert np.std(totals) == pytest.approx(theirs["masked_total_std"], rel=0.06)
    assert np.std(numbers) == pytest.approx(theirs["span_count_std"], rel=0.06)
    assert min(totals) >= theirs["masked_total_minmax"][0]
    sizes = np.repeat([int(size) for size in lengths], list(lengths.values()))
    assert sizes.mean() == pytest.approx(theirs["span_length_mean"], rel=0.02)
    assert sizes.std() == pytest.approx(theirs["span_length_std"], rel=0.02)


def placements(rng: Generator, lengths: list[int], room: int, count: int = 20_000) -> list[list[int]]:
    sizes = np.tile(lengths, (count, 1))
    placed: list[list[int]] = place_spans(rng, sizes, np.full(count, len(lengths)), np.full(count, room)).tolist()
    return placed


def test_one_span_where_one_is_asked_for(rng: Generator) -> None:
    single = np.arange(DRAWS) % 2 == 0
    spans = token_spans(rng, np.full(DRAWS, 254), np.full(DRAWS, 38), single=single)
    counts = np.bincount(spans.owner)
    assert (counts[single] == 1).all()
    assert counts[~single].mean() > 8
    lengths = (spans.ends - spans.starts)[single[spans.owner]]
    assert lengths.mean() == pytest.approx(3.157, abs=0.2)


@pytest.mark.parametrize(("lengths", "room"), [([3, 2, 4], 20), ([1, 1], 10), ([5], 12)])
def test_placement(recorded: dict[str, Any], rng: Generator, lengths: list[int], room: int) -> None:
    theirs = recorded["span_placement"][f"{lengths}/{room}"]
    placed = placements(rng, lengths, room)
    ours = Counter(",".join(map(str, starts)) for starts in placed)
    assert set(ours) == set(theirs["start_tuples"])
    assert_same_distribution(ours, theirs["start_tuples"])
    covered = Counter(
        position
        for starts in placed
        for start, size in zip(starts, lengths, strict=True)
        for position in range(start, start + size)
    )
    trials = sum(theirs["start_tuples"].values())
    for position, count in enumerate(theirs["coverage_per_position"]):
        assert covered[position] / len(placed) == pytest.approx(count / trials, abs=0.025)


def test_placement_by_the_rule(rng: Generator) -> None:
    """The rule written out: draws with repetition, sorted, each pushed on by what stands before it."""
    lengths, room = [2, 1], 7
    free = room - sum(lengths) - 1
    expected = Counter(
        (low, high + lengths[0] + 1) for low, high in (sorted(d) for d in itertools.product(range(free + 1), repeat=2))
    )
    ours = Counter(map(tuple, placements(rng, lengths, room)))
    assert set(ours) == set(expected)
    assert_same_distribution(ours, {key: 1e5 * count for key, count in expected.items()})


def test_spans_that_do_not_fit_are_fewer(rng: Generator) -> None:
    """Where the original drops a sample, as many spans are kept as the text has room for."""
    for room in range(1, 12):
        for starts, ends in token_draws(rng, room, room, count=50):
            if not len(starts):  # the first length alone was longer than the room
                continue
            assert starts[0] >= 0
            assert ends[-1] <= room
            assert (starts[1:] > ends[:-1]).all()
    assert not len(token_spans(rng, np.zeros(3, np.int64), np.ones(3, np.int64)))


# --- sentence objective --------------------------------------------------------------


def marks_of(ends: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Where sentences end: of several marks in a row the last."""
    return np.flatnonzero(ends & ~np.append(ends[1:], False)) + 1


def windows_on(ends: np.ndarray[Any, Any], bounds: list[tuple[int, int]]) -> Windows:
    """Windows on one text whose sentence marks are given."""
    shard = Shard(np.zeros(len(ends), np.uint16), np.array([0, len(ends)]), marks_of(ends), {})
    starts, stops = np.array(bounds).T
    return Windows([shard], np.zeros_like(starts), starts, stops - starts, np.ones(len(starts), np.bool_))


def sentences_of(text: str, first: int = 0, last: int | None = None) -> list[str]:
    last = len(text) if last is None else last
    flags = np.array([character in ".!?\n" for character in text])
    _, starts, stops = windows_on(flags, [(first, last)]).sentences()
    return [text[first + a - 1 : first + b - 1] for a, b in zip(starts, stops, strict=True)]


def test_sentences_end_at_their_last_mark() -> None:
    assert sentences_of("ab.cd?!\nef.") == ["ab.", "cd?!\n", "ef."]
    assert sentences_of("ab.cd") == ["ab.", "cd"]
    assert sentences_of("abcd") == ["abcd"]


def test_sentences_of_a_window() -> None:
    assert sentences_of("[ab.cd.ef]", 1, 9) == ["ab.", "cd.", "ef"]
    assert sentences_of("[ab.cd.ef]", 1, 7) == ["ab.", "cd."]


def test_sentences_of_several_windows(rng: Generator) -> None:
    ends = rng.random(300) < 0.1
    bounds = [(int(a), int(a + n)) for a, n in zip(rng.integers(0, 200, 40), rng.integers(1, 100, 40), strict=True)]
    owner, starts, stops = windows_on(ends, bounds).sentences()
    for number, pair in enumerate(bounds):
        _, alone_starts, alone_stops = windows_on(ends, [pair]).sentences()
        assert starts[owner == number].tolist() == alone_starts.tolist()
        assert stops[owner == number].tolist() == alone_stops.tolist()
        assert alone_starts[0] == 1
        assert alone_stops[-1] == pair[1] - pair[0] + 1
        assert alone_starts[1:].tolist() == alone_stops[:-1].tolist()


def sentence_draws(rng: Generator, length: int, total: int, rate: float, count: int) -> Iterator[tuple[Bounds, Bounds]]:
    """All sentences of `count` texts, and the chosen ones; texts without a choice are left out."""
    windows = windows_on(rng.random(length * count) < rate, [(i * length, (i + 1) * length) for i in range(count)])
    owner, starts, stops = windows.sentences()
    spans, found = sentence_spans(rng, owner, starts, stops, np.full(count, total))
    for text in np.flatnonzero(found):
        here, chosen = owner == text, spans.owner == text
        yield (starts[here], stops[here]), (spans.starts[chosen], spans.ends[chosen])
    assert not np.isin(spans.owner, np.flatnonzero(~found)).any()


def test_sentence_spans_are_whole_and_just_enough(rng: Generator) -> None:
    seen = 0
    for known, (starts, ends) in sentence_draws(rng, 198, 30, 0.1, 300):
        seen += 1
        pairs, chosen = set(zip(*map(np.ndarray.tolist, known), strict=True)), list(zip(starts, ends, strict=True))
        assert set(chosen) <= pairs
        assert chosen == sorted(chosen)
        sizes = ends - starts
        assert sizes.sum() >= 30
        assert sizes.sum() - sizes.max() < 30 or len(sizes) == 1
        assert len(chosen) < len(pairs), "nothing is left of the text"
    assert seen > 250


def test_sentences_are_at_most_so_many(rng: Generator) -> None:
    windows = windows_on(rng.random(200) < 0.3, [(0, 200)])
    sentences = windows.sentences()
    for most in (1, 2, 3):
        spans, _ = sentence_spans(rng, *sentences, np.array([100]), most=most)
        assert len(spans) == most


def test_sentence_statistics(recorded: dict[str, Any], rng: Generator) -> None:
    """Texts with a sentence end at every 18th token on average, as in the recorded ones."""
    theirs = recorded["statistics"]["sentences"]
    length = theirs["seq_length"]
    totals, numbers = [], []
    gaps: Counter[int] = Counter()
    for _, (starts, ends) in sentence_draws(rng, length - 2, int(0.15 * length), 1 / 18, DRAWS):
        totals.append(int((ends - starts).sum()))
        numbers.append(len(starts))
        gaps.update(recorded_gaps(starts, ends))
    # Runs of sentence ends make one sentence here and several there, hence the tolerance.
    assert np.mean(totals) == pytest.approx(theirs["masked_total_mean"], rel=0.06)
    assert np.mean(numbers) == pytest.approx(theirs["span_count_mean"], rel=0.08)
    deciles = np.quantile(totals, np.linspace(0.1, 0.8, 8)) / length
    np.testing.assert_allclose(deciles, theirs["masked_ratio_deciles"][1:9], rtol=0.06)
    theirs_gaps = theirs["gap_between_neighbouring_spans_histogram_0_to_60"]
    assert gaps[0] / gaps.total() == pytest.approx(theirs_gaps[0] / sum(theirs_gaps), rel=0.1)


def test_pieces_that_end_sentences(recorded: dict[str, Any], chinese_vocabulary: Path) -> None:
    """As many as the original counts in the same vocabulary."""
    tokenizer = ChineseTokenizer(chinese_vocabulary, decoder_mask=True)
    assert tokenizer.sentence_ends.sum() == recorded["sentence_end_piece_count"]


# --- samples -------------------------------------------------------------------------


def maker_for(tokenizer: BilingualTokenizer, objective: str, **settings: float) -> SampleMaker:
    mixture = {name: float(name == objective) for name in ("token", "sentence", "document")}
    # The blanks of the other objectives are needed only where they can be drawn.
    return SampleMaker(tokenizer, Objectives(**mixture, **settings))


def samples(
    maker: SampleMaker,
    rng: Generator,
    tokenizer: BilingualTokenizer,
    texts: list[np.ndarray[Any, Any]],
    objective: str,
    *,
    closed: bool = True,
) -> tuple[Layouts, Blanked]:
    """Layouts of whole texts; a text too short for a span is left as it is."""
    windows = Windows.whole(Shard.from_documents(texts, tokenizer))
    windows.closed[:] = closed
    wanted = np.full(len(texts), OBJECTIVE_NAMES.index(objective), np.int8)
    blanked = maker.blank_out(rng, windows, wanted)
    return maker.lay_out(rng, windows, blanked), blanked


def layouts_of(
    maker: SampleMaker,
    rng: Generator,
    tokenizer: BilingualTokenizer,
    text: np.ndarray[Any, Any],
    objective: str,
    *,
    count: int = DRAWS,
    closed: bool = True,
) -> Layouts:
    """`count` samples of one text, all of the objective asked for."""
    layouts, blanked = samples(maker, rng, tokenizer, [text] * count, objective, closed=closed)
    assert (blanked.objectives == OBJECTIVE_NAMES.index(objective)).all()
    assert (blanked.span_counts > 0).all()
    return layouts


def span_of(layout: Layout) -> tuple[int, int]:
    """Where the only span of a layout stood in the text."""
    [(position, fill)] = fills_of(layout)
    return position, position + len(fill)


def test_document_spans(recorded: dict[str, Any], rng: Generator, tokenizer: BilingualTokenizer) -> None:
    theirs = recorded["statistics"]["document"]
    length = theirs["seq_length"]
    text = np.arange(length - 2) % 500
    whole = [tokenizer.cls, *text.tolist(), tokenizer.eos]
    maker = maker_for(tokenizer, "document")
    sizes: Counter[str] = Counter()
    bins: Counter[int] = Counter()
    suffixes: Counter[int] = Counter()
    for layout in layouts_of(maker, rng, tokenizer, text, "document"):
        assert put_back(layout).tolist() == whole
        start, end = span_of(layout)
        if layout.ends_with_eop:  # in the middle: the published rule
            assert 1 <= start < end <= length - 1
            assert layout.targets[-1] == tokenizer.markers.eop
            sizes[str(end - start)] += 1
            bins[start * 20 // length] += 1
        else:  # the end of the text, its eos included
            assert end == length
            assert layout.targets[-1] == tokenizer.eos
            assert tokenizer.markers.eop not in layout.targets.tolist()
            suffixes[end - start] += 1
    low, high = theirs["span_length_deciles"][0], theirs["span_length_deciles"][-1]
    assert {int(size) for size in sizes} == set(range(int(low), int(high) + 1))
    assert_same_distribution(sizes, theirs["span_length_histogram"])
    assert_same_distribution(bins, dict(enumerate(theirs["span_start_relative_histogram_20_bins"])))
    ours = {"split_tail": suffixes.total(), "blank": sizes.total()}
    assert_same_distribution(ours, theirs["generation_paths"])
    # Here the end may be everything but [CLS]; there it leaves one token more.
    assert set(suffixes) == set(range(int(low), int(high) + 2))
    assert_same_distribution(suffixes, dict.fromkeys(suffixes, 1e4))


def test_document_minimum(recorded: dict[str, Any], rng: Generator, tokenizer: BilingualTokenizer) -> None:
    theirs = recorded["statistics"]["document_min_ratio_0.5"]
    text = np.arange(theirs["seq_length"] - 2) % 500
    maker = maker_for(tokenizer, "document", document_min_ratio=0.5, document_infill=1.0)
    spans = [span_of(layout) for layout in layouts_of(maker, rng, tokenizer, text, "document")]
    sizes = Counter(str(end - start) for start, end in spans)
    assert_same_distribution(sizes, theirs["span_length_histogram"])


def test_unfinished_document_is_not_closed(rng: Generator, tokenizer: BilingualTokenizer) -> None:
    """The end of a window inside a document: no eos, no eop, the text goes on elsewhere."""
    maker = maker_for(tokenizer, "document", document_infill=0.0)
    text = np.arange(40)
    for layout in layouts_of(maker, rng, tokenizer, text, "document", count=200, closed=False):
        assert put_back(layout).tolist() == [tokenizer.cls, *text.tolist()]
        assert layout.targets[-1] == 39
        assert not {tokenizer.eos, tokenizer.markers.eop} & set(layout.targets.tolist())


@pytest.mark.parametrize("objective", ["token", "sentence"])
@pytest.mark.parametrize("closed", [True, False])
def test_text_is_framed_and_put_back(
    rng: Generator, tokenizer: BilingualTokenizer, text_lines: list[str], objective: str, closed: bool
) -> None:
    """These objectives read `[CLS] text`, `<eos>` where the text stops, and blank out neither of the two."""
    text = np.array(tokenizer.encode("\n".join(text_lines[:12])))
    maker = maker_for(tokenizer, objective)
    kind = BlankKind.MASK if objective == "token" else BlankKind.SMASK
    not_in_order = 0
    end = [tokenizer.eos] if closed else []
    for layout in layouts_of(maker, rng, tokenizer, text, objective, count=200, closed=closed):
        assert put_back(layout).tolist() == [tokenizer.cls, *text.tolist(), *end]
        part_a = layout.input_ids[: layout.separator]
        positions = [position for position, _ in fills_of(layout)]
        assert np.flatnonzero(part_a == tokenizer.blank_id(kind)).tolist() == sorted(positions)
        assert part_a[0] == tokenizer.cls
        assert (part_a == tokenizer.eos).tolist() == [False] * (len(part_a) - 1) + [closed]
        assert (layout.targets == tokenizer.markers.eop).sum() == len(positions)
        not_in_order += positions != sorted(positions)
    assert not_in_order > 100


def test_order_in_part_b_is_shuffled(recorded: dict[str, Any], rng: Generator, tokenizer: BilingualTokenizer) -> None:
    theirs = recorded["statistics"]["token_spans_short"]
    text = np.arange(theirs["seq_length"] - 2)
    maker = maker_for(tokenizer, "token")
    several = first_elsewhere = 0
    for layout in layouts_of(maker, rng, tokenizer, text, "token"):
        positions = [position for position, _ in fills_of(layout)]
        several += len(positions) > 1
        first_elsewhere += positions[0] != min(positions)
    expected = theirs["fraction_of_multi_span_samples_where_first_B_span_is_not_leftmost"]
    assert first_elsewhere / several == pytest.approx(expected, abs=0.04)


def test_noise_replaces_inputs_only(recorded: dict[str, Any], rng: Generator, tokenizer: BilingualTokenizer) -> None:
    theirs = recorded["statistics"]["token_spans_short"]
    text = np.arange(theirs["seq_length"] - 2)
    maker = maker_for(tokenizer, "token", input_noise=0.1)
    noise, markers = tokenizer.special["dblock"], tokenizer.markers
    replaced = possible = 0
    for layout in layouts_of(maker, rng, tokenizer, text, "token"):
        assert noise not in layout.targets.tolist()
        assert noise not in layout.input_ids[: layout.separator].tolist()
        assert put_back(layout).tolist() == [tokenizer.cls, *text.tolist(), tokenizer.eos]
        opens = layout.block_position_ids == 1
        assert (layout.input_ids[opens] == markers.sop).all()
        replaced += int((layout.input_ids == noise).sum())
        possible += int((layout.block_position_ids > 1).sum())
    assert replaced / possible == pytest.approx(theirs["dBLOCK_fraction_of_non_sop_part_B_inputs"], abs=0.01)


@pytest.mark.parametrize(("name", "token", "sentence"), [("10B", 0.5, 0.3), ("large_chinese", 0.4, 0.3)])
def test_mixture(
    recorded: dict[str, Any], rng: Generator, tokenizer: BilingualTokenizer, name: str, token: float, sentence: float
) -> None:
    """Drawn for each sample and not for each batch, in the same proportions."""
    maker = SampleMaker(tokenizer, Objectives(token=token, sentence=sentence, document=1 - token - sentence))
    ours = Counter(OBJECTIVE_NAMES[i] for i in maker.choose(rng, 20_000))
    theirs = recorded["mode_mix"][name]["modes"]
    assert_same_distribution(ours, {"token": theirs["bert"], "sentence": theirs["sentence"], "document": theirs["gpt"]})


def test_text_without_two_sentences_falls_back(rng: Generator, tokenizer: BilingualTokenizer) -> None:
    maker = SampleMaker(tokenizer, Objectives())
    text = np.flatnonzero(~tokenizer.sentence_ends[: tokenizer.num_pieces])[:50]
    [layout], blanked = samples(maker, rng, tokenizer, [text], "sentence")
    assert OBJECTIVE_NAMES[blanked.objectives[0]] == "token"
    assert tokenizer.blank_id(BlankKind.MASK) in layout.input_ids.tolist()
    assert tokenizer.blank_id(BlankKind.SMASK) not in layout.input_ids.tolist()


@pytest.mark.parametrize("objective", OBJECTIVE_NAMES)
def test_shortest_texts(rng: Generator, tokenizer: BilingualTokenizer, objective: str) -> None:
    """Either spans that can be put back, or none; never an error."""
    maker = SampleMaker(tokenizer, Objectives())
    texts = [np.arange(10, 10 + length) for length in range(1, 7) for _ in range(50)]
    layouts, blanked = samples(maker, rng, tokenizer, texts, objective)
    for layout, text, count in zip(layouts, texts, blanked.span_counts, strict=True):
        assert [t for t in put_back(layout).tolist() if t < 500] == text.tolist()
        assert layout.loss_mask.any() == (count > 0)
    assert (blanked.span_counts[:50] == 0).all()
    assert (blanked.span_counts[-50:] > 0).all()


def test_same_generator_same_samples(tokenizer: BilingualTokenizer) -> None:
    maker = SampleMaker(tokenizer, Objectives(input_noise=0.2, context_noise=0.1))
    for objective in OBJECTIVE_NAMES:
        first, second = (
            samples(maker, np.random.default_rng(9), tokenizer, [np.arange(60)] * 9, objective)[0] for _ in range(2)
        )
        assert first.input_ids.tolist() == second.input_ids.tolist()
        assert len({layout.input_ids.tobytes() for layout in first}) > 1


def test_noise_in_the_context_lies_beside_spans(rng: Generator, tokenizer: BilingualTokenizer) -> None:
    text, share = np.arange(200), 0.05
    maker = maker_for(tokenizer, "token", context_noise=share)
    noise = tokenizer.special["dblock"]
    for layout in layouts_of(maker, rng, tokenizer, text, "token", count=300):
        part_a = layout.input_ids[: layout.separator]
        noisy = np.flatnonzero(part_a == noise)
        assert len(noisy) == int(share * 202)
        blanks = np.flatnonzero(part_a == tokenizer.blank_id(BlankKind.MASK))
        assert (np.abs(noisy[:, None] - blanks).min(axis=1) <= 3).all()
        assert noise not in layout.targets[layout.loss_mask].tolist()
        assert part_a[0] == tokenizer.cls
        assert part_a[-1] == tokenizer.eos
        restored = put_back(layout)[1:-1]
        assert (restored[restored != noise] == text[restored != noise]).all()


@pytest.mark.parametrize(
    "values",
    [
        {"token": 0.5, "sentence": 0.5, "document": 0.5},
        {"token": 1.2, "sentence": -0.2, "document": 0.0},
        {"token_ratio": 1.5},
        {"document_infill": -0.1},
        {"mean_span": 0.0},
    ],
)
def test_impossible_objectives_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(OptionError):
        Objectives(**values)
