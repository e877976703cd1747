"""Documents out of files: every format, every place, and what can be wrong with them."""

from __future__ import annotations

import gzip
import itertools
import json
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from openglm.data import addresses, corpus
from openglm.data.addresses import expand, file_name, size_of
from openglm.data.corpus import OPEN_FILES, documents, interleaved
from openglm.errors import DataError, MissingLibraryError

TEXTS = ["The first one.", "第二篇。\n两段。", "third \u2028 \x00 \u0085 with odd breaks", " ", "x" * 5000]


def jsonl(texts: list[str], field: str = "text") -> bytes:
    return "".join(json.dumps({field: text, "n": i}) + "\n" for i, text in enumerate(texts)).encode()


def parquet(texts: list[Any], field: str = "text", **settings: Any) -> bytes:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.table({"id": list(range(len(texts))), field: texts}), sink, **settings)
    return bytes(sink.getvalue())


def several_frames(data: bytes) -> bytes:
    """What `cat a.zst b.zst` and parallel compressors make, with a frame of no text in between."""
    pack = zstandard.ZstdCompressor().compress
    return pack(data[: len(data) // 3]) + pack(b"") + pack(data[len(data) // 3 :])


def write_kinds(folder: Path, texts: list[str]) -> list[Path]:
    contents = {
        "a.jsonl": jsonl(texts),
        "b.jsonl.gz": gzip.compress(jsonl(texts)),
        "c.jsonl.zst": several_frames(jsonl(texts)),
        "d.parquet": parquet(texts, row_group_size=2),
        "E.JSON.GZ": gzip.compress(jsonl(texts)) + gzip.compress(b""),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in contents]


@pytest.fixture
def memory() -> Iterator[str]:
    """An address in fsspec's memory, emptied afterwards."""
    system = fsspec.filesystem("memory")
    yield "memory://corpus"
    system.store.clear()
    system.pseudo_dirs[:] = [""]


# --- formats -------------------------------------------------------------------------


def test_every_format_gives_the_documents(tmp_path: Path) -> None:
    for path in write_kinds(tmp_path, TEXTS):
        assert list(documents(path)) == TEXTS, path.name
        assert list(documents(str(path))) == TEXTS
        assert list(documents(f"file://{path}")) == TEXTS


@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1)))
@settings(max_examples=30)
def test_any_documents_come_back(texts: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for path in write_kinds(Path(folder), texts):
            assert list(documents(path)) == texts


def test_empty_documents_and_lines_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "one"}\r\n\r\n \n{"text": ""}\n{"text": "two"}')
    assert list(documents(path)) == ["one", "two"]
    (tmp_path / "a.parquet").write_bytes(parquet(["one", "", "two"]))
    assert list(documents(tmp_path / "a.parquet")) == ["one", "two"]


@given(st.lists(st.sampled_from(["", " ", "\t", "a", "b c", " d", "第一行", "e\rf"]), max_size=12), st.booleans())
def test_text_is_cut_at_blank_lines(lines: list[str], windows: bool) -> None:
    expected = [p.rstrip("\n") for p in re.split(r"(?:^|(?<=\n))[ \t]*\n", "\n".join([*lines, ""])) if p.strip()]
    with tempfile.NamedTemporaryFile(suffix=".txt") as file:
        file.write(("\r\n" if windows else "\n").join([*lines, ""]).encode())
        file.flush()
        assert list(documents(file.name)) == expected


def test_other_fields_and_string_types(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    (tmp_path / "a.jsonl").write_bytes(jsonl(TEXTS, "content"))
    assert list(documents(tmp_path / "a.jsonl", field="content")) == TEXTS
    for kind in (pyarrow.large_string(), pyarrow.dictionary(pyarrow.int32(), pyarrow.string())):
        (tmp_path / "a.parquet").write_bytes(parquet(pyarrow.array(TEXTS).cast(kind), "body.text"))
        assert list(documents(tmp_path / "a.parquet", field="body.text")) == TEXTS


def test_a_document_of_a_megabyte(tmp_path: Path) -> None:
    text = "0123456789abcde\n" * (1 << 16)
    for path in write_kinds(tmp_path, [text, "short"]):
        assert list(documents(path)) == [text, "short"]


def test_zstd_with_a_long_window(tmp_path: Path) -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=28, enable_ldm=True)
    packed = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    (tmp_path / "a.jsonl.zst").write_bytes(packed.compress(jsonl(TEXTS)) + packed.flush())
    assert list(documents(tmp_path / "a.jsonl.zst")) == TEXTS


# --- what can be wrong ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{not json", "expected a JSON object"),
        (b'["text"]', "expected a JSON object"),
        (b'{"txt": "x"}', 'field "text"'),
        (b'{"text": null}', "not a string"),
        (b'{"text": ["a"]}', "not a string"),
        (b'{"text": "\xff"}', "not valid UTF-8"),
        (b'{"text": "\\ud800 half"}', "surrogate"),
        (b"[" * 100_000, "expected a JSON object"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b'{"text": "good \\ud83d\\ude00"}\n\n' + line + b'\n{"text": "good"}\n')
    found = documents(path)
    assert next(found) == "good 😀"
    with pytest.raises(DataError, match=rf"bad\.jsonl, line 3: .*{message}"):
        next(found)


def test_text_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("eins\n\nzwei\nfünf".encode("latin-1"))
    with pytest.raises(DataError, match=r"a\.txt, line 4: not valid UTF-8"):
        list(documents(tmp_path / "a.txt"))


def outcome(path: Path) -> str:
    """What reading a file comes to: documents, or an error that names it."""
    try:
        list(documents(path))
    except DataError as error:
        return "error" if path.name in str(error) else str(error)
    return "documents"


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.ZstdCompressor().compress, several_frames])
def test_truncated_and_damaged_files(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    """Cut anywhere but between two frames: an error. Damaged anywhere: an error or some text, no other failure."""
    name = "cut.txt.gz" if pack is gzip.compress else "cut.txt.zst"
    path, whole = tmp_path / name, pack(b"one\n\ntwo\n\n" * 5)
    between = 0
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        between += outcome(path) != "error"
    assert between == (2 if pack is several_frames else 0)
    for position, value in itertools.product(range(len(whole)), (0, 0xFF)):
        path.write_bytes(whole[:position] + bytes([value]) + whole[position + 1 :])
        assert outcome(path) in ("documents", "error")


@pytest.mark.parametrize("name", ["a.jsonl.zst", "a.jsonl.gz", "a.parquet"])
@pytest.mark.parametrize("content", [b"", b"PAR1", b'{"text": "not compressed at all"}\n' * 9])
def test_files_of_another_kind(tmp_path: Path, name: str, content: bytes) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=name):
        list(documents(tmp_path / name))


def test_damaged_parquet(tmp_path: Path) -> None:
    whole, path = parquet([f"text number {i}" for i in range(50)]), tmp_path / "a.parquet"
    for length in range(0, len(whole), 97):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"a\.parquet"):
            list(documents(path))
    path.write_bytes(parquet(["a"], "body"))
    with pytest.raises(DataError, match=r'a\.parquet: no column "text"; it has id, body'):
        list(documents(path))
    path.write_bytes(parquet(["a", None]))
    with pytest.raises(DataError, match=r'a\.parquet, row 2: the column "text" holds no string'):
        list(documents(path))
    with pytest.raises(DataError, match='row 1: the column "id"'):
        list(documents(path, field="id"))


@pytest.mark.parametrize(
    ("name", "package", "remedy"),
    [
        ("a.parquet", "pyarrow", r"pip install 'openglm\[parquet\]'"),
        ("a.jsonl.zst", "zstandard", r"pip install 'openglm\[train\]'"),
        ("memory://a.txt", "fsspec", "pip install fsspec"),
        ("s3://bucket/a.txt", "s3fs", "s3fs"),
        ("https://localhost/a.txt", "aiohttp", "aiohttp"),
    ],
)
def test_a_missing_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, package: str, remedy: str
) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    (tmp_path / "a.jsonl.zst").write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises((DataError, MissingLibraryError), match=rf"{re.escape(name)}.*{remedy}"):
        list(documents(name))


def test_local_files_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no\.txt: no such file"):
        list(documents(tmp_path / "no.txt"))
    (tmp_path / "loop.txt").symlink_to(tmp_path / "loop.txt")
    with pytest.raises(DataError, match=r"loop\.txt"):
        list(documents(tmp_path / "loop.txt"))


# --- addresses -----------------------------------------------------------------------


def test_files_at_an_fsspec_address(tmp_path: Path, memory: str) -> None:
    for path in write_kinds(tmp_path, TEXTS):
        fsspec.filesystem("memory").pipe(f"/corpus/{path.name}", path.read_bytes())
        assert list(documents(f"{memory}/{path.name}")) == TEXTS, path.name
        assert size_of(f"{memory}/{path.name}") == path.stat().st_size
    for pattern in (memory, f"{memory}/*", f"{memory}/**"):
        files = expand(pattern)
        assert [file_name(file) for file in files] == ["E.JSON.GZ", "a.jsonl", "b.jsonl.gz", "c.jsonl.zst", "d.parquet"]
        assert list(interleaved(files)) == [text for text in TEXTS for _ in files]
    assert expand(f"{memory}/a.jsonl") == [f"{memory}/a.jsonl"]
    assert [file_name(file) for file in expand([f"{memory}/*.gz", f"{memory}/*.parquet"])] == [
        "b.jsonl.gz",
        "d.parquet",
    ]


def test_addresses_in_chains(tmp_path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(tmp_path / "all.zip", "w") as file:
        file.writestr("in/a.txt", "one\n\ntwo")
        file.writestr("in/b.jsonl", '{"text": "three"}\n')
    files = expand(f"zip://in/*::{tmp_path}/all.zip")
    assert [list(documents(file)) for file in files] == [["one", "two"], ["three"]]
    assert file_name("simplecache::s3://bucket/x/a.jsonl.zst") == "a.jsonl.zst"
    assert file_name("https://localhost/x/a.jsonl?download=true&name=b.txt") == "a.jsonl"


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("memory://corpus/no.jsonl", "no such file"),
        ("memory://corpus/no/*.jsonl", "no files here"),
        ("nowhere://corpus/a.jsonl", "nowhere"),
    ],
)
def test_wrong_fsspec_addresses(memory: str, address: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        expand(address)
    assert str(caught.value).startswith(address)


@pytest.mark.parametrize("error", [RuntimeError("connection lost"), TimeoutError("connection lost")])
def test_a_connection_that_breaks(memory: str, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """File systems raise whatever their own libraries do."""

    class Broken:
        def __enter__(self) -> Broken:
            return self

        def __exit__(self, *reason: object) -> None:
            pass

        def __iter__(self) -> Iterator[bytes]:
            yield b"one\n"
            yield b"\n"
            raise error

    monkeypatch.setattr(corpus, "open_binary", lambda address: Broken())
    found = documents(f"{memory}/a.txt")
    assert next(found) == "one"
    with pytest.raises(DataError, match=r"memory://corpus/a\.txt: cannot be read .*connection lost"):
        next(found)


def test_expand_finds_local_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [
        "b.txt",
        "a.jsonl.zst",
        "c[1].txt",
        ".hidden.txt",
        "README",
        "deep/er/d.json",
        "deep/e.parquet",
        "data.bin",
    ]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    monkeypatch.chdir(tmp_path)
    assert expand(["b.txt", "a.jsonl.zst", Path("b.txt"), "*.txt"]) == ["a.jsonl.zst", "b.txt", "c[1].txt"]
    assert [Path(name).name for name in expand(tmp_path)] == ["a.jsonl.zst", "b.txt", "c[1].txt"]
    assert expand("c[1].txt") == ["c[1].txt"]
    assert expand("c[[]?].txt") == ["c[1].txt"]
    assert expand("**/?.[!b]*[nt]") == ["a.jsonl.zst", "b.txt", "deep/e.parquet", "deep/er/d.json"]
    assert expand("README") == ["README"]
    for nothing in ("*.csv", "deep/er/x.txt", "nowhere"):
        with pytest.raises(DataError, match=re.escape(nothing)):
            expand(["b.txt", nothing])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: no files here; .*\.parquet"):
        expand("empty")
    with pytest.raises(DataError, match="no corpus files"):
        expand([])


# --- many files ----------------------------------------------------------------------


def turns(files: list[list[str]], at_once: int) -> list[str]:
    """A slow reference: one of each, in turn; the next file joins the end of the queue."""
    queue, rest, out = files[:at_once], files[at_once:], []
    queue = [list(file) for file in queue]
    while queue:
        file = queue.pop(0)
        if file:
            out.append(file.pop(0))
            queue.append(file)
        elif rest:
            queue.append(list(rest.pop(0)))
    return out


@given(st.lists(st.integers(0, 4), max_size=24), st.integers(1, 20))
@settings(max_examples=25)
def test_files_take_turns(sizes: list[int], at_once: int) -> None:
    files = [[f"{i}-{j}" for j in range(size)] for i, size in enumerate(sizes)]
    assert list(corpus.in_turn(map(iter, files), at_once)) == turns(files, at_once)
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{i}.txt" for i in range(len(files))]
        for path, texts in zip(paths, files, strict=True):
            path.write_text("\n\n".join(texts))
        assert list(interleaved(paths, open_files=at_once)) == turns(files, at_once)


def test_few_files_are_open_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[BinaryIO] = []

    def remember(address: str | Path) -> BinaryIO:
        file = addresses.open_binary(address)
        opened.append(file)
        return file

    monkeypatch.setattr(corpus, "open_binary", remember)
    for number in range(3 * OPEN_FILES):
        (tmp_path / f"{number:02}.txt").write_text("a\n\nb\n\nc")
    most = 0
    for _ in interleaved(expand(tmp_path)):
        most = max(most, sum(not file.closed for file in opened))
    assert most == OPEN_FILES
    assert len(opened) == 3 * OPEN_FILES
    assert all(file.closed for file in opened)
