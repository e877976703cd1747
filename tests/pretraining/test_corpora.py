"""What a run reads: shards and text files by name, and what is kept for evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from openglm.data.shards import Shard, prepare
from openglm.data.text_stream import TextStream
from openglm.errors import DataError, OpenGLMError
from openglm.pretraining import corpora
from openglm.pretraining.corpora import Corpora, facts_of, identity_of, open_corpora
from openglm.pretraining.recipe import CorporaOptions, Recipe
from openglm.tokenizer import BilingualTokenizer
from openglm.training.parallel import Processes

from ..training.runs import recipe_values

ALONE = Processes(torch.device("cpu"))


@pytest.fixture
def folder(tmp_path: Path, tokenizer: BilingualTokenizer, documents: list[str]) -> Path:
    """`a.jsonl` and `b.jsonl`, one document in three in the first, and a shard of each."""
    for name, part in (("a", documents[::3]), ("b", [d for i, d in enumerate(documents) if i % 3])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"text": d}) + "\n" for d in part), encoding="utf-8")
        prepare(tmp_path / f"{name}.jsonl", tokenizer, tmp_path / name, workers=1)
    return tmp_path


def opened(tokenizer: BilingualTokenizer, **data: Any) -> Corpora:
    return open_corpora(CorporaOptions(**data), tokenizer, Recipe.from_dict(recipe_values()).run, ALONE)


def tokens_of(corpus: Any) -> int:
    return len(corpus.at(0).tokens)


def test_shards_by_name_and_weight(folder: Path, tokenizer: BilingualTokenizer) -> None:
    train = {"zh": {"paths": str(folder / "a"), "weight": 2.0}, "en": str(folder / "b")}
    found = opened(tokenizer, train=train, valid={"en": str(folder / "a")})
    assert [(s.name, s.weight) for s in found.train] == [("zh", 2.0), ("en", 1.0)]
    assert [s.name for s in found.valid] == ["en"]
    assert tokens_of(found.train[1].shard) == len(Shard.open(folder / "b", tokenizer).tokens), "nothing is held out"
    assert not found.notes


def test_shards_of_one_name_are_drawn_by_size(folder: Path, tokenizer: BilingualTokenizer) -> None:
    found = opened(
        tokenizer, train={"x": {"paths": [str(folder / "a"), str(folder / "b")], "weight": 3.0}}, hold_out=0.0
    )
    sizes = [tokens_of(source.shard) for source in found.train]
    assert [source.weight for source in found.train] == pytest.approx([3.0 * size / sum(sizes) for size in sizes])
    assert not found.valid


@pytest.mark.parametrize("kind", ["", ".jsonl"])
def test_a_share_is_kept_for_evaluation(folder: Path, tokenizer: BilingualTokenizer, kind: str) -> None:
    """No document is in both parts, and all are in one."""
    found = opened(tokenizer, train={"a": f"{folder}/a{kind}"}, hold_out=0.2)
    [train], [valid] = found.train, found.valid
    whole = Shard.open(folder / "a", tokenizer)
    parts = [{bytes(part.document(i)) for i in range(len(part))} for part in (train.shard.at(0), valid.shard.at(0))]
    assert not parts[0] & parts[1]
    assert parts[0] | parts[1] == {bytes(whole.document(i)) for i in range(len(whole))}
    assert len(valid.shard.at(0)) == 4
    assert identity_of(train) != identity_of(opened(tokenizer, train={"a": f"{folder}/a{kind}"}).train[0])


@pytest.mark.parametrize("kind", ["", ".jsonl"])
def test_what_is_kept_is_bounded(
    folder: Path, tokenizer: BilingualTokenizer, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpora, "HELD_TOKENS", 300)
    [valid] = opened(tokenizer, train={"a": f"{folder}/a{kind}"}, hold_out=0.9).valid
    lengths = np.diff(valid.shard.at(0).bounds)
    assert lengths.sum() <= 300 + lengths.max()
    [valid] = opened(tokenizer, train={"a": f"{folder}/a"}, valid={"b": f"{folder}/b.jsonl"}).valid
    assert 300 <= tokens_of(valid.shard) <= 300 + np.diff(valid.shard.at(0).bounds).max()


@pytest.mark.parametrize("kind", ["", ".jsonl"])
def test_a_corpus_of_one_document_keeps_none(tmp_path: Path, tokenizer: BilingualTokenizer, kind: str) -> None:
    (tmp_path / "one.jsonl").write_text(json.dumps({"text": "The river. The market!"}) + "\n", encoding="utf-8")
    prepare(tmp_path / "one.jsonl", tokenizer, tmp_path / "one", workers=1)
    found = opened(tokenizer, train={"one": f"{tmp_path}/one{kind}"})
    assert not found.valid
    assert len(found.notes) == 1
    assert "one" in found.notes[0]
    assert "--valid" in found.notes[0]


def test_text_moves_on_by_what_a_batch_draws(folder: Path, tokenizer: BilingualTokenizer) -> None:
    """Two rows of 48 tokens for half of the run and two of 64 for the other, a quarter of them from here."""
    train = {"a": f"{folder}/*.jsonl", "b": {"paths": str(folder / "b"), "weight": 3.0}}
    [text, _] = opened(tokenizer, train=train).train
    assert isinstance(text.shard, TextStream)
    assert text.shard._tokens_per_batch == pytest.approx((2 * 48 + 2 * 64) / 2 / 4)
    assert [Path(file).name for file in text.shard.files] == ["a.jsonl", "b.jsonl"]
    assert facts_of(text)["address"] == "a.jsonl and 1 more file"


def test_what_is_wrong_is_named(folder: Path, tokenizer: BilingualTokenizer) -> None:
    for data, named in (
        ({}, "--data"),
        ({"train": {"x": [str(folder / "a"), str(folder / "b.jsonl")]}}, "b.jsonl is not"),
        ({"train": {"x": str(folder / "c.jsonl")}}, "c.jsonl"),
        ({"train": {"x": str(folder / "a")}, "valid": {"y": str(folder / "*.parquet")}}, "parquet"),
        ({"train": {"x": str(folder / "a.jsonl")}, "field": "body"}, "body"),
    ):
        with pytest.raises(OpenGLMError, match=named):
            opened(tokenizer, **data)
    tokens = folder / "b" / "tokens.bin"
    content = bytearray(tokens.read_bytes())
    content[10] ^= 1
    tokens.write_bytes(content)
    with pytest.raises(DataError, match="damaged"):
        opened(tokenizer, train={"x": str(folder / "a"), "y": str(folder / "b")})


def test_identities_follow_the_text(folder: Path, tokenizer: BilingualTokenizer, tmp_path: Path) -> None:
    """The same wherever it lies; another where the text is."""
    for kind in ("", ".jsonl"):
        first = identity_of(opened(tokenizer, train={"x": f"{folder}/a{kind}"}).train[0])
        assert first == json.loads(json.dumps(first))
        moved = tmp_path / "elsewhere"
        moved.mkdir(exist_ok=True)
        (folder / f"a{kind}").rename(moved / f"a{kind}")
        assert identity_of(opened(tokenizer, train={"x": f"{moved}/a{kind}"}).train[0]) == first
        assert identity_of(opened(tokenizer, train={"x": f"{folder}/b{kind}"}).train[0]) != first
