"""FlagAI's newer tokenizer class: one for all vocabularies, found by the name of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from openglm.errors import OptionError
from openglm.tokenizer import ChineseTokenizer

from .._vocabularies import folder_of, open_vocabulary
from ..tokenizer import GLMTokenizer, Vocabulary

T = TypeVar("T", bound="Tokenizer")


class Tokenizer(GLMTokenizer):
    """A model's tokenizer; made by `from_pretrained`.

    Decoding puts a space behind each special token of a Chinese vocabulary.
    """

    def __init__(self, tokenizer: Vocabulary, *, add_block_symbols: bool = True, name: str = "") -> None:
        spaced = isinstance(tokenizer, ChineseTokenizer)
        super().__init__(tokenizer, add_block_symbols=add_block_symbols, after_special=" " if spaced else "")
        self.tokenizer_model_name = name

    @classmethod
    def from_pretrained(
        cls: type[T],
        tokenizer_model_name: str,
        cache_dir: str | Path | None = None,
        only_download_config: bool = False,
        *,
        add_block_symbols: bool = True,
        add_sentinel_token: int = 0,
        add_task_mask: bool = True,
        add_decoder_mask: bool = False,
        fix_command_token: bool | None = None,
        flagai_ids: bool = False,
        **kwargs: Any,
    ) -> T:
        """The tokenizer of a model.

        Args:
            tokenizer_model_name: a model, in any case, or the path of its folder.
            cache_dir: the folder with its vocabulary; by default `./checkpoints/NAME`, then
                where openglm finds the model.
            only_download_config: changes nothing.
            fix_command_token: which table of special tokens, Chinese only; by default the
                one the model was trained with.
            flagai_ids: the ids that FlagAI's own code gives `[gMASK]` and `[sMASK]` of
                GLM-10b-en; one below those of the weights.

        Raises:
            ModelNotFoundError: no such folder, and no such model.
            TokenizerError: no vocabulary there, or a damaged one.
            OptionError: sentinel tokens, or other unknown options.
        """
        refuse_options(add_sentinel_token, kwargs)
        folder = folder_of(tokenizer_model_name, cache_dir)
        vocabulary = open_vocabulary(
            folder,
            tokenizer_model_name,
            block_symbols=add_block_symbols,
            task_mask=add_task_mask,
            decoder_mask=add_decoder_mask,
            fix_command_token=fix_command_token,
            flagai_ids=flagai_ids,
        )
        return cls(vocabulary, add_block_symbols=add_block_symbols, name=tokenizer_model_name)


def refuse_options(add_sentinel_token: int, others: dict[str, Any]) -> None:
    """Raise OptionError for options that no published GLM needs."""
    if add_sentinel_token:
        raise OptionError("add_sentinel_token is not supported: no published GLM uses numbered masks")
    if others:
        raise OptionError(f"unknown options for a tokenizer: {', '.join(others)}")
