"""openglm with Hugging Face transformers: importing this registers it with the Auto classes.

    import openglm.integrations.transformers
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained("runs/mine/model")
    model = AutoModelForSeq2SeqLM.from_pretrained("runs/mine/model")
    ids = model.generate(**tokenizer("北京是中国的[MASK]。", return_tensors="pt"), max_new_tokens=8)
    print(tokenizer.batch_decode(ids, skip_special_tokens=True))

The text with its blank is the encoder's side, what belongs into the blank the decoder's. Models in
other formats than openglm's, those published on the hub among them, load by `from_pretrained` of this
module. Needs transformers (`pip install 'openglm[transformers]'`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...extras import library

library("transformers", extra="transformers", purpose="the integration with transformers")

from transformers import (  # noqa: E402
    AutoConfig,
    AutoModel,
    AutoModelForMultipleChoice,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
)

from .configuration import OpenGLMConfig  # noqa: E402
from .modeling import OpenGLMForMultipleChoice, OpenGLMForSeq2SeqLM, OpenGLMModel  # noqa: E402
from .tokenization import OpenGLMTokenizer  # noqa: E402

__all__ = [
    "OpenGLMConfig",
    "OpenGLMForMultipleChoice",
    "OpenGLMForSeq2SeqLM",
    "OpenGLMModel",
    "OpenGLMTokenizer",
    "from_pretrained",
]


def from_pretrained(name_or_path: str | Path, **options: Any) -> tuple[OpenGLMForSeq2SeqLM, OpenGLMTokenizer]:
    """Model and tokenizer by a name or folder that `openglm.load` knows, in any format.

    Args:
        options: as `OpenGLMForSeq2SeqLM.from_pretrained` takes them.

    Raises:
        ModelNotFoundError, CheckpointError, ConfigError, TokenizerError: as `openglm.load`.
    """
    tokenizer = OpenGLMTokenizer.from_pretrained(name_or_path, revision=options.get("revision"))
    return OpenGLMForSeq2SeqLM.from_pretrained(name_or_path, **options), tokenizer


AutoConfig.register(OpenGLMConfig.model_type, OpenGLMConfig, exist_ok=True)
AutoModel.register(OpenGLMConfig, OpenGLMModel, exist_ok=True)
AutoModelForSeq2SeqLM.register(OpenGLMConfig, OpenGLMForSeq2SeqLM, exist_ok=True)
AutoModelForMultipleChoice.register(OpenGLMConfig, OpenGLMForMultipleChoice, exist_ok=True)
AutoTokenizer.register(OpenGLMConfig, OpenGLMTokenizer, exist_ok=True)
