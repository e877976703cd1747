"""Spans widened to whole words, and samples shown to people."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openglm.cli.main import main
from openglm.data.inspect import show_sample
from openglm.data.samples import SampleMaker, Windows
from openglm.data.shards import Shard, prepare
from openglm.data.spans import Objectives, Spans, token_spans, widen_to_words
from openglm.data.stream import BatchStream, Source
from openglm.layouts import fills_of, put_back
from openglm.tokenizer import BilingualTokenizer


@given(st.lists(st.lists(st.booleans(), min_size=2, max_size=40), min_size=1, max_size=3), st.integers(0, 2**32 - 1))
def test_widened_spans_cut_no_word_and_lose_nothing(texts: list[list[bool]], seed: int) -> None:
    """For each text alone, whatever stands in the others."""
    flags = [np.array([False, *inside[1:]]) for inside in texts]
    rooms = np.array([len(f) for f in flags])
    spans = token_spans(np.random.default_rng(seed), rooms, rooms // 4)

    def inside(text: np.ndarray, positions: np.ndarray) -> np.ndarray:
        return np.array(
            [0 < p < rooms[t] and flags[t][p] for t, p in zip(text.tolist(), positions.tolist(), strict=True)], bool
        )

    widened = widen_to_words(spans, inside)
    for number, text in enumerate(flags):
        check_widened(spans.keep(spans.owner == number), widened.keep(widened.owner == number), text)


def check_widened(before: Spans, after: Spans, flags: np.ndarray) -> None:
    n = len(flags)
    assert np.all(after.starts < after.ends)
    assert np.all(after.starts[1:] >= after.ends[:-1])
    covered = set()
    for start, end in zip(after.starts, after.ends, strict=True):
        assert not flags[start]
        assert end == n or not flags[end]
        covered |= set(range(start, end))
    wanted = {i for a, b in zip(before.starts, before.ends, strict=True) for i in range(a, b)}
    assert wanted <= covered
    for i in covered - wanted:  # only to finish a word that was hit
        left, right = i, i
        while flags[left]:
            left -= 1
        while right + 1 < n and flags[right + 1]:
            right += 1
        assert wanted & set(range(left, right + 1))


def test_word_joins(tokenizer: BilingualTokenizer) -> None:
    goes_on, continues = tokenizer.word_joins
    for token in range(tokenizer.num_tokens):
        text = tokenizer.token_text(token)
        if token in tokenizer.special.values():
            assert not goes_on[token]
            assert not continues[token]
        elif re.fullmatch("[A-Za-z0-9]+", text):
            assert goes_on[token]
            assert continues[token]
        elif re.fullmatch(" [A-Za-z]+", text):
            assert goes_on[token]
            assert not continues[token]
        elif re.fullmatch("[\u4e00-\u9fff]+", text):
            assert not goes_on[token]
            assert not continues[token]


def test_whole_words_in_samples(tokenizer: BilingualTokenizer, text_lines: list[str]) -> None:
    maker = SampleMaker(tokenizer, Objectives(1.0, 0.0, 0.0, whole_words=1.0))
    english = [line for line in text_lines if line.isascii()][:40]
    windows = Windows.whole(Shard.from_documents([np.array(tokenizer.encode(line)) for line in english], tokenizer))
    rng = np.random.default_rng(0)
    blanked = maker.blank_out(rng, windows, maker.choose(rng, len(windows)))
    for layout in maker.lay_out(rng, windows, blanked):
        marked = show_sample(layout, "token", tokenizer).splitlines()[2]
        assert "【" in marked
        assert not re.search("[A-Za-z0-9]【[A-Za-z0-9]|[A-Za-z0-9]】[A-Za-z0-9]", marked), marked


def test_single_words_are_words_and_alone(tokenizer: BilingualTokenizer, text_lines: list[str]) -> None:
    shard = Shard.from_documents([np.array(tokenizer.encode(line)) for line in text_lines[:80]], tokenizer)
    objectives = Objectives(1.0, 0.0, 0.0, token_ratio=0.3, single_words=1.0)
    stream = BatchStream([Source("all", shard, 1.0)], SampleMaker(tokenizer, objectives), rows=8, length=64)
    eop, fills = tokenizer.markers.eop, []
    for row in stream.rows_of_samples(0):
        for layout, _ in row:
            text = tokenizer.decode(put_back(layout).tolist())
            for _, fill in fills_of(layout):
                fills.append(tokenizer.decode([int(token) for token in fill if token != eop]).strip())
                assert fills[-1] in text
    assert len(fills) > 20
    for fill in fills:
        assert re.fullmatch("[A-Za-z0-9]+|[\u4e00-\u9fff]+", fill), fill
        assert not fill.isascii() or any(re.search(rf"\b{fill}\b", line) for line in text_lines), fill


def test_single_words_are_so_many_of_the_texts(tokenizer: BilingualTokenizer) -> None:
    rng = np.random.default_rng(0)
    maker = SampleMaker(tokenizer, Objectives(single_words=0.25))
    ones = (maker.draw_lengths(rng, 4000, 30) == 1).all(axis=1).mean()
    assert ones == pytest.approx(0.25, abs=0.03)
    assert not (SampleMaker(tokenizer, Objectives()).draw_lengths(rng, 400, 30) == 1).all(axis=1).any()


@pytest.fixture
def shard(tmp_path: Path, tokenizer: BilingualTokenizer, text_lines: list[str]) -> Path:
    text = tmp_path / "corpus.txt"
    text.write_text("\n\n".join("\n".join(text_lines[i : i + 5]) for i in range(0, 200, 5)), encoding="utf-8")
    prepare([text], tokenizer, tmp_path / "shard")
    return tmp_path / "shard"


@pytest.mark.parametrize("objective", ["token", "sentence", "document"])
def test_shown_samples_hold_the_whole_text(shard: Path, tokenizer: BilingualTokenizer, objective: str) -> None:
    only = {name: float(name == objective) for name in ("token", "sentence", "document")}
    source = Source("all", Shard.open(shard, tokenizer), 1.0)
    stream = BatchStream([source], SampleMaker(tokenizer, Objectives(**only)), rows=2, length=64)
    for row in stream.rows_of_samples(0):
        for layout, used in row:
            lines = show_sample(layout, used, tokenizer).splitlines()
            text = lines[2].removeprefix("text    ").replace("【", "").replace("】", "")
            assert text == tokenizer.decode(put_back(layout).tolist()).replace("\n", "⏎")
            assert "\033[1;32m" in show_sample(layout, used, tokenizer, colours=True)
            assert sum(line.lstrip().startswith("target") for line in lines) == len(
                [b for b in layout.block_position_ids if b == 1]
            )


def test_inspect_from_the_command_line(
    shard: Path, tmp_path: Path, tokenizer: BilingualTokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, content in tokenizer.files().items():
        (tmp_path / name).write_bytes(content)
    arguments = ["data", "inspect", str(shard), "--tokenizer", str(tmp_path), "--length", "64"]
    assert main([*arguments, "-n", "2", "--objective", "document"]) == 0
    out = capsys.readouterr().out
    assert out.count("document: ") == 2
    assert "[gMASK]" in out
    assert main([*arguments, "-n", "0"]) == 2
    assert main([*arguments, "--length", "5"]) == 2
