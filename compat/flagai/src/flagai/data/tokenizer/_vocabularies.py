"""Files of vocabularies -> openglm's tokenizers, with the special tokens that FlagAI's options ask for.

Which file is there decides the kind. Where an option is left open, the model decides.
"""

from __future__ import annotations

import os
from pathlib import Path

from openglm.checkpoints.find import find_folder
from openglm.checkpoints.published import find_published
from openglm.errors import ModelNotFoundError, OptionError, TokenizerError
from openglm.tokenizer import BertTokenizer, ChineseTokenizer, GPT2Tokenizer, RobertaTokenizer, load_tokenizer

from .tokenizer import Vocabulary

CHECKPOINTS = "./checkpoints"
CHINESE_FILES = ("cog-pretrain.model", "spiece.model")


def folder_of(name: str, cache_dir: str | Path | None = None) -> Path:
    """Where a model's vocabulary lies: `cache_dir`, `./checkpoints/NAME`, or where openglm finds the model.

    Raises:
        ModelNotFoundError: nowhere.
    """
    if cache_dir is not None and Path(cache_dir).is_dir():
        return Path(cache_dir)
    if os.path.isdir(name):
        return Path(name)
    published = find_published(name)
    names = {name.lower()}
    if published is not None:
        names |= {known.split("/")[-1].lower() for known in (published.name, *published.aliases)}
    home = Path(CHECKPOINTS)
    if home.is_dir():
        for folder in sorted(home.iterdir()):
            if folder.name.lower() in names and folder.is_dir():
                return folder
    try:
        return find_folder(name)
    except ModelNotFoundError as error:
        looked = f"{cache_dir}: no such folder. " if cache_dir is not None else ""
        raise ModelNotFoundError(f"{looked}{error}") from error


def chinese_file(path: Path) -> Path | None:
    """The SentencePiece file in a folder, or the file itself."""
    if path.is_file():
        return path
    return next((path / name for name in CHINESE_FILES if (path / name).is_file()), None)


def open_vocabulary(
    folder: Path,
    name: str,
    *,
    block_symbols: bool,
    task_mask: bool,
    decoder_mask: bool,
    fix_command_token: bool | None = None,
    flagai_ids: bool = False,
) -> Vocabulary:
    """The vocabulary in a folder.

    Args:
        name: the model's.
        block_symbols, task_mask, decoder_mask: FlagAI's `add_...` options; without the first, the
            others add nothing.
        fix_command_token: which table of special tokens, Chinese only; None: the one the
            model was trained with, as far as folder or name tell.
        flagai_ids: GPT-2 only: the ids that FlagAI's own code gives, which differ from the model's.

    Raises:
        TokenizerError: no vocabulary there, or a damaged one.
        OptionError: `flagai_ids` for another vocabulary.
    """
    if flagai_ids and not (folder / "merges.txt").is_file():
        raise OptionError("flagai_ids is about GPT-2 vocabularies (GLM-10b-en); this is another")
    task_masks, decoder_mask = task_mask and block_symbols, decoder_mask and block_symbols
    model = chinese_file(folder)
    if model is not None:
        fix = _trained_with_fixed_table(folder, name) if fix_command_token is None else fix_command_token
        return ChineseTokenizer(model, fix_command_token=fix, task_masks=task_masks, decoder_mask=decoder_mask)
    if (folder / "merges.txt").is_file():
        kind = RobertaTokenizer if isinstance(load_tokenizer(folder), RobertaTokenizer) else GPT2Tokenizer
        files = (folder / "vocab.json", folder / "merges.txt")
        if flagai_ids:
            return GPT2Tokenizer(*files, numbering="flagai", task_masks=task_masks, decoder_mask=decoder_mask)
        return kind(*files, task_masks=task_masks, decoder_mask=decoder_mask)
    if (folder / "vocab.txt").is_file():
        return BertTokenizer(folder / "vocab.txt", task_masks=task_masks, decoder_mask=decoder_mask)
    found = load_tokenizer(folder)
    if not isinstance(found, ChineseTokenizer | GPT2Tokenizer | RobertaTokenizer | BertTokenizer):
        raise TokenizerError(
            f"{folder}: a vocabulary of openglm's own, which FlagAI's classes do not know; use openglm"
        )
    return found


def _trained_with_fixed_table(folder: Path, name: str) -> bool:
    published = find_published(name)
    layout = None
    if not (folder / "config.json").is_file() and published is not None and published.vocabulary == "chinese":
        layout = published.layout
    special = load_tokenizer(folder, layout=layout).special
    return special.get("gmask") != special["eop"]
