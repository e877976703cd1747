"""Vocabulary files that are damaged or well formed and wrong: named errors, whatever the kind."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from openglm.errors import OpenGLMError
from openglm.tokenizer import load_tokenizer

from .test_hostile_files import DEEP, damage

BYTES = [chr(i) for i in [*range(33, 127), *range(161, 173), *range(174, 256)]] + [chr(256 + i) for i in range(68)]
GOOD_JSON = json.dumps({character: number for number, character in enumerate(BYTES)}, ensure_ascii=False)
WRONG = {
    "vocab.json": (
        "", "[]", "3", "{}", '{"a": "x"}', '{"a": -1}', '{"a": 1e9}', '{"a": 0, "b": 0}', '{"a": null}', '{"a": [1]}',
        DEEP, '{"a": 99999999999999999999}', '{"\\ud800": 0}',
    ),
    "merges.txt": ("", "a", "a b c", "x y\nx y", "#version\nzz zz", "\ud7ff \u0000"),
    "vocab.txt": ("", "\n\n", "a\na", "[PAD]", "x" * 100_000, "[CLS]\n[SEP]\n[UNK]\n"),
    "cog-pretrain.model": ("", "x", "\n\x00", "version https://git-lfs.github.com/spec/v1\n"),
}  # fmt: skip


def try_to_load(folder: Path) -> None:
    """A tokenizer that can encode, or a named error."""
    said = str(folder)
    try:
        tokenizer = load_tokenizer(folder)
        tokenizer.decode(tokenizer.encode("a b 文 [MASK]"))
    except OpenGLMError as error:
        said = str(error)
    assert str(folder) in said
    assert len(said) < 2000


@pytest.mark.parametrize("name", WRONG)
def test_wrong_vocabularies(tmp_path: Path, name: str) -> None:
    (tmp_path / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    if name == "merges.txt":
        (tmp_path / "vocab.json").write_text(GOOD_JSON, encoding="utf-8")
    for content in WRONG[name]:
        (tmp_path / name).write_text(content, encoding="utf-8")
        try_to_load(tmp_path)


@pytest.mark.parametrize("count", [20, pytest.param(300, marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("name", ["vocab.json", "merges.txt", "vocab.txt"])
def test_damaged_vocabularies(tmp_path: Path, name: str, count: int) -> None:
    rng = random.Random(name)
    good = {
        "vocab.json": GOOD_JSON.encode(),
        "merges.txt": b"#version: 0.2\na b\nc d\nab cd\n",
        "vocab.txt": "\n".join(["[PAD]", *(f"[unused{i}]" for i in range(99)), "[UNK]", "[CLS]", "[SEP]", "[MASK]",
                                *"abc文", "##a"]).encode(),
    }  # fmt: skip
    for other in ("vocab.json", "merges.txt") if name != "vocab.txt" else ("vocab.txt",):
        (tmp_path / other).write_bytes(good[other])
    for _ in range(count):
        (tmp_path / name).write_bytes(damage(rng, good[name]))
        try_to_load(tmp_path)
