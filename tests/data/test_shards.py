"""Shards: what they hold, how they are prepared, and what happens when preparing is cut short."""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import multiprocessing
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from openglm.data import shards, writer
from openglm.data.corpus import documents
from openglm.data.shards import Shard, is_shard, prepare
from openglm.data.writer import ShardWriter
from openglm.errors import DataError, OpenGLMError, OptionError
from openglm.tokenizer import BilingualTokenizer

FILES = ["bounds.npy", "manifest.json", "sentences.npy", "tokens.bin"]


@pytest.fixture(scope="module")
def texts(text_lines: list[str]) -> list[str]:
    whole = ["\n".join(text_lines[i : i + 1 + i % 9]) for i in range(0, 300, 4)]
    return [*whole, "no end of a sentence", "Is it?! Yes...\n\nNo.", "…", "a\nb"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> Path:
    """The documents in three files of different kinds."""
    folder, third = tmp_path_factory.mktemp("corpus"), len(texts) // 3
    lines = ["".join(json.dumps({"text": text}) + "\n" for text in part) for part in (texts[:third], texts[third:])]
    (folder / "a.jsonl").write_text(lines[0])
    (folder / "b.jsonl.zst").write_bytes(zstandard.ZstdCompressor().compress(lines[1].encode()))
    (folder / "c.txt").write_text("the last document\n")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, corpus: Path, tokenizer: BilingualTokenizer) -> Path:
    """A finished shard; tests must not change it."""
    path = tmp_path_factory.mktemp("shards") / "shard"
    prepare(corpus, tokenizer, path)
    return path


@pytest.fixture
def shard(folder: Path, tokenizer: BilingualTokenizer) -> Shard:
    return Shard.open(folder, tokenizer)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def copy_of(folder: Path, target: Path) -> Path:
    target.mkdir()
    for name, data in content(folder).items():
        (target / name).write_bytes(data)
    return target


# --- what a shard holds --------------------------------------------------------------


def slow_sentences(documents: list[list[int]], ending: list[bool]) -> list[int]:
    out, where = [], 0
    for document in documents:
        for i, token in enumerate(document):
            if ending[token] and not (i + 1 < len(document) and ending[document[i + 1]]):
                out.append(where + i + 1)
        where += len(document)
    return out


@given(st.data())
def test_any_documents_in_memory(tokenizer: BilingualTokenizer, data: st.DataObject) -> None:
    ending = tokenizer.sentence_ends.tolist()
    some = [ending.index(True), len(ending) - 1 - ending[::-1].index(True), 0, 300, tokenizer.num_tokens - 1]
    ids = data.draw(st.lists(st.lists(st.sampled_from(some), max_size=9), min_size=1, max_size=12).filter(any))
    shard = Shard.from_documents([np.array(document, np.int64) for document in ids], tokenizer)
    assert [shard.document(i).tolist() for i in range(len(shard))] == ids
    assert shard.sentences.tolist() == slow_sentences(ids, ending)
    assert shard.tokens.dtype == np.uint16
    assert shard.sentences.dtype == shard.bounds.dtype == shard.document(0).dtype == np.int64
    assert shard.at(3) is shard
    shard.verify()
    for held in range(1, len(ids)):
        try:
            first, last = shard.split(held)
        except DataError:
            assert not any(ids[:-held]) or not any(ids[-held:])
            continue
        for part, expected in ((first, ids[:-held]), (last, ids[-held:])):
            assert [part.document(i).tolist() for i in range(len(part))] == expected
            assert part.bounds[0] == 0
            assert part.sentences.tolist() == slow_sentences(expected, ending)
            assert part.manifest["documents"] == len(expected)
            assert part.manifest["tokens"] == len(part.tokens)
            part.verify()


def test_prepared_shard_holds_the_documents(shard: Shard, tokenizer: BilingualTokenizer, texts: list[str]) -> None:
    expected = [*texts, "the last document"]
    assert [tokenizer.decode(shard.document(i).tolist()) for i in range(len(shard))] == expected
    ids = [tokenizer.encode(text) for text in expected]
    assert shard.sentences.tolist() == slow_sentences(ids, tokenizer.sentence_ends.tolist())
    manifest = shard.manifest
    assert (manifest["documents"], manifest["tokens"]) == (len(expected), len(shard.tokens))
    assert manifest["sentences"] == len(shard.sentences) > 100
    assert [source["name"] for source in manifest["sources"]] == ["a.jsonl", "b.jsonl.zst", "c.txt"]
    assert manifest["sources"][2]["bytes"] == len("the last document\n")
    shard.verify()


def test_documents_out_of_range(shard: Shard, tokenizer: BilingualTokenizer) -> None:
    for number in (-1, len(shard)):
        with pytest.raises(IndexError, match=str(number)):
            shard.document(number)
    for held in (-1, 0, len(shard), len(shard) + 5):
        with pytest.raises(DataError, match=f"hold out {held} of {len(shard)}"):
            shard.split(held)
    for nothing in ([], [np.empty(0, np.int64)]):
        with pytest.raises(DataError, match="no document"):
            Shard.from_documents(nothing, tokenizer)


def test_shards_travel_by_name(folder: Path, tokenizer: BilingualTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """To another process goes where the files are, not what is in them; parts of shards too."""
    monkeypatch.chdir(folder.parent)
    whole = Shard.open(Path(folder.name), tokenizer)
    parts = whole.split(20)
    there = [pickle.dumps(part) for part in (whole, *parts, parts[1].split(5)[0])]
    assert max(map(len, there)) < 1000
    monkeypatch.chdir("/")
    for part, data in zip((whole, *parts, parts[1].split(5)[0]), there, strict=True):
        again = pickle.loads(data)
        assert again.tokens.tolist() == part.tokens.tolist()
        assert again.bounds.tolist() == part.bounds.tolist()
        assert again.sentences.tolist() == part.sentences.tolist()
        assert again.manifest == part.manifest
    in_memory = Shard.from_documents([np.array([1, 2])], tokenizer)
    assert pickle.loads(pickle.dumps(in_memory)).document(0).tolist() == [1, 2]


def test_a_shard_without_sentence_ends_and_with_one_long_document(
    tmp_path: Path, tokenizer: BilingualTokenizer
) -> None:
    text = "word " * 200_000  # a megabyte
    (tmp_path / "a.txt").write_text(text)
    prepare(tmp_path / "a.txt", tokenizer, tmp_path / "shard", workers=0)
    shard = Shard.open(tmp_path / "shard", tokenizer)
    assert len(shard) == 1
    assert len(shard.sentences) == 0
    assert tokenizer.decode(shard.document(0).tolist()) == text
    shard.verify()


def test_documents_of_no_tokens_are_left_out(
    tmp_path: Path, tokenizer: BilingualTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some vocabularies see nothing in white space."""
    encode = tokenizer.encode
    monkeypatch.setattr(tokenizer, "encode", lambda text: encode(text) if text.strip() else [])
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in (" ", "a b", "  ", "c")))
    prepare([tmp_path / "a.jsonl"], tokenizer, tmp_path / "shard")
    shard = Shard.open(tmp_path / "shard", tokenizer)
    assert [tokenizer.decode(shard.document(i).tolist()) for i in range(len(shard))] == ["a b", "c"]


# --- damaged shards ------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kept", [None, 0.0, 0.5, -2, "garbage"])
def test_missing_truncated_and_foreign_files(
    folder: Path, tmp_path: Path, tokenizer: BilingualTokenizer, name: str, kept: float | str | None
) -> None:
    path = copy_of(folder, tmp_path / "copy") / name
    data = path.read_bytes()
    if kept is None:
        path.unlink()
    elif isinstance(kept, str):
        path.write_bytes(b"PK\x03\x04 something else " * 99)
    else:
        path.write_bytes(data[: int(len(data) * kept) if kept >= 0 else int(kept)])
    with pytest.raises(DataError, match=r"copy.*openglm data prepare|copy.*prepare the corpus again"):
        Shard.open(path.parent, tokenizer)


@pytest.mark.parametrize(
    "text", ["[]", "null", '"x"', "{}", '{"dtype": "O", "tokens": 3}', '{"dtype": "<u2", "version": "x"}']
)
def test_manifests_of_something_else(folder: Path, tmp_path: Path, tokenizer: BilingualTokenizer, text: str) -> None:
    (copy_of(folder, tmp_path / "copy") / "manifest.json").write_text(text)
    with pytest.raises(DataError, match=r"copy: not a prepared shard .*openglm data prepare"):
        Shard.open(tmp_path / "copy", tokenizer)


@pytest.mark.parametrize("name", ["bounds.npy", "sentences.npy"])
def test_lists_of_another_type(folder: Path, tmp_path: Path, tokenizer: BilingualTokenizer, name: str) -> None:
    path = copy_of(folder, tmp_path / "copy") / name
    numbers = np.load(path)
    for other in (numbers.astype(np.float64), numbers.reshape(1, -1), np.array(3)):
        np.save(path, other)
        with pytest.raises(DataError, match=f"{name}: not a list"):
            Shard.open(path.parent, tokenizer)


def test_shards_of_other_versions(folder: Path, tmp_path: Path, tokenizer: BilingualTokenizer) -> None:
    path = copy_of(folder, tmp_path / "copy") / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "version": 3}))
    with pytest.raises(DataError, match=r"newer version.*prepare the corpus again"):
        Shard.open(path.parent, tokenizer)
    del manifest["version"], manifest["sentences"]  # as it was before sentences were kept
    path.write_text(json.dumps(manifest))
    (path.parent / "sentences.npy").unlink()
    with pytest.raises(DataError, match=r"older version.*prepare the corpus again"):
        Shard.open(path.parent, tokenizer)


def test_another_tokenizer(folder: Path, tmp_path: Path, tokenizer: BilingualTokenizer) -> None:
    path = copy_of(folder, tmp_path / "copy") / "manifest.json"
    path.write_text(path.read_text().replace(tokenizer.identity, "0" * 16))
    with pytest.raises(DataError, match="another tokenizer"):
        Shard.open(path.parent, tokenizer)


def test_verify_finds_what_opening_does_not(folder: Path, tmp_path: Path, tokenizer: BilingualTokenizer) -> None:
    whole = content(folder)
    bounds, sentences = (np.load(folder / name) for name in ("bounds.npy", "sentences.npy"))

    def damaged(name: str, data: bytes | np.ndarray) -> Shard:
        path = tmp_path / name
        if isinstance(data, bytes):
            path.write_bytes(data)
        else:
            np.save(path, data)
        return Shard.open(tmp_path, tokenizer)

    copy_of(folder, tmp_path / "copy")
    for name, data in whole.items():
        (tmp_path / name).write_bytes(data)
    tokens = whole["tokens.bin"]
    for position in (0, len(tokens) // 2, len(tokens) - 1):
        flipped = tokens[:position] + bytes([tokens[position] ^ 1]) + tokens[position + 1 :]
        with pytest.raises(DataError, match=r"tokens\.bin is not what the manifest says.*prepare the corpus again"):
            damaged("tokens.bin", flipped).verify()
    damaged("tokens.bin", tokens).verify()
    for position, value in ((0, 1), (3, bounds[4] + 1), (5, -1)):
        wrong = bounds.copy()
        wrong[position] = value
        with pytest.raises(DataError, match="bounds of documents are out of order"):
            damaged("bounds.npy", wrong).verify()
    damaged("bounds.npy", bounds).verify()
    for position, value in ((0, 0), (7, sentences[6]), (-1, bounds[-1] + 1)):
        wrong = sentences.copy()
        wrong[position] = value
        with pytest.raises(DataError, match="ends of sentences are out of order"):
            damaged("sentences.npy", wrong).verify()
    damaged("sentences.npy", sentences).verify()


def test_order_is_checked_across_blocks(tokenizer: BilingualTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "_BLOCK", 4)
    bounds, sentences = np.arange(13), np.arange(1, 13)
    for position in range(1, 12):
        for name, array, step in (("bounds", bounds.copy(), -1), ("sentences", sentences.copy(), 0)):
            array[position] = array[position - 1] + step
            arrays = {"bounds": bounds, "sentences": sentences, name: array}
            with pytest.raises(DataError, match=name):
                Shard(np.zeros(12, np.uint16), arrays["bounds"], arrays["sentences"], {}).verify()


# --- preparing -----------------------------------------------------------------------


def test_workers_do_not_change_the_shard(
    folder: Path, corpus: Path, tmp_path: Path, tokenizer: BilingualTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "BATCH_CHARACTERS", 300)
    prepare(str(corpus), tokenizer, tmp_path / "small batches", workers=1)
    prepare([f"{corpus}/*.*"], tokenizer, tmp_path / "two workers", workers=2)
    assert content(tmp_path / "small batches") == content(tmp_path / "two workers") == content(folder)
    assert sorted(content(folder)) == FILES
    with pytest.raises(OptionError, match="workers"):
        prepare(corpus, tokenizer, tmp_path / "x", workers=-1)


def test_finished_shard_is_not_overwritten(folder: Path, corpus: Path, tokenizer: BilingualTokenizer) -> None:
    before = content(folder)
    with pytest.raises(DataError, match="already holds a finished shard"):
        prepare(corpus, tokenizer, folder)
    assert content(folder) == before


def test_empty_corpus_leaves_nothing(tmp_path: Path, tokenizer: BilingualTokenizer) -> None:
    (tmp_path / "empty.txt").write_text("\n\n")
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(DataError, match=r"no documents in .*empty\.jsonl, .*empty\.txt"):
        prepare([tmp_path / "empty.txt", tmp_path / "empty.jsonl"], tokenizer, tmp_path / "shard")
    assert not content(tmp_path / "shard")
    with pytest.raises(DataError, match="not a prepared shard"):
        Shard.open(tmp_path / "shard", tokenizer)


def test_output_that_cannot_be_written(corpus: Path, tmp_path: Path, tokenizer: BilingualTokenizer) -> None:
    (tmp_path / "file").write_text("x")
    for output in (tmp_path / "file", tmp_path / "file" / "shard"):
        with pytest.raises(DataError, match=r"file.*cannot be written"):
            prepare(corpus, tokenizer, output)


def test_two_at_the_same_shard(corpus: Path, tmp_path: Path, tokenizer: BilingualTokenizer) -> None:
    pytest.importorskip("fcntl")
    first = ShardWriter(tmp_path / "shard", {}, np.dtype("<u2"))
    with pytest.raises(DataError, match="another process is preparing"):
        prepare(corpus, tokenizer, tmp_path / "shard")
    first.close()
    prepare(corpus, tokenizer, tmp_path / "shard")


# --- going on ------------------------------------------------------------------------


class PowerCut(BaseException):
    """Nothing may catch this and tidy up."""


@contextlib.contextmanager
def power_cut(monkeypatch: pytest.MonkeyPatch, moment: int) -> Iterator[list[str]]:
    """Stop at the `moment`-th step that touches the disk for good; gives the steps that were made."""
    steps: list[str] = []

    def counted(name: str, function: Any) -> Any:
        def step(*arguments: Any, **settings: Any) -> Any:
            steps.append(name)
            if len(steps) > moment:
                raise PowerCut(name)
            return function(*arguments, **settings)

        return step

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", counted("sync", lambda descriptor: None))
        patch.setattr(Path, "replace", counted("rename", Path.replace))
        patch.setattr(ShardWriter, "append", counted("append", ShardWriter.append))
        patch.setattr(writer, "digest_of_file", counted("hash", writer.digest_of_file))
        yield steps


def test_preparing_goes_on_after_a_power_cut_at_any_step(
    folder: Path, corpus: Path, tmp_path: Path, tokenizer: BilingualTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "BATCH_CHARACTERS", 6000)
    monkeypatch.setattr(writer, "COMMIT_SECONDS", 0.0)
    monkeypatch.setattr(tokenizer, "encode", functools.cache(tokenizer.encode))
    moment, finished = 0, False
    while not finished:
        output = tmp_path / str(moment)
        with power_cut(monkeypatch, moment) as steps, contextlib.suppress(PowerCut):
            prepare(corpus, tokenizer, output, workers=1)
            finished = True
        assert finished == (len(steps) <= moment)
        if not (output / "manifest.json").exists():
            with pytest.raises(DataError, match=r"not finished|not a prepared shard"):
                Shard.open(output, tokenizer)
            with power_cut(monkeypatch, moment % 7) as steps, contextlib.suppress(PowerCut):  # and again, soon after
                prepare(corpus, tokenizer, output, workers=1)
            if not (output / "manifest.json").exists():
                prepare(corpus, tokenizer, output, workers=1)
        with pytest.raises(DataError, match="already"):
            prepare(corpus, tokenizer, output, workers=1)
        assert content(output) == content(folder), f"stopped at step {moment}: {steps[-1]}"
        moment += 1
    assert moment > 30


def test_documents_done_are_not_tokenized_again(
    corpus: Path, tmp_path: Path, tokenizer: BilingualTokenizer, monkeypatch: pytest.MonkeyPatch, texts: list[str]
) -> None:
    monkeypatch.setattr(shards, "BATCH_CHARACTERS", 1000)
    encoded: list[str] = []
    encode = tokenizer.encode

    def interrupted(text: str) -> list[int]:
        if len(encoded) == 60:
            raise KeyboardInterrupt
        encoded.append(text)
        return encode(text)

    monkeypatch.setattr(tokenizer, "encode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare(corpus, tokenizer, tmp_path / "shard", workers=1)
    done = json.loads((tmp_path / "shard" / "progress.json").read_text())["progress"]["documents"]
    assert 30 < done <= 60
    again: list[str] = []
    monkeypatch.setattr(tokenizer, "encode", lambda text: (again.append(text), encode(text))[1])
    prepare(corpus, tokenizer, tmp_path / "shard", workers=1)
    assert again == [*texts, "the last document"][done:]


def stop_early(corpus: Path, tokenizer: BilingualTokenizer, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unfinished shard with about half of the documents."""

    def some(path: str, *, field: str) -> Iterator[str]:
        if path.endswith("c.txt"):
            raise DataError("enough")
        return documents(path, field=field)

    with monkeypatch.context() as patch:
        patch.setattr(shards, "documents", some)
        patch.setattr(shards, "BATCH_CHARACTERS", 1000)
        with pytest.raises(DataError, match="enough"):
            prepare(corpus, tokenizer, output, workers=1)
    assert is_shard(output)


@pytest.mark.parametrize(
    ("change", "named"),
    [("field", "field"), ("inputs", "sources"), ("size", "sources"), ("tokenizer", "tokenizer")],
)
def test_going_on_with_something_else_is_refused(
    corpus: Path,
    tmp_path: Path,
    tokenizer: BilingualTokenizer,
    monkeypatch: pytest.MonkeyPatch,
    change: str,
    named: str,
) -> None:
    copy, output, settings = copy_of(corpus, tmp_path / "corpus"), tmp_path / "shard", {}
    stop_early(copy, tokenizer, output, monkeypatch)
    before = content(output)
    if change == "field":
        settings = {"field": "body"}
    elif change == "inputs":
        (copy / "d.txt").write_text("more")
    elif change == "size":
        (copy / "c.txt").write_text("more")
    else:
        monkeypatch.setattr(tokenizer, "identity", "another")
    with pytest.raises(DataError, match=f"unfinished shard that differs in its {named}; repeat the command"):
        prepare(copy, tokenizer, output, **settings)
    assert content(output) == before


@pytest.mark.parametrize("part", ["tokens.bin", "bounds.part", "sentences.part", "progress.json"])
def test_going_on_with_damaged_files_is_refused(
    folder: Path,
    corpus: Path,
    tmp_path: Path,
    tokenizer: BilingualTokenizer,
    monkeypatch: pytest.MonkeyPatch,
    part: str,
) -> None:
    output = tmp_path / "shard"
    stop_early(corpus, tokenizer, output, monkeypatch)
    data = (output / part).read_bytes()
    (output / part).write_bytes(data[:-1])
    with pytest.raises(DataError, match=f"{part}.*remove .*shard and prepare again"):
        prepare(corpus, tokenizer, output, workers=1)
    (output / part).write_bytes(data)
    if part != "progress.json":  # what was written behind the last entry of the journal is cut off
        (output / part).write_bytes(data + b"some more")
    prepare(corpus, tokenizer, output, workers=1)
    assert content(output) == content(folder)


def test_a_full_disk(
    folder: Path, corpus: Path, tmp_path: Path, tokenizer: BilingualTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "BATCH_CHARACTERS", 1000)
    monkeypatch.setattr(writer, "COMMIT_SECONDS", 0.0)
    left, sync = 20, os.fsync

    def full(descriptor: int) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(DataError, match=r"shard cannot be written .*No space left"):
            prepare(corpus, tokenizer, tmp_path / "shard", workers=1)
    assert json.loads((tmp_path / "shard" / "progress.json").read_text())["progress"]["documents"] > 0
    prepare(corpus, tokenizer, tmp_path / "shard", workers=1)
    assert content(tmp_path / "shard") == content(folder)


def test_a_worker_that_dies(
    folder: Path, corpus: Path, tmp_path: Path, tokenizer: BilingualTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "BATCH_CHARACTERS", 100)

    def deadly(path: str, *, field: str) -> Iterator[str]:
        for number, text in enumerate(documents(path, field=field)):
            if number == 20:
                for child in multiprocessing.active_children():
                    child.kill()
            yield text

    with monkeypatch.context() as patch:
        patch.setattr(shards, "documents", deadly)
        with pytest.raises(DataError, match="a tokenizing process died"):
            prepare(corpus, tokenizer, tmp_path / "shard", workers=2)
    prepare(corpus, tokenizer, tmp_path / "shard", workers=0)
    assert content(tmp_path / "shard") == content(folder)


# --- real processes, really killed ---------------------------------------------------


def children(pid: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if fields[1] == str(pid) and fields[0] != "Z":
                found.append(int(entry.name))
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize("workers", [1, 2])
def test_killed_at_random_moments(
    tmp_path: Path, tokenizer: BilingualTokenizer, text_lines: list[str], workers: int
) -> None:
    rng = random.Random(workers)
    texts = [" ".join(rng.choices(text_lines, k=rng.randrange(1, 60))) for _ in range(1000)]
    (tmp_path / "vocabulary").mkdir()
    for name, data in tokenizer.files().items():
        (tmp_path / "vocabulary" / name).write_bytes(data)
    for i in range(3):
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts[i::3])
        (tmp_path / f"{i}.jsonl.zst").write_bytes(zstandard.ZstdCompressor().compress(lines.encode()))
    code = (
        "import openglm.data.shards as shards, openglm.data.writer as writer\n"
        "shards.BATCH_CHARACTERS, writer.COMMIT_SECONDS = 4000, 0.02\n"
        "from openglm.cli.main import main\n"
        f"main(['data', 'prepare', {str(tmp_path)!r} + '/*.zst', '--tokenizer', {str(tmp_path / 'vocabulary')!r}, "
        f"'--output', {str(tmp_path / 'shard')!r}, '--workers', '{workers}'])"
    )
    journal, done = tmp_path / "shard" / "progress.json", []
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE)
        before = done[-1] if done else 0  # the journal is there before any work
        while process.poll() is None and written(journal) <= before:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.05))
        helpers = children(process.pid)
        process.send_signal(signal.SIGKILL)
        errors = process.communicate()[1]
        if process.returncode == 0:
            break
        assert b"Traceback" not in errors
        done.append(written(journal))
        assert len(helpers) >= (workers if workers > 1 else 0)
        while any(map(alive, helpers)):  # workers end with the process they work for
            time.sleep(0.01)
    assert done, "finished before it could be killed"
    assert done[0] >= 0
    assert done == sorted(done)
    if process.returncode:
        finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert finished.stderr == ""
        assert f"{len(texts):,} documents" in finished.stdout
    prepare(tmp_path / "*.zst", tokenizer, tmp_path / "expected", workers=1)
    assert content(tmp_path / "shard") == content(tmp_path / "expected")


def written(journal: Path) -> int:
    """Documents in the journal; -1 without one."""
    try:
        return int(json.loads(journal.read_text())["progress"]["documents"])
    except FileNotFoundError:
        return -1


@pytest.mark.parametrize("name", ["notes.txt", "tokens.bin", "bounds.part", "manifest.json"])
def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path, tokenizer: BilingualTokenizer, name: str) -> None:
    """Files under other names, and under ours that we did not write."""
    text, output = tmp_path / "text.txt", tmp_path / "output"
    text.write_text("The river.\n\nThe bridge.", encoding="utf-8")
    output.mkdir()
    (output / name).write_text("mine")
    (output / "progress.json").write_text("mine too") if name == "manifest.json" else None
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    with pytest.raises(OpenGLMError, match="holds"):
        prepare(text, tokenizer, output)
    after = {path.name: path.read_bytes() for path in output.iterdir()}
    assert after == before


def test_an_input_edited_meanwhile_is_noticed(
    tmp_path: Path, tokenizer: BilingualTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, output = tmp_path / "text.txt", tmp_path / "output"
    text.write_text("The river.\n\nThe bridge.", encoding="utf-8")

    append, calls = ShardWriter.append, []

    def stop_at_the_second(self: ShardWriter, *arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        append(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr("openglm.data.shards.BATCH_CHARACTERS", 5)
        patch.setattr(ShardWriter, "append", stop_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            prepare(text, tokenizer, output)
    text.write_text("The ricer.\n\nThe bridge.", encoding="utf-8")
    with pytest.raises(DataError, match="changed since"):
        prepare(text, tokenizer, output)
