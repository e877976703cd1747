"""How the kernels are built, and what happens where they cannot be."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from openglm.engine.paged_attention import DecodeCache
from openglm.engine.paged_runner import PagedRunner
from openglm.errors import OptionError
from openglm.network import native
from openglm.network.config import GLMConfig
from openglm.network.model import GLMModel

pytestmark = [
    pytest.mark.skipif(shutil.which(native.compiler()) is None, reason=f"the kernels need {native.compiler()}"),
    pytest.mark.skipif(native.instructions() is None, reason="there is no kernel for this machine"),
]


def config_of(size: int) -> GLMConfig:
    return GLMConfig(1, 2 * size, 2, 128, max_sequence_length=64)


@pytest.fixture
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache folder of our own, and a process that has not asked for the kernel yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    native.library.cache_clear()
    native._built.cache_clear()
    yield tmp_path / "openglm"
    native.library.cache_clear()
    native._built.cache_clear()


def test_it_is_compiled_once_and_then_needs_no_compiler(fresh_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert native.kernel_for(config_of(16)) == native.instructions()
    [made] = fresh_cache.iterdir()
    native.library.cache_clear()
    native._built.cache_clear()
    monkeypatch.setenv("CXX", "no-such-compiler")
    before = made.stat().st_mtime_ns
    assert native.kernel_for(config_of(16)) == native.instructions()
    assert made.stat().st_mtime_ns == before
    assert list(fresh_cache.iterdir()) == [made]


def test_a_home_that_cannot_be_written_to(fresh_cache: Path) -> None:
    fresh_cache.write_text("a file where a folder should be")
    assert native.kernel_for(config_of(16)) == native.instructions()
    assert fresh_cache.read_text().startswith("a file")


@pytest.mark.parametrize("trouble", ["no compiler", "a compiler that refuses", "a compiler that never ends"])
def test_without_a_compiler_torch_computes(
    trouble: str, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if trouble == "no compiler":
        monkeypatch.setenv("CXX", "no-such-compiler")
    elif trouble == "a compiler that refuses":
        broken = fresh_cache.parent / "kernels.cpp"
        broken.write_text("int x = no_such_name;")
        monkeypatch.setattr(native, "SOURCE", broken)
    else:
        slow = fresh_cache.parent / "slow"
        slow.write_text("#!/bin/sh\nsleep 60\n")
        slow.chmod(0o755)
        monkeypatch.setenv("CXX", str(slow))
        monkeypatch.setattr(native, "BUILD_SECONDS", 0.2)
    with caplog.at_level("INFO", "openglm"):
        runner = PagedRunner(GLMModel(config_of(16)).eval(), 122)
    assert runner.kernel is None
    assert runner._decode_cache is DecodeCache
    assert "no-such-compiler" in caplog.text or "no_such_name" in caplog.text or "timed out" in caplog.text
    assert not [path for path in fresh_cache.glob("*") if path.is_file()], "nothing half-made stays"


def test_it_can_be_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    assert native.kernel_for(config_of(20)) is None, "heads of 20 are not a whole number of vectors"
    monkeypatch.setenv("OPENGLM_KERNEL", "off")
    assert native.kernel_for(config_of(16)) is None
    monkeypatch.setenv("OPENGLM_KERNEL", "SSE")
    with pytest.raises(OptionError, match=r"OPENGLM_KERNEL='SSE'.*AVX2.*off"):
        native.kernel_for(config_of(16))


def test_many_processes_may_build_it_at_once(tmp_path: Path) -> None:
    code = "from openglm.network import native; native.library(native.instructions()).decode_float32"
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    running = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    assert [process.communicate(timeout=240)[1] for process in running] == [""] * 4
    assert len(list((tmp_path / "openglm").iterdir())) == 1
