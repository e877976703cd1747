"""Text streams: windows against a slow reference, wherever and however they are asked for."""

from __future__ import annotations

import json
import os
import pickle
import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from openglm.data import document_sequence, text_stream
from openglm.data.corpus import interleaved
from openglm.data.shards import Shard, prepare
from openglm.data.text_stream import TextStream, open_corpus
from openglm.errors import DataError, OptionError
from openglm.tokenizer import BilingualTokenizer


def write_files(folder: Path, sizes: list[int], *, longest: int = 6) -> dict[str, list[str]]:
    """Files of as many documents, all different; path -> documents."""
    rng, out = random.Random(0), {}
    for i, size in enumerate(sizes):
        texts = [f"{i} {j}. " + "Well? " * rng.randrange(longest) for j in range(size)]
        path = folder / f"{i:02}.jsonl"
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        out[str(path)] = texts
    return out


class Reference:
    """The endless sequence and its windows as the documentation has them, read again for every question."""

    def __init__(self, files: dict[str, list[str]], seed: int, hold_out: int) -> None:
        self.files, self.seed = files, seed
        self.held = list(self.pass_over(0))[:hold_out]

    def pass_over(self, number: int) -> Iterator[str]:
        names = sorted(self.files)
        order = np.random.default_rng([self.seed, number]).permutation(len(names))
        return interleaved([names[i] for i in order])

    def documents(self, start: int, count: int) -> list[str]:
        found: list[str] = []
        number = 0
        while len(found) < start + count:
            # Whatever is held out has been taken out before files take turns again.
            if number == 0:
                found += [text for text in self.pass_over(0) if text not in self.held]
            else:
                left = {name: [t for t in texts if t not in self.held] for name, texts in self.files.items()}
                order = np.random.default_rng([self.seed, number]).permutation(len(left))
                files = [left[sorted(left)[i]] for i in order]
                found += [file[i] for i in range(max(map(len, files))) for file in files if i < len(file)]
            number += 1
        return found[start : start + count]


def texts_of(shard: Shard, tokenizer: BilingualTokenizer) -> list[str]:
    return [tokenizer.decode(shard.document(i).tolist()) for i in range(len(shard))]


@given(st.data())
@settings(max_examples=20)
def test_windows_against_a_slow_reference(tokenizer: BilingualTokenizer, data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(0, 9), min_size=1, max_size=5).filter(lambda sizes: sum(sizes) > 1))
    hold_out = data.draw(st.integers(0, sum(sizes) - 1))
    window = data.draw(st.integers(1, sum(sizes) + 2))
    seed, tokens_per_batch = data.draw(st.integers(0, 5)), data.draw(st.floats(1, 90))
    numbers = data.draw(st.lists(st.integers(0, 40), min_size=1, max_size=6))
    with tempfile.TemporaryDirectory() as folder:
        files = write_files(Path(folder), sizes)
        reference = Reference(files, seed, hold_out)
        stream = TextStream(folder, tokenizer, window=window, seed=seed, hold_out=hold_out)
        stream.configure(tokens_per_batch)
        first = reference.documents(0, min(window, sum(sizes) - hold_out))
        mean = np.mean([len(tokenizer.encode(text)) for text in first])
        for number in numbers:
            if window >= sum(sizes) - hold_out:
                expected = first
                assert stream.advance == 0
            else:
                assert stream.advance == min(tokens_per_batch / mean, window)
                expected = reference.documents(int(number * stream.advance), window)
            shard = stream.at(number)
            assert texts_of(shard, tokenizer) == expected
            alone = Shard.from_documents([np.array(tokenizer.encode(text)) for text in expected], tokenizer)
            assert shard.sentences.tolist() == alone.sentences.tolist()
            assert shard.bounds.tolist() == alone.bounds.tolist()
        assert (stream.held_out is None) == (hold_out == 0)
        if stream.held_out:
            assert texts_of(stream.held_out, tokenizer) == reference.held


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six files, 600 documents."""
    write_files(tmp_path, [100, 30, 170, 1, 0, 299])
    return tmp_path


def stream_of(folder: Path, tokenizer: BilingualTokenizer, *, batch: float = 40, **options: int) -> TextStream:
    stream = TextStream(folder, tokenizer, **{"window": 200, "seed": 3, **options})
    stream.configure(batch)
    return stream


def test_windows_move_in_steps(folder: Path, tokenizer: BilingualTokenizer) -> None:
    """Over more than two passes; every window starts at a multiple of 1/64 of it, near `number * advance`."""
    stream, reference = stream_of(folder, tokenizer), Reference(write_files(folder, [100, 30, 170, 1, 0, 299]), 3, 0)
    endless = reference.documents(0, 1600)
    starts = [stream.first_document(number) for number in range(int(1400 / stream.advance))]
    assert starts[-1] > 1300
    assert {start % 3 for start in starts} == {0}
    assert all(0 <= number * stream.advance - start < 3 for number, start in enumerate(starts))
    before = None
    for number, start in enumerate(starts):
        shard = stream.at(number)
        if number and start == starts[number - 1]:
            assert shard is before
        elif number % 7 == 0:
            assert texts_of(shard, tokenizer) == endless[start : start + 200]
        before = shard


def test_a_document_stays_for_about_its_tokens(folder: Path, tokenizer: BilingualTokenizer) -> None:
    stream = stream_of(folder, tokenizer, batch=37.5)
    seen = sum(len(stream.at(number).tokens) and 37.5 / len(stream.at(number).tokens) for number in range(1, 400))
    assert seen * 200 / stream.first_document(400) == pytest.approx(1, abs=0.1)


def test_the_order_of_asking_does_not_matter(folder: Path, tokenizer: BilingualTokenizer) -> None:
    forward = stream_of(folder, tokenizer)
    numbers = list(range(0, 600, 23))
    expected = [texts_of(forward.at(number), tokenizer) for number in numbers]
    random.Random(4).shuffle(numbers)
    jumping = stream_of(folder, tokenizer)
    for number in numbers:
        assert texts_of(jumping.at(number), tokenizer) == expected[number // 23]
        assert texts_of(stream_of(folder, tokenizer).at(number), tokenizer) == expected[number // 23]
    assert len({tuple(window) for window in expected}) == len(expected)
    assert texts_of(stream_of(folder, tokenizer, seed=4).at(23), tokenizer) != expected[1]


def test_no_document_is_passed_over(folder: Path, tokenizer: BilingualTokenizer) -> None:
    """Even where a batch draws more tokens than the window holds."""
    stream = stream_of(folder, tokenizer, batch=1_000_000)
    starts = [stream.first_document(number) for number in range(20)]
    assert max(np.diff(starts)) <= 200
    assert min(np.diff(starts)) > 190


def counting(tokenizer: BilingualTokenizer, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    encoded: list[str] = []
    encode = tokenizer.encode
    monkeypatch.setattr(tokenizer, "encode", lambda text: (encoded.append(text), encode(text))[1])
    return encoded


def test_only_what_is_needed_is_tokenized(
    folder: Path, tokenizer: BilingualTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = counting(tokenizer, monkeypatch)
    stream = stream_of(folder, tokenizer)
    for number in range(int(900 / stream.advance)):
        stream.at(number)
    assert len(encoded) == 200 + stream.first_document(number), "going on costs the new documents"
    encoded.clear()
    resumed = stream_of(folder, tokenizer)
    resumed.at(number)
    assert len(encoded) == 200 + 200, "resuming costs the first window, which is measured, and this one"


def test_whole_passes_are_not_read_to_skip_them(
    folder: Path, tokenizer: BilingualTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = 0
    documents = document_sequence.documents

    def counted(path: str, *, field: str) -> Iterator[str]:
        nonlocal read
        for text in documents(path, field=field):
            read += 1
            yield text

    monkeypatch.setattr(document_sequence, "documents", counted)
    stream = stream_of(folder, tokenizer)
    number = int(600 * 1000.5 / stream.advance)
    window = texts_of(stream.at(number), tokenizer)
    assert len(set(window)) == 200
    assert read < 2000
    order = np.random.default_rng([3, 1000]).permutation(6)
    start = stream.first_document(number) - 600 * 1000
    assert window == list(interleaved([stream.files[i] for i in order]))[start : start + 200]


# --- held out ------------------------------------------------------------------------


def test_what_is_held_out_never_comes_up(folder: Path, tokenizer: BilingualTokenizer) -> None:
    stream = stream_of(folder, tokenizer, hold_out=50)
    assert stream.held_out is not None
    held = texts_of(stream.held_out, tokenizer)
    assert len(set(held)) == 50
    assert len({text.split()[0] for text in held}) == 5, "of every file that has any"
    seen: set[str] = set()
    for number in range(0, int(1700 / stream.advance), 5):
        seen.update(texts_of(stream.at(number), tokenizer))
    assert len(seen) == 550
    assert not seen & set(held)


def test_holding_out_too_much(folder: Path, tokenizer: BilingualTokenizer) -> None:
    for hold_out in (600, 5000):
        stream = stream_of(folder, tokenizer, hold_out=hold_out)
        with pytest.raises(DataError, match=f"600 documents in all, too few to hold out {hold_out}"):
            _ = stream.held_out
        with pytest.raises(DataError, match="too few"):
            stream.at(0)
    last = stream_of(folder, tokenizer, hold_out=599)
    assert len(last.at(5)) == 1


# --- small and large -----------------------------------------------------------------


def test_a_small_corpus_is_held_whole(folder: Path, tokenizer: BilingualTokenizer) -> None:
    for window in ({"window": 600}, {"window": 10**9}, {}):
        stream = TextStream(folder, tokenizer, **window)
        stream.configure(100)
        shard = stream.at(0)
        assert len(set(texts_of(shard, tokenizer))) == stream.window == len(shard) == 600
        assert stream.advance == 0
        assert stream.at(10**9) is shard
    moving = stream_of(folder, tokenizer, window=599)
    assert moving.advance > 0


def test_the_default_window(folder: Path, tokenizer: BilingualTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    def window(batch: float) -> tuple[int, int]:
        stream = TextStream(folder, tokenizer)
        stream.configure(batch)
        return stream.window, len(stream.at(0).tokens)

    monkeypatch.setattr(text_stream, "WINDOW_DOCUMENTS", 250)
    assert window(1)[0] == 250
    monkeypatch.setattr(text_stream, "WINDOW_TOKENS", 1500)
    assert window(1)[0] < 250
    assert 1500 <= window(1)[1] < 1560
    assert 200 * 16 <= window(200)[1] < 200 * 16 + 60, "16 batches of 200 tokens"
    assert window(10_000)[0] == 600


def test_fast_forward_over_long_documents(tmp_path: Path, tokenizer: BilingualTokenizer) -> None:
    """Documents so long that a batch draws a part of one."""
    write_files(tmp_path, [40, 40], longest=600)
    stream = TextStream(tmp_path, tokenizer, window=10)
    stream.configure(64)
    assert stream.advance < 0.2
    assert stream.first_document(int(3 / stream.advance) + 1) == 3


# --- other processes -----------------------------------------------------------------


def test_pickled(folder: Path, tokenizer: BilingualTokenizer) -> None:
    stream = stream_of(folder, tokenizer, hold_out=5)
    fresh = pickle.loads(pickle.dumps(stream))
    expected = texts_of(stream.at(77), tokenizer)
    used = pickle.loads(pickle.dumps(stream))
    assert len(pickle.dumps(stream)) < 2 * len(pickle.dumps(tokenizer)) + 10_000
    for other in (fresh, used):
        assert texts_of(other.at(77), tokenizer) == expected
        assert texts_of(other.held_out, tokenizer) == texts_of(stream.held_out, tokenizer)
        assert texts_of(other.at(0), tokenizer) == texts_of(stream.at(0), tokenizer)
        assert texts_of(other.at(90), tokenizer) == texts_of(stream.at(90), tokenizer)


def in_a_fork(function: Callable[[], list[str]]) -> list[str]:
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            with os.fdopen(writing, "wb") as out:
                out.write(json.dumps(function()).encode())
            os._exit(0)
        finally:
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading, "rb") as result:
        data = result.read()
    assert os.waitpid(child, 0)[1] == 0
    found: list[str] = json.loads(data)
    return found


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forked_while_files_are_open(tmp_path: Path, tokenizer: BilingualTokenizer) -> None:
    """Parent and children go on by themselves, though they share the positions of files opened before."""
    texts = [f"{i}. " + "x" * (i * 37 % 1000) for i in range(3000)]
    data = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.ZstdCompressor(level=1).compress(data))
    (tmp_path / "b.txt").write_text("\n\n".join(f"b {text}" for text in texts))
    expected = [texts_of(stream_of(tmp_path, tokenizer).at(number), tokenizer) for number in (100, 300)]
    stream = stream_of(tmp_path, tokenizer)
    stream.at(50)
    for _ in range(2):
        assert in_a_fork(lambda: texts_of(stream.at(100), tokenizer)) == expected[0]
    assert texts_of(stream.at(100), tokenizer) == expected[0]
    assert in_a_fork(lambda: texts_of(stream.at(300), tokenizer)) == expected[1]
    assert texts_of(stream.at(300), tokenizer) == expected[1]


# --- what can be wrong ---------------------------------------------------------------


def test_wrong_options(folder: Path, tokenizer: BilingualTokenizer) -> None:
    for options in ({"window": 0}, {"hold_out": -1}, {"seed": -1}):
        with pytest.raises(OptionError, match="text stream"):
            TextStream(folder, tokenizer, **options)
    stream = TextStream(folder, tokenizer, window=200)
    for tokens in (0, -1, float("nan")):
        with pytest.raises(OptionError, match="batch"):
            stream.configure(tokens)
    assert len(stream.at(0)) == 200
    with pytest.raises(OptionError, match="configure"):
        stream.at(1)
    with pytest.raises(DataError, match="no such file"):
        TextStream(folder / "nothing.txt", tokenizer)


def test_corpora_without_documents(
    tmp_path: Path, tokenizer: BilingualTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.txt").write_text("\n \n")
    (tmp_path / "b.jsonl").write_text("")
    with pytest.raises(DataError, match=r"no documents in .*a\.txt, .*b\.jsonl"):
        TextStream(tmp_path, tokenizer).at(0)
    monkeypatch.setattr(tokenizer, "encode", lambda text: [])
    (tmp_path / "b.jsonl").write_text('{"text": " "}\n' * 3)
    with pytest.raises(DataError, match="no tokens in the first 3 documents"):
        TextStream(tmp_path, tokenizer).at(0)


def test_documents_of_no_tokens_take_their_place(
    tmp_path: Path, tokenizer: BilingualTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = tokenizer.encode
    monkeypatch.setattr(tokenizer, "encode", lambda text: encode(text) if text.strip() else [])
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in ["one", " ", "two"] * 9))
    stream = TextStream(tmp_path, tokenizer, window=5)
    stream.configure(3)
    window = stream.at(0)
    assert texts_of(window, tokenizer) == ["one", "", "two", "one", ""]
    window.verify()


def test_files_that_change_meanwhile(folder: Path, tokenizer: BilingualTokenizer) -> None:
    stream = stream_of(folder, tokenizer)
    stream.at(int(700 / stream.advance))
    (folder / "04.jsonl").write_text('{"text": "new"}\n' * 3)
    for start in (1300, 1500):
        stream.at(int(start / stream.advance))
    with pytest.raises(DataError, match="603 documents where an earlier pass found 600"):
        stream.at(int(1700 / stream.advance))


def test_a_bad_line_far_on(folder: Path, tokenizer: BilingualTokenizer) -> None:
    with (folder / "05.jsonl").open("a") as file:
        file.write("{}\n")
    stream = stream_of(folder, tokenizer)
    stream.at(0)
    with pytest.raises(DataError, match=r"05\.jsonl, line 300"):
        stream.at(int(500 / stream.advance))


# --- shards or files -----------------------------------------------------------------


def test_open_corpus(folder: Path, tokenizer: BilingualTokenizer) -> None:
    prepare(folder, tokenizer, folder / "shard", workers=1)
    shard, none = open_corpus(str(folder / "shard"), tokenizer)
    assert isinstance(shard, Shard)
    assert len(shard) == 600
    assert none is None
    train, valid = open_corpus(folder / "shard", tokenizer, hold_out=40)
    assert valid is not None
    assert (len(train.at(9)), len(valid)) == (560, 40)
    (folder / "shard" / "manifest.json").unlink()
    with pytest.raises(DataError, match="not a prepared shard"):
        open_corpus(folder / "shard", tokenizer)
    stream, held = open_corpus(f"{folder}/*.jsonl", tokenizer, hold_out=40)
    assert isinstance(stream, TextStream)
    assert held is not None
    assert (len(stream.at(0)), len(held)) == (560, 40)


def test_remote_text(tokenizer: BilingualTokenizer) -> None:
    system = fsspec.filesystem("memory")
    system.pipe("/stream/a.txt", "\n\n".join(f"Text {i}." for i in range(90)).encode())
    try:
        stream, _ = open_corpus("memory://stream/*.txt", tokenizer)
        assert texts_of(stream.at(0), tokenizer) == [f"Text {i}." for i in range(90)]
    finally:
        system.rm("/stream", recursive=True)
