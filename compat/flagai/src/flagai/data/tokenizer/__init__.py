"""FlagAI's tokenizer classes of GLM."""

from __future__ import annotations

from ... import _coverage
from .glm_10b_en.glm_10b_en_bpe_tokenizer import GLM10bENBPETokenizer
from .glm_large_ch.glm_large_ch_tokenizer import GLMLargeChTokenizer
from .glm_large_en.glm_large_en_tokenizer import GLMLargeEnWordPieceTokenizer
from .tokenizer import CommandToken, GLMTokenizer
from .uni_tokenizer.tokenizer import Tokenizer

__all__ = [
    "CommandToken",
    "GLM10bENBPETokenizer",
    "GLMLargeChTokenizer",
    "GLMLargeEnWordPieceTokenizer",
    "GLMTokenizer",
    "Tokenizer",
]

__getattr__ = _coverage.refuse_other_names(__name__)
