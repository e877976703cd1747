"""FlagAI's older tokenizer class of GLM-large-en."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from openglm.tokenizer import BertTokenizer

from .._vocabularies import folder_of
from ..tokenizer import GLMTokenizer
from ..uni_tokenizer.tokenizer import refuse_options


class GLMLargeEnWordPieceTokenizer(GLMTokenizer):
    """BERT's uncased vocabulary.

    Args:
        tokenizer_model_type: the folder of the vocabulary, or the name of a model.
        cache_dir: the folder with `vocab.txt`; by default that of GLM-large-en.
        add_block_symbols, add_task_mask, add_decoder_mask: as in `GLMLargeChTokenizer`; the
            published weights never learnt `[gMASK]` and `[sMASK]`.

    Raises:
        TokenizerError: no such file, or a damaged one.
        ModelNotFoundError: no folder given, and no such model on this machine.
        OptionError: sentinel tokens, or unknown options.
    """

    def __init__(
        self,
        tokenizer_model_type: str = "glm_large_en",
        cache_dir: str | Path | None = None,
        add_block_symbols: bool = True,
        add_sentinel_token: int = 0,
        add_task_mask: bool = True,
        add_decoder_mask: bool = False,
        **kwargs: Any,
    ) -> None:
        refuse_options(add_sentinel_token, kwargs)
        name = "GLM-large-en" if tokenizer_model_type == "glm_large_en" else tokenizer_model_type
        vocabulary = BertTokenizer(
            folder_of(name, cache_dir) / "vocab.txt",
            task_masks=add_task_mask and add_block_symbols,
            decoder_mask=add_decoder_mask and add_block_symbols,
        )
        super().__init__(vocabulary, add_block_symbols=add_block_symbols)
