"""The documentation says what there is: every public name is in the reference, and the site builds."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import openglm

ROOT = Path(__file__).parent.parent
REFERENCE = ROOT / "docs" / "reference.md"


def test_every_public_name_is_in_the_reference() -> None:
    shown = set(re.findall(r"^::: openglm\.(\w+)", REFERENCE.read_text(encoding="utf-8"), re.MULTILINE))
    errors = {name for name in openglm.__all__ if isinstance(getattr(openglm, name), type)}
    errors = {name for name in errors if issubclass(getattr(openglm, name), openglm.OpenGLMError)}
    assert "errors" in shown  # all of them, as one module
    assert set(openglm.__all__) - errors - {"__version__"} == shown - {"errors"}


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    if shutil.which("mkdocs", path=str(Path(sys.executable).parent)) is None:
        pytest.skip("mkdocs is not installed: pip install '.[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(tmp_path / "site")]
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "site" / "reference" / "index.html").read_text(encoding="utf-8")
    assert "max_sequence_length" in page
    assert "ContextLengthError" in page


def test_the_citation_is_well_formed() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert citation["title"] == "openglm"
    assert re.fullmatch(r"10\.\d{4,}/\S+", citation["references"][0]["doi"])
