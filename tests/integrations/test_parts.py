"""Parts of big inputs: every line in one of them, results under their names only when whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openglm.errors import DataError, OutputError
from openglm.integrations.parts import MANIFEST, begin, deliver, fetch, plan


@given(lines=st.lists(st.text("ab中", max_size=30), min_size=1, max_size=40), size=st.integers(1, 50))
def test_every_line_is_in_one_part(tmp_path_factory: pytest.TempPathFactory, lines: list[str], size: int) -> None:
    folder = tmp_path_factory.mktemp("parts")
    content = "".join(f"{line}\n" for line in lines).encode()
    (folder / "a.txt").write_bytes(content)
    parts = plan(str(folder / "a.txt"), str(folder / "out"), part_bytes=size)
    scratch = folder / "scratch"
    scratch.mkdir()
    assert b"".join(fetch(part, scratch).read_bytes() for part in parts) == content
    assert len({part.target for part in parts}) == len(parts)


def test_results_of_other_inputs_stay(tmp_path: Path) -> None:
    source, out = tmp_path / "a.jsonl", tmp_path / "out"
    source.write_text('{"text": "x"}\n')
    parts = plan(str(source), str(out))
    assert begin(str(out), parts, {"seed": 1}) == parts
    deliver(source, parts[0])
    assert begin(str(out), parts, {"seed": 1}) == []
    with pytest.raises(OutputError, match="other inputs or options"):
        begin(str(out), parts, {"seed": 2})
    source.write_text('{"text": "longer"}\n')
    with pytest.raises(OutputError, match="other inputs or options"):
        begin(str(out), plan(str(source), str(out)), {"seed": 1})
    assert {each.name for each in out.iterdir()} == {MANIFEST, "a.jsonl"}


def test_a_folder_of_other_files_is_left_alone(tmp_path: Path) -> None:
    source, out = tmp_path / "a.jsonl", tmp_path / "out"
    source.write_text("{}\n")
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="other files"):
        begin(str(out), plan(str(source), str(out)), {})
    assert [each.name for each in out.iterdir()] == ["mine.txt"]


def test_two_files_of_one_name(tmp_path: Path) -> None:
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match="to one name"):
        plan([str(tmp_path / "x"), str(tmp_path / "y")], str(tmp_path / "out"))


def test_parquet_in_and_out(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    source, out = tmp_path / "a.parquet", tmp_path / "out"
    rows = [{"text": "你好 [MASK]", "id": 1}, {"text": "b", "id": None}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), source)
    (part,) = begin(str(out), plan(str(source), str(out)), {})
    local = fetch(part, tmp_path)
    assert [json.loads(line) for line in local.read_text(encoding="utf-8").splitlines()] == rows
    local.write_text(
        "".join(json.dumps({**row, "mixed": mixed}) + "\n" for row, mixed in zip(rows, (1, "x"), strict=True))
    )
    deliver(local, part)
    assert parquet.read_table(part.target).to_pylist() == [
        {**rows[0], "mixed": "1"},
        {**rows[1], "mixed": '"x"'},
    ]
