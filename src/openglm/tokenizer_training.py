"""Train a lossless SentencePiece vocabulary from a sample of a corpus.

The settings are the ones `openglm.tokenizer.BilingualTokenizer` relies on to give every
string back unchanged: identity normalisation, no dummy prefix, white space kept, byte
fallback. Knows nothing about models.
"""

from __future__ import annotations

import io
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from .errors import DataError, OptionError
from .pretraining.corpus import documents

WORD_BOUNDARY = "\u2581"  # SentencePiece writes a space as this sign


def sample_lines(paths: Sequence[Path], characters: int, *, seed: int = 0) -> Iterator[str]:
    """Lines from the files, about `characters` in all, drawn evenly from each file.

    Documents are read in order and kept with a probability that spreads the sample over
    the whole file; `seed` makes the draw repeat.
    """
    rng = random.Random(seed)
    share = characters / max(1, len(paths))
    for path in paths:
        total = sum(len(text) for text in documents(path))
        keep = min(1.0, share / max(1, total))
        for text in documents(path):
            if rng.random() < keep:
                yield from (line for line in text.split("\n") if line and WORD_BOUNDARY not in line)


def train_vocabulary(
    groups: Sequence[Sequence[Path]],
    *,
    vocab_size: int = 16_000,
    characters: int | Sequence[int] = 12_000_000,
    character_coverage: float = 0.9995,
    seed: int = 0,
    threads: int = 2,
) -> bytes:
    """Train a unigram SentencePiece model and return its serialised bytes.

    Args:
        groups: one list of corpus files per language.
        characters: how many characters each group contributes (one number for all, or one
            per group), so that no language is crowded out.
        vocab_size: pieces, the 256 byte pieces included, special tokens of GLM not.
        character_coverage: share of character occurrences that get a piece of their own;
            the rest is spelled in bytes.

    Raises:
        OptionError: `vocab_size` too small to hold the bytes, or too large for the text.
        DataError: the corpus is empty.
    """
    import sentencepiece

    shares = [characters] * len(groups) if isinstance(characters, int) else list(characters)
    if len(shares) != len(groups):
        raise OptionError(f"{len(shares)} values of characters for {len(groups)} groups of files")
    if vocab_size < 512:
        raise OptionError(f"vocab_size {vocab_size} is too small: 256 pieces are bytes; use at least 512")
    # Read in full first: an error raised inside sentencepiece's loop would lose its type.
    lines = [
        line for group, share in zip(groups, shares, strict=True) for line in sample_lines(group, share, seed=seed)
    ]
    if not lines:
        raise DataError("the corpus is empty: no text to train a vocabulary on")
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            model_type="unigram",
            vocab_size=vocab_size,
            character_coverage=character_coverage,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            byte_fallback=True,
            split_digits=True,
            max_sentence_length=20_000,
            bos_id=-1,
            eos_id=-1,
            unk_id=0,
            num_threads=threads,
            minloglevel=1,
        )
    except RuntimeError as error:  # what sentencepiece raises when the text holds too few different pieces
        raise OptionError(f"no vocabulary of {vocab_size} pieces can be trained on this text ({error})") from error
    return model.getvalue()
