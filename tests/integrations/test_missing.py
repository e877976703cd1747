"""Without the library that an integration is for, the remedy is named."""

from __future__ import annotations

import subprocess
import sys


def test_without_transformers_the_remedy_is_named() -> None:
    code = "import sys\nsys.modules['transformers'] = None\nimport openglm.integrations.transformers"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "MissingLibraryError" in done.stderr
    assert "pip install 'openglm[transformers]'" in done.stderr
