"""FlagAI's older tokenizer class of GLM-10b-en."""

from __future__ import annotations

from openglm.errors import TokenizerError
from openglm.tokenizer import ChineseTokenizer

from .._vocabularies import folder_of, open_vocabulary
from ..tokenizer import GLMTokenizer

_MODELS = {"gpt2": "GLM-10b-en", "roberta": "glm-roberta-large"}


class GLM10bENBPETokenizer(GLMTokenizer):
    """GPT-2's vocabulary, or RoBERTa's, with the ids that the published weights were trained with.

    Args:
        tokenizer_model_type: the folder with `vocab.json` and `merges.txt`, the name of a
            model, or "gpt2" and "roberta" for GLM-10b-en and GLM-RoBERTa.
        add_block_symbols: `<|startofpiece|>` and all that GLM adds are special; filling needs them.
        add_task_mask: `[gMASK]` and `[sMASK]` are special; only with block symbols.
        add_decoder_mask: `[dBLOCK]` is special; only with block symbols.

    Raises:
        TokenizerError: no such files, damaged ones, or another vocabulary.
        ModelNotFoundError: no such model on this machine.
    """

    def __init__(
        self,
        tokenizer_model_type: str = "gpt2",
        add_block_symbols: bool = False,
        add_task_mask: bool = False,
        add_decoder_mask: bool = False,
    ) -> None:
        name = _MODELS.get(tokenizer_model_type, tokenizer_model_type)
        folder = folder_of(name)
        vocabulary = open_vocabulary(
            folder,
            name,
            block_symbols=add_block_symbols,
            task_mask=add_task_mask,
            decoder_mask=add_decoder_mask,
        )
        if isinstance(vocabulary, ChineseTokenizer):
            raise TokenizerError(f"{folder}: a Chinese vocabulary; use GLMLargeChTokenizer")
        super().__init__(vocabulary, add_block_symbols=add_block_symbols)
