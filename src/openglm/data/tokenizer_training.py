"""Train a lossless SentencePiece vocabulary from a sample of a corpus.

The settings are the ones `openglm.tokenizer.BilingualTokenizer` relies on to give every
string back unchanged: identity normalisation, no dummy prefix, white space kept, byte
fallback. Knows nothing about models.
"""

from __future__ import annotations

import heapq
import json
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import DataError, OptionError
from .addresses import expand
from .corpus import documents

LEAST_PIECES, MOST_PIECES, MOST_THREADS = 512, 1_000_000, 256
SECONDS_BETWEEN_WORDS = 15.0  # while SentencePiece trains
WORD_BOUNDARY = "\u2581"  # SentencePiece writes a space as this sign


def sample_lines(
    addresses: str | Path | Iterable[str | Path], characters: int, *, field: str = "text", seed: int = 0
) -> list[str]:
    """Lines of the files, `characters` in all or all there are; every line is as likely as any other.

    Reads the files once and holds no more than the sample: every line draws a number, and
    those of the lowest numbers are kept. The same `seed` gives the same lines, in file order.

    Args:
        addresses: files, patterns or folders (`data.addresses.expand`).
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
    say: Callable[[str], None] = lambda text: None,
) -> bytes:
    """Train a unigram SentencePiece model and return its serialised bytes.

    SentencePiece trains in a process of its own: it can be neither interrupted nor kept from
    printing otherwise.

    Args:
        groups: one list of corpus files, patterns or folders per language.
        field: of JSON Lines and Parquet files.
        characters: how many characters each group contributes (one number for all, or one
            per group), so that no language is crowded out.
        vocab_size: pieces, the 256 byte pieces included, special tokens of GLM not.
        threads: of SentencePiece, 1 to `MOST_THREADS`.
        say: is told what is being done, and of groups with less text than asked for.
        character_coverage: share of character occurrences that get a piece of their own;
            the rest is spelled in bytes.

    Raises:
        OptionError: `vocab_size` too small to hold the bytes, or too large for the text,
            `characters` below 1, or `threads` out of range.
        DataError: a file that cannot be read, or a group without text.
    """
    shares = [characters] * len(groups) if isinstance(characters, int) else list(characters)
    if len(shares) != len(groups):
        raise OptionError(f"{len(shares)} values of characters for {len(groups)} groups of files")
    if vocab_size < LEAST_PIECES:
        raise OptionError(f"vocab_size {vocab_size} is too small: 256 pieces are bytes; use at least {LEAST_PIECES}")
    if vocab_size > MOST_PIECES:
        raise OptionError(f"vocab_size {vocab_size} is too large; use at most {MOST_PIECES}")
    if not 1 <= threads <= MOST_THREADS:
        raise OptionError(f"threads must be 1 to {MOST_THREADS}, not {threads}")
    if min(shares, default=0) < 1:
        raise OptionError(f"a vocabulary needs groups of files with at least 1 character each, not {shares}")
    lines: list[str] = []
    for group, share in zip(groups, shares, strict=True):
        name = ", ".join(map(str, group))
        say(f"reading {name}")
        sample = sample_lines(group, share, field=field, seed=seed)
        if not sample:
            raise DataError(f"{name}: empty, no text to train a vocabulary on")
        found = sum(map(len, sample))
        if found < share:
            say(f"note: {name} has only {found:,} of the {share:,} characters asked for; all of it is used")
        lines += sample
    settings = {
        "model_type": "unigram",
        "vocab_size": vocab_size,
        "character_coverage": character_coverage,
        "normalization_rule_name": "identity",
        "add_dummy_prefix": False,
        "remove_extra_whitespaces": False,
        "allow_whitespace_only_pieces": True,
        "byte_fallback": True,
        "split_digits": True,
        "max_sentence_length": 20_000,
        "bos_id": -1,
        "eos_id": -1,
        "unk_id": 0,
        "num_threads": threads,
        "minloglevel": 1,
    }
    say(f"training {vocab_size:,} pieces on {sum(map(len, lines)):,} characters")
    return _train_apart(lines, settings, say)


_PROGRAM = """
import io, json, sys
import sentencepiece
given = json.load(sys.stdin)
model = io.BytesIO()
try:
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(given["lines"]), model_writer=model, **given["settings"]
    )
except Exception as error:
    sys.exit("openglm: " + str(error).replace("\\n", " "))
sys.stdout.buffer.write(model.getvalue())
"""


def _train_apart(lines: Sequence[str], settings: Mapping[str, Any], say: Callable[[str], None]) -> bytes:
    """Let SentencePiece train in a process of its own, and say now and then that it is at work.

    Raises:
        OptionError: the text holds too few different pieces; says how many there can be.
        DataError: the process ended otherwise.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONIOENCODING": "utf-8"}
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM], env=environment,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    begun = time.monotonic()
    given: bytes | None = json.dumps({"lines": lines, "settings": settings}).encode()
    try:
        while True:
            try:
                model, messages = process.communicate(given, timeout=SECONDS_BETWEEN_WORDS)
                break
            except subprocess.TimeoutExpired:
                given = None  # communicate has it already
                say(f"still training, {time.monotonic() - begun:.0f} s")
    except BaseException:
        process.kill()
        process.wait()
        raise
    if process.returncode == 0:
        return model
    reason = messages.decode("utf-8", "replace").rpartition("openglm: ")[2].strip()
    raise _refusal(reason, process.returncode, int(settings["vocab_size"]))


def _refusal(reason: str, code: int, vocab_size: int) -> DataError | OptionError:
    """What SentencePiece said, in terms of our own options."""
    most = re.search(r"value <= (\d+)", reason)
    if most and int(most.group(1)) < LEAST_PIECES:
        return OptionError(f"this text is too short for the smallest vocabulary, {LEAST_PIECES} pieces; give more text")
    if most:
        return OptionError(
            f"no vocabulary of {vocab_size} pieces can be trained on this text, which has enough for {most.group(1)}; "
            "set vocab_size (--vocab-size) to that or less, or give more text"
        )
    least = re.search(r"smaller than required_chars\D*(\d+)\D+(\d+)", reason)
    if least:
        return OptionError(
            f"no vocabulary of {vocab_size} pieces can be trained on this text, whose characters alone need "
            f"{max(map(int, least.groups()))}; set vocab_size (--vocab-size) above that"
        )
    if code < 0:
        return DataError(f"training was ended by signal {-code}, perhaps for want of memory; give less text")
    return OptionError(f"no vocabulary of {vocab_size} pieces can be trained on this text ({reason})")
