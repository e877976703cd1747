"""Files that are damaged, or well formed and wrong, wherever a command reads one."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest

from .attempts import attempt, listing

DEEP = "[" * 50_000
WRONG_JSON = (
    b"", b"null", b"3", b'"x"', b"[]", b"{}", DEEP.encode(), b'{"format": "openglm"}', b'{"a": ' + b"9" * 5000 + b"}",
    b"\xff\xfe{}", b"\x00" * 100, b'{"num_layers": "2"}', b'{"num_layers": 1e400}', b'{"type": ["bilingual"]}',
    b'{"weight_map": {"a": 1}}', b'{"type": "bilingual", "x": 1}', b"NaN",
)  # fmt: skip


@pytest.fixture
def folder(scratch: Path, model: Path) -> Path:
    shutil.copytree(model, scratch / "m")
    return scratch / "m"


def damage(rng: random.Random, content: bytes) -> bytes:
    """Bits flipped, a piece cut out, doubled, or replaced."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        at, count = rng.randrange(len(data) + 1), rng.choice((1, 1, 8, 300))
        kind = rng.randrange(5)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del data[at : at + count]
        elif kind == 2:
            data[at:at] = data[at : at + count]
        elif kind == 3:
            data[at : at + count] = rng.randbytes(count)
        else:
            del data[at:]
    return bytes(data)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "checksums.json", "added_tokens.json"])
@pytest.mark.parametrize("content", WRONG_JSON, ids=lambda content: repr(content[:18]))
def test_json_that_is_wrong(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    attempt(["fill", "a [MASK]", "--model", "m", "--device", "cpu"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "tokenizer.model", "model.safetensors"])
def test_damaged_models(folder: Path, name: str) -> None:
    rng = random.Random(name)
    whole = (folder / name).read_bytes()
    good = attempt(["fill", "the [MASK] bridge", "--model", "m", "--device", "cpu"]).out
    for _ in range(150):
        (folder / name).write_bytes(damage(rng, whole))
        found = attempt(["fill", "the [MASK] bridge", "--model", "m", "--device", "cpu"])
        if found.code == 0 and name in ("tokenizer.model", "model.safetensors"):
            assert found.out == good, "damage that changes what is written was not found"


@pytest.mark.parametrize("form", ["jsonl", "csv", "tsv", "txt"])
@pytest.mark.parametrize("count", [25, pytest.param(250, marks=pytest.mark.exhaustive)])
def test_damaged_inputs(scratch: Path, model: Path, form: str, count: int) -> None:
    rng = random.Random(form)
    rows = {
        "jsonl": '{"text": "a [MASK]", "id": 1}\n{"text": "é [MASK] \\ud83d", "x": [1, {"y": null}]}\n\n',
        "csv": 'id,text\n1,"a, [MASK]"\n2,"b ""q"" [MASK]\nc"\n\n',
        "tsv": "id\ttext\n1\ta [MASK]\n2\tb [MASK]\n",
        "txt": "a [MASK]\n\n文 [MASK]\n",
    }
    source, out = scratch / f"in.{form}", scratch / f"out.{form}"
    for _ in range(count):
        source.write_bytes(damage(rng, rows[form].encode()))
        before = source.read_bytes()
        options = ["--model", str(model), "--device", "cpu", "--max-new-tokens", "1", "--output", out.name]
        found = attempt(["fill", "--input", source.name, *options])
        assert source.read_bytes() == before
        if found.code != 2 and form in ("txt", "jsonl"):
            lines = before.split(b"\n")
            assert out.read_bytes().count(b"\n") == len(lines) - (not lines[-1])
        attempt(["choose", "--input", source.name, "--choice", "x", "--model", str(model), "--output", out.name])
        assert not [name for name in listing(scratch) if "openglm-part" in name]


@pytest.mark.parametrize(
    "content",
    [
        "", "3", "[]", "kind: choice", "kind: [choice]", "patterns: 3", "patterns: [3]", "patterns: [[x]]",
        "kind: choice\npatterns: ['{a} [MASK]']\nverbalizer: 3", "kind: choice\npatterns: ['{a}']\nverbalizer: {a: b}",
        "kind: choice\npatterns: ['{a [MASK]']\nverbalizer: {a: b, c: d}",
        "kind: choice\npatterns: ['{a} [MASK]']\nverbalizer: {a: [b, [c, [d]]], c: 1}",
        "kind: choice\npatterns: ['{a} [MASK]']\nverbalizer: {a: b, c: d}\nfiles: 3\nlabel: {}\nmetrics: [x]",
        "a: &a [*a]", "!!python/object:os.system {}", "\0", "a: " + "[" * 3000,
    ],
    ids=lambda content: repr(content[-30:]),
)  # fmt: skip
def test_task_files_that_are_wrong(scratch: Path, model: Path, content: str) -> None:
    (scratch / "task.yaml").write_text(content)
    (scratch / "in.jsonl").write_text('{"a": "x"}\n')
    found = attempt(["predict", "task.yaml", "in.jsonl", "--model", str(model), "--device", "cpu"])
    assert found.code == 2


@pytest.mark.parametrize("count", [40, pytest.param(400, marks=pytest.mark.exhaustive)])
def test_records_of_every_type(scratch: Path, model: Path, count: int) -> None:
    """Values where text belongs, and text where values belong."""
    rng = random.Random(count)
    values = [None, True, 0, -1.5, 1e308, "", "x [MASK]", [], ["a [MASK]"], {}, {"text": "a"}, "\ud800", "9" * 400]
    rows = [{rng.choice(("text", "id", "")): rng.choice(values), "n": i} for i in range(count)]
    (scratch / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    attempt(["fill", "--input", "in.jsonl", "--model", str(model), "--output", "out.jsonl", "--max-new-tokens", "1"])
    found = [json.loads(line) for line in (scratch / "out.jsonl").read_text().splitlines()]
    assert [each["n"] for each in found] == list(range(count))
    assert all(("filled" in each) != ("error" in each) for each in found)
