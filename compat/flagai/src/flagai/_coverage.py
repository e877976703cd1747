"""What of FlagAI there is here, and the refusal of everything else.

Python's own finders come first; only a module below `flagai` that none of them finds ends
here. Knows names alone.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

COVERED = (
    "flagai.model.glm_model",
    "flagai.model.prompt",
    "flagai.model.predictor.predictor",
    "flagai.data.tokenizer",
    "flagai.auto_model.auto_loader",
)
_REMEDY = (
    f"openglm-flagai provides FlagAI's GLM only: {', '.join(COVERED)}. "
    "Training is `openglm pretrain`; for other models install FlagAI itself, in another environment"
)


class _Refusal(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.startswith("flagai."):
            raise ModuleNotFoundError(f"there is no {fullname} here; {_REMEDY}", name=fullname)
        return None


def refuse_other_modules() -> None:
    """Explain imports of modules below `flagai` that are not here; doing so again changes nothing."""
    if not any(type(finder).__name__ == _Refusal.__name__ for finder in sys.meta_path):
        sys.meta_path.append(_Refusal())


def refuse_other_names(module: str) -> Callable[[str], Any]:
    """A module's `__getattr__` that explains what it does not have.

    Raises (when it is called):
        ImportError: any name but Python's own double-underscored ones, which are an
            AttributeError as usual.
    """

    def explain(name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        raise ImportError(f"{module} has no {name} here; {_REMEDY}", name=module)

    return explain
