"""FlagAI's older tokenizer class of GLM-large-ch."""

from __future__ import annotations

from pathlib import Path

from openglm.errors import TokenizerError
from openglm.tokenizer import ChineseTokenizer

from .._vocabularies import chinese_file, folder_of
from ..tokenizer import GLMTokenizer


class GLMLargeChTokenizer(GLMTokenizer):
    """The Chinese vocabulary.

    Args:
        vocab_path: the SentencePiece file or its folder; by default that of GLM-large-ch.
        add_block_symbols: `<|startofpiece|>` and `<|endofpiece|>` are special; filling needs them.
        add_task_mask: `[gMASK]` and `[sMASK]` are special; only with block symbols.
        add_decoder_mask: `[dBLOCK]` is special; only with block symbols.
        fix_command_token: the table of special tokens GLM-large-ch was trained with. Without
            it `[gMASK]` and `<|endofpiece|>` are one token, as in GLM-10b-ch.

    Raises:
        TokenizerError: no such file, or a damaged one.
        ModelNotFoundError: no path given, and no GLM-large-ch on this machine.
    """

    def __init__(
        self,
        vocab_path: str | Path | None = None,
        add_block_symbols: bool = True,
        add_task_mask: bool = True,
        add_decoder_mask: bool = False,
        fix_command_token: bool = True,
    ) -> None:
        path = folder_of("GLM-large-ch") if vocab_path is None else Path(vocab_path)
        model = chinese_file(path)
        if model is None:
            raise TokenizerError(f"{path}: no SentencePiece vocabulary there; put the model's cog-pretrain.model there")
        vocabulary = ChineseTokenizer(
            model,
            fix_command_token=fix_command_token,
            task_masks=add_task_mask and add_block_symbols,
            decoder_mask=add_decoder_mask and add_block_symbols,
        )
        super().__init__(vocabulary, add_block_symbols=add_block_symbols)
