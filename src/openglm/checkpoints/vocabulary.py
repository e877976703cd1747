"""The tokenizer of a model folder, and its files carried into a folder of another format.

A foreign folder holds the bare vocabulary; which special tokens go with it follows from the
model. Where that would not give back the tokenizer a model was converted with, openglm's own
description is put beside it, and it comes first when the folder is read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import CheckpointError, TokenizerError
from ..files import write_atomically
from ..tokenizer import (
    CONFIG_FILE,
    MODEL_FILE,
    BertTokenizer,
    ChineseTokenizer,
    GPT2Tokenizer,
    RobertaTokenizer,
    Tokenizer,
    load_tokenizer,
)
from .checksums import write_checksums
from .formats import FLAGAI, HUGGINGFACE, OPENGLM, existing, read_json
from .published import PublishedModel

SENTENCEPIECE_FILES = ("cog-pretrain.model", "spiece.model")
VOCABULARY_FILES = (*SENTENCEPIECE_FILES, "vocab.txt", "vocab.json", "merges.txt")
ADDED_TOKENS_FILE = "added_tokens.json"
HUB_FILES = (CONFIG_FILE, ADDED_TOKENS_FILE, "special_tokens_map.json")


@dataclass(frozen=True)
class Vocabulary:
    """What a folder's tokenizer depends on beside its vocabulary.

    Attributes:
        rows: of the model's word embedding.
        published: the published model of the same sizes, if there is one.
        hub: whether the weights are as on the hub, which has one Chinese table only.
    """

    rows: int
    published: PublishedModel | None = None
    hub: bool = False

    @property
    def older_table(self) -> bool:
        """The weights go with the older Chinese table of special tokens."""
        return self.published is not None and self.published.older_table and not self.hub


def is_described(folder: Path) -> bool:
    """Whether the folder holds openglm's own description of a tokenizer."""
    path = folder / CONFIG_FILE
    try:
        return path.is_file() and "type" in read_json(path)
    except CheckpointError as error:
        raise TokenizerError(str(error)) from error


def open_tokenizer(folder: Path, vocabulary: Vocabulary) -> Tokenizer:
    """The tokenizer of a model folder in any format.

    Raises:
        TokenizerError: no vocabulary there, one that is damaged, or another model's.
    """
    if is_described(folder):
        return load_tokenizer(folder)
    if not existing(folder, VOCABULARY_FILES):
        files = vocabulary.published.vocabulary_files if vocabulary.published else " or ".join(SENTENCEPIECE_FILES)
        raise TokenizerError(f"{folder}: no vocabulary file; put {files} there")
    layout = vocabulary.published.layout if vocabulary.older_table and vocabulary.published else None
    return load_tokenizer(folder, layout=layout, rows=vocabulary.rows)


def carry_tokenizer(source: Path, tokenizer: Tokenizer, folder: Path, *, to: str, there: Vocabulary) -> None:
    """Write a tokenizer's files into a model folder of another format.

    Files that the source folder has for the same purpose are copied as they are.

    Args:
        source: the folder the tokenizer came from.
        to: the format of `folder`.
        there: what reading `folder` will know about it.
    """
    if to == OPENGLM:
        _write(folder, tokenizer.files())
        write_checksums(folder, files=tokenizer.files())
        return
    if to == HUGGINGFACE and not is_described(source) and existing(source, HUB_FILES):
        files = existing(source, (*HUB_FILES, *VOCABULARY_FILES))
        _write(folder, {path.name: path.read_bytes() for path in files})
    else:
        _write(folder, _bare_vocabulary(tokenizer, to))
        if to == HUGGINGFACE:
            _write(folder, hub_description(tokenizer))
    if not _reads_as(folder, tokenizer, there):
        _write(folder, tokenizer.files())


def _bare_vocabulary(tokenizer: Tokenizer, to: str) -> dict[str, bytes]:
    """The vocabulary under the names that other code looks for."""
    files = {name: content for name, content in tokenizer.files().items() if name != CONFIG_FILE}
    if isinstance(tokenizer, ChineseTokenizer):
        # FlagAI's older and newer tokenizer classes each look for a name of their own.
        names = SENTENCEPIECE_FILES if to == FLAGAI else SENTENCEPIECE_FILES[:1]
        return dict.fromkeys(names, files[MODEL_FILE])
    return files


def _reads_as(folder: Path, tokenizer: Tokenizer, vocabulary: Vocabulary) -> bool:
    try:
        return open_tokenizer(folder, vocabulary).identity == tokenizer.identity
    except TokenizerError:
        return False


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        write_atomically(folder / name, content)


# --- the hub's description of special tokens --------------------------------------------

_TOKENS = {"eos": "<|endoftext|>", "pad": "<|endoftext|>", "cls": "[CLS]", "mask": "[MASK]", "unk": "[UNK]"}
_BERT = {"cls": "[CLS]", "sep": "[SEP]", "pad": "[PAD]", "mask": "[MASK]", "unk": "[UNK]"}
_ROBERTA = {"bos": "<s>", "cls": "<s>", "eos": "</s>", "sep": "</s>", "pad": "<pad>", "mask": "<mask>", "unk": "<unk>"}
_ADDITIONAL = ("<|startofpiece|>", "<|endofpiece|>", "[gMASK]", "[sMASK]")


def hub_description(tokenizer: Tokenizer) -> dict[str, bytes]:
    """The files by which the hub's tokenizer classes know the special tokens; none for other kinds."""
    if isinstance(tokenizer, ChineseTokenizer):
        name, roles = "GLMChineseTokenizer", _TOKENS
    elif isinstance(tokenizer, GPT2Tokenizer):
        name, roles = "GLMGPT2Tokenizer", _TOKENS
    elif isinstance(tokenizer, BertTokenizer):
        name, roles = "GLMBertTokenizer", _BERT
    elif isinstance(tokenizer, RobertaTokenizer):
        name, roles = "GLMRobertaTokenizer", _ROBERTA
    else:
        return {}
    pieces = tokenizer.num_pieces
    added = {tokenizer.special_text[role]: id_ for role, id_ in tokenizer.special.items() if id_ >= pieces}
    if isinstance(tokenizer, ChineseTokenizer):  # these two ids are known there by names of their own
        del added["[UNK]"]
        added |= {"[UNUSED1]": pieces + 4, "[UNUSED2]": pieces + 5}
    description = {
        **{f"{role}_token": text for role, text in roles.items()},
        "additional_special_tokens": [text for text in _ADDITIONAL if text in added],
        "add_prefix_space": False,
        "tokenizer_class": name,
        "use_fast": False,
        "auto_map": {"AutoTokenizer": [f"tokenization_glm.{name}", None]},
    }
    in_order = dict(sorted(added.items(), key=lambda pair: pair[1]))
    return {CONFIG_FILE: _json(description), ADDED_TOKENS_FILE: _json(in_order)}


def _json(values: object) -> bytes:
    return (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode()
