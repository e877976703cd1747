"""Sampling text for a vocabulary: one pass over the files, bounded, even, repeatable."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from openglm.data import tokenizer_training
from openglm.data.tokenizer_training import sample_lines, train_vocabulary
from openglm.errors import DataError, OptionError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """1,000 lines of 8 characters in documents of different length, in files of very different size."""
    numbers = iter(range(1000))
    for name, count in (("a", 900), ("b", 90), ("c", 10)):
        lines = [f"{name} {next(numbers):05}." for _ in range(count)]
        texts = ["\n".join(lines[i : i + 7]) + "\n\u2581 holds a sign\n" for i in range(0, count, 7)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"body": text}) + "\n" for text in texts))
    return tmp_path


def test_a_sample_is_of_the_size_asked_for(folder: Path) -> None:
    sample = sample_lines(folder, 801, field="body")
    assert len(sample) == 101
    assert sample == sorted(sample), "in file order"
    everything = sample_lines(folder, 10**9, field="body")
    assert [int(line.split()[1][:5]) for line in everything] == list(range(1000))
    assert set(sample) < set(everything)


def test_samples_repeat_by_their_seed(folder: Path) -> None:
    first, again, other = (sample_lines(folder, 400, field="body", seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    by_name = [folder / f"{name}.jsonl" for name in "cab"]
    assert sample_lines(by_name, 400, field="body", seed=1) == first


def test_every_line_is_as_likely_as_any_other(folder: Path) -> None:
    drawn: Counter[str] = Counter()
    for seed in range(60):
        drawn.update(line[0] for line in sample_lines(folder, 800, field="body", seed=seed))
    assert drawn.total() == 6000
    for name, expected in (("a", 0.9), ("b", 0.09), ("c", 0.01)):
        assert drawn[name] / 6000 == pytest.approx(expected, abs=4 * (expected * (1 - expected) / 6000) ** 0.5)


def test_files_are_read_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    documents = tokenizer_training.documents

    def counted(path: str, *, field: str) -> Iterator[str]:
        read.append(Path(path).name)
        return documents(path, field=field)

    monkeypatch.setattr(tokenizer_training, "documents", counted)
    sample_lines(f"{folder}/*.jsonl", 400, field="body")
    assert read == ["a.jsonl", "b.jsonl", "c.jsonl"]


def test_a_group_without_text_is_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "none.txt").write_text("\n\n")
    with pytest.raises(DataError, match=r"none\.txt: empty"):
        train_vocabulary([[folder / "a.jsonl"], [tmp_path / "none.txt"]], field="body")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"vocab_size": 2_000_000_000}, "vocab_size"),
        ({"threads": 100_000}, "threads"),
        ({"threads": 0}, "threads"),
        ({"vocab_size": 5_000}, "which has enough for|too short for the smallest"),
    ],
)
def test_sizes_are_refused_in_our_words(
    folder: Path, options: dict[str, int], named: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(OptionError, match=named) as caught:
        train_vocabulary([[folder]], field="body", characters=5_000, **options)
    assert "hard_vocab_limit" not in str(caught.value)
    assert capfd.readouterr().err == "", "nothing of what SentencePiece prints"


def test_a_small_corpus_is_said(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    said: list[str] = []
    with pytest.raises(OptionError):
        train_vocabulary([[folder]], field="body", characters=10**6, say=said.append)
    assert any("has only 8,000 of the 1,000,000 characters asked for" in text for text in said)
    assert said[-1].startswith("training 16,000 pieces on ")
