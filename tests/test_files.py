"""One way of writing: old or new content whole, nothing else destroyed, locked, gone on from."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from openglm.errors import OpenGLMError, OutputError
from openglm.files import COMMIT_SECONDS, OutputFile, folder_for, lock_file, replacing, write_atomically


def listed(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


@pytest.fixture
def always_committed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openglm.files.COMMIT_SECONDS", 0.0)


def write_both(path: Path) -> list[OutputError]:
    """What writing to a place raises, whole and record by record."""
    out = []
    for write in (lambda: write_atomically(path, b"new"), lambda: _records(path, ["new"])):
        with pytest.raises(OutputError) as caught:
            write()
        out.append(caught.value)
    return out


def _records(path: Path, lines: list[str], identity: str | None = None) -> None:
    with OutputFile(str(path), identity=identity) as out:
        for line in lines[out.done :]:
            out.write(line + "\n", records=1)


def _broken_off(path: Path, lines: list[str], identity: str | None = None) -> None:
    with OutputFile(str(path), identity=identity) as out:
        for line in lines:
            out.write(line + "\n", records=1)
        out.write("half a li")
        raise ZeroDivisionError


def test_devices_pipes_and_folders_are_refused_and_stay(tmp_path: Path) -> None:
    pipe, folder = tmp_path / "pipe", tmp_path / "folder"
    os.mkfifo(pipe)
    folder.mkdir()
    for path, what in ((pipe, "a pipe"), (folder, "a folder")):
        for error in write_both(path):
            assert what in str(error)
            assert isinstance(error, OpenGLMError)
    link = tmp_path / "link"
    link.symlink_to(pipe)
    assert all("a pipe" in str(error) for error in write_both(link))
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert listed(tmp_path) == ["folder", "link", "pipe"]


@pytest.mark.skipif(not hasattr(os, "mknod") or os.geteuid() != 0, reason="only root makes devices")
def test_a_device_is_refused_and_stays(tmp_path: Path) -> None:
    device = tmp_path / "null"
    try:
        os.mknod(device, stat.S_IFCHR | 0o600, os.makedev(1, 3))
    except OSError as error:
        pytest.skip(f"no devices here: {error}")
    assert all("a device" in str(error) for error in write_both(device))
    assert stat.S_ISCHR(device.stat().st_mode)


def test_through_symbolic_links(tmp_path: Path) -> None:
    real, link, dangling = tmp_path / "real", tmp_path / "link", tmp_path / "dangling"
    real.write_text("old")
    link.symlink_to(real)
    dangling.symlink_to(tmp_path / "new")
    write_atomically(link, b"one")
    assert link.is_symlink()
    assert real.read_text() == "one"
    _records(dangling, ["two"])
    assert dangling.is_symlink()
    assert (tmp_path / "new").read_text() == "two\n"


def test_permissions_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("old")
    path.chmod(0o600)
    write_atomically(path, b"new")
    _records(path, ["new"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_no_file_of_anybody_elses_is_touched(tmp_path: Path) -> None:
    theirs = ["out.part", ".out.part", ".out.lock", "out.lock", "out.tmp"]
    for name in theirs:
        (tmp_path / name).write_text("theirs")
    _records(tmp_path / "out", ["a"])
    write_atomically(tmp_path / "out", b"b")
    assert all((tmp_path / name).read_text() == "theirs" for name in theirs)
    assert listed(tmp_path) == sorted(["out", *theirs])
    in_the_way = tmp_path / ".new.openglm-part"
    in_the_way.mkdir()
    (in_the_way / "diary").write_text("theirs")
    with pytest.raises(OutputError, match="in the way"):
        _records(tmp_path / "new", ["a"])
    assert listed(in_the_way) == ["diary"]


def test_names_as_long_as_a_system_allows(tmp_path: Path) -> None:
    path = tmp_path / ("文" * 80)
    write_atomically(path, b"a")
    _records(path, ["b"])
    assert path.read_text() == "b\n"
    with pytest.raises(OutputError, match="too long"):
        write_atomically(tmp_path / ("n" * 300), b"a")


@pytest.mark.usefixtures("always_committed")
def test_a_failed_run_is_gone_on_from(tmp_path: Path) -> None:
    path, lines = tmp_path / "out", [f"line {i}" for i in range(9)]
    path.write_text("old")
    with pytest.raises(ZeroDivisionError):
        _broken_off(path, lines[:4], "same")
    assert path.read_text() == "old"
    with pytest.raises(OutputError, match="other inputs or options, 4 records"):
        _records(path, lines, identity="other")
    with OutputFile(str(path), identity="same") as out:
        assert out.done == 4
        for line in lines[4:]:
            out.write(line + "\n", records=1)
    assert path.read_text().splitlines() == lines
    assert listed(tmp_path) == ["out"]


def test_what_cannot_be_repeated_is_set_aside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "out"
    with pytest.raises(ZeroDivisionError):
        _broken_off(path, ["one"])
    (kept,) = tmp_path.iterdir()
    assert kept.read_text() == "one\n"
    assert kept.name in capsys.readouterr().err
    _records(path, ["new"])
    assert kept.read_text() == "one\n"


def test_two_writers_of_one_file(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with OutputFile(str(path)) as first:
        first.write("first\n", records=1)
        with pytest.raises(OutputError, match="another process"):
            _records(path, ["second"])
    assert path.read_text() == "first\n"


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    """The limit of a process's files stands in for the end of the disk."""
    code = (
        "import resource, sys; from openglm.files import OutputFile, write_atomically; from openglm.errors import "
        "OutputError; from pathlib import Path; path = sys.argv[1]\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try: write_atomically(Path(path), bytes(9000))\n"
        "except OutputError as error: print(error)\n"
        "try:\n"
        "    with OutputFile(path, identity='a') as out:\n"
        "        for i in range(900): out.write(f'{i:9}\\n', records=1)\n"
        "except OutputError as error: print(error)\n"
    )
    path = tmp_path / "out"
    path.write_text("old")
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
    assert done.stdout.count(f"{path}: cannot be written (File too large)") == 2, done.stderr
    assert path.read_text() == "old"
    assert not done.stderr.count("Traceback")


def test_errors_of_what_is_read_meanwhile_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "out"):
        (tmp_path / "missing").read_bytes()
    assert not listed(tmp_path)


def test_folders_to_write_into(tmp_path: Path) -> None:
    assert folder_for(tmp_path / "a" / "new").is_dir()
    assert folder_for(tmp_path / "a" / "new").is_dir()
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "diary").write_text("x")
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="holds other files"):
        folder_for(tmp_path / "theirs", ours=("manifest.json",))
    with pytest.raises(OutputError, match="a file is there"):
        folder_for(tmp_path / "file")
    (tmp_path / "theirs" / "manifest.json").write_text("{}")
    assert folder_for(tmp_path / "theirs", ours=("manifest.json",)).is_dir()


def test_locks(tmp_path: Path) -> None:
    with (tmp_path / "a").open("ab") as one, (tmp_path / "a").open("ab") as two:
        assert lock_file(one)
        assert not lock_file(two)
    with (tmp_path / "a").open("ab") as three:
        assert lock_file(three)


def test_standard_output_under_each_of_its_names(capsys: pytest.CaptureFixture[str]) -> None:
    for name in (None, "-", "/dev/stdout", "/dev/fd/1"):
        with OutputFile(name) as out:
            assert not out.to_file
            out.write("x", records=1)
    assert capsys.readouterr().out == "xxxx"
    with pytest.raises(OutputError, match="stream of this process"), OutputFile("/dev/stderr"):
        pass
    assert COMMIT_SECONDS > 0
