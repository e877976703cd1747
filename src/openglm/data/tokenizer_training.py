"""Train a lossless SentencePiece vocabulary from a sample of a corpus.

The settings are the ones `openglm.tokenizer.BilingualTokenizer` relies on to give every
string back unchanged: identity normalisation, no dummy prefix, white space kept, byte
fallback. Knows nothing about models.
"""

from __future__ import annotations

import heapq
import io
import random
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..errors import DataError, OptionError
from .addresses import expand
from .corpus import documents

WORD_BOUNDARY = "\u2581"  # SentencePiece writes a space as this sign


def sample_lines(
    addresses: str | Path | Iterable[str | Path], characters: int, *, field: str = "text", seed: int = 0
) -> list[str]:
    """Lines of the files, `characters` in all or all there are; every line is as likely as any other.

    Reads the files once and holds no more than the sample: every line draws a number, and
    those of the lowest numbers are kept. The same `seed` gives the same lines, in file order.

    Args:
        addresses: files, patterns or folders (`pretraining.addresses.expand`).
        field: of JSON Lines and Parquet files.
    """
    rng = random.Random(seed)
    kept: list[tuple[float, int, str]] = []  # a heap, the highest number on top
    total, number = 0, 0
    for file in expand(addresses):
        for text in documents(file, field=field):
            for line in text.split("\n"):
                if not line or WORD_BOUNDARY in line:
                    continue
                drawn = -rng.random()
                if total >= characters and drawn <= kept[0][0]:
                    continue
                heapq.heappush(kept, (drawn, number, line))
                number, total = number + 1, total + len(line)
                while total - len(kept[0][2]) >= characters:
                    total -= len(heapq.heappop(kept)[2])
    return [line for _, _, line in sorted(kept, key=lambda entry: entry[1])]


def train_vocabulary(
    groups: Sequence[Sequence[str | Path]],
    *,
    field: str = "text",
    vocab_size: int = 16_000,
    characters: int | Sequence[int] = 12_000_000,
    character_coverage: float = 0.9995,
    seed: int = 0,
    threads: int = 2,
) -> bytes:
    """Train a unigram SentencePiece model and return its serialised bytes.

    Args:
        groups: one list of corpus files, patterns or folders per language.
        field: of JSON Lines and Parquet files.
        characters: how many characters each group contributes (one number for all, or one
            per group), so that no language is crowded out.
        vocab_size: pieces, the 256 byte pieces included, special tokens of GLM not.
        character_coverage: share of character occurrences that get a piece of their own;
            the rest is spelled in bytes.

    Raises:
        OptionError: `vocab_size` too small to hold the bytes, or too large for the text, or
            `characters` below 1.
        DataError: a file that cannot be read, or a group without text.
    """
    import sentencepiece

    shares = [characters] * len(groups) if isinstance(characters, int) else list(characters)
    if len(shares) != len(groups):
        raise OptionError(f"{len(shares)} values of characters for {len(groups)} groups of files")
    if vocab_size < 512:
        raise OptionError(f"vocab_size {vocab_size} is too small: 256 pieces are bytes; use at least 512")
    if min(shares, default=0) < 1:
        raise OptionError(f"a vocabulary needs groups of files with at least 1 character each, not {shares}")
    # Read in full first: an error raised inside sentencepiece's loop would lose its type.
    lines: list[str] = []
    for group, share in zip(groups, shares, strict=True):
        sample = sample_lines(group, share, field=field, seed=seed)
        if not sample:
            raise DataError(f"{', '.join(map(str, group))}: empty, no text to train a vocabulary on")
        lines += sample
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
