"""openglm: fill, classify, pretrain and serve with GLM, the blank-filling language model.

    import openglm

    model = openglm.load()
    print(model.fill("北京故宫是中国[MASK]非物质文化遗产。").text)

Importing the package is instant; torch is imported when a name that needs it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .blanks import BlankedText, BlankKind
    from .engine.options import FillOptions
    from .errors import (
        CheckpointError,
        ConfigError,
        ContextLengthError,
        DataError,
        InputError,
        ModelNotFoundError,
        OpenGLMError,
        OptionError,
        TokenizerError,
        TrainingError,
        UnsupportedBlankError,
    )
    from .evaluation.evaluate import evaluate
    from .finetuning.finetune import finetune
    from .infill.infiller import Infiller
    from .infill.loading import load
    from .infill.results import Fill, Filled, Piece, Scored
    from .network.config import GLMConfig
    from .network.model import GLMModel
    from .pretraining.run import pretrain
    from .tokenizer import (
        BertTokenizer,
        BilingualTokenizer,
        ChineseTokenizer,
        GPT2Tokenizer,
        RobertaTokenizer,
        Tokenizer,
    )

__version__ = "0.1.0"

_HOME = {
    "BertTokenizer": "tokenizer",
    "BilingualTokenizer": "tokenizer",
    "BlankKind": "blanks",
    "BlankedText": "blanks",
    "CheckpointError": "errors",
    "ChineseTokenizer": "tokenizer",
    "ConfigError": "errors",
    "ContextLengthError": "errors",
    "DataError": "errors",
    "Fill": "infill.results",
    "FillOptions": "engine.options",
    "Filled": "infill.results",
    "GLMConfig": "network.config",
    "GLMModel": "network.model",
    "GPT2Tokenizer": "tokenizer",
    "Infiller": "infill.infiller",
    "InputError": "errors",
    "ModelNotFoundError": "errors",
    "OpenGLMError": "errors",
    "OptionError": "errors",
    "Piece": "infill.results",
    "RobertaTokenizer": "tokenizer",
    "Scored": "infill.results",
    "Tokenizer": "tokenizer",
    "TokenizerError": "errors",
    "TrainingError": "errors",
    "UnsupportedBlankError": "errors",
    "evaluate": "evaluation.evaluate",
    "finetune": "finetuning.finetune",
    "load": "infill.loading",
    "pretrain": "pretraining.run",
}

__all__ = [
    "BertTokenizer",
    "BilingualTokenizer",
    "BlankKind",
    "BlankedText",
    "CheckpointError",
    "ChineseTokenizer",
    "ConfigError",
    "ContextLengthError",
    "DataError",
    "Fill",
    "FillOptions",
    "Filled",
    "GLMConfig",
    "GLMModel",
    "GPT2Tokenizer",
    "Infiller",
    "InputError",
    "ModelNotFoundError",
    "OpenGLMError",
    "OptionError",
    "Piece",
    "RobertaTokenizer",
    "Scored",
    "Tokenizer",
    "TokenizerError",
    "TrainingError",
    "UnsupportedBlankError",
    "__version__",
    "evaluate",
    "finetune",
    "load",
    "pretrain",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module 'openglm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
