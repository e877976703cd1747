"""A model folder in one format -> one in another, tensor by tensor, and compared afterwards.

The new folder appears complete or not at all: it is written under a temporary name beside its
place and renamed. Memory stays at a few tensors however large the model is.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from ..errors import CheckpointError, OptionError, TokenizerError
from ..files import sync_folder, write_atomically
from ..tokenizer import MODEL_FILE, ChineseTokenizer, Tokenizer
from . import beside
from .checkpoint import Checkpoint, ExportSpec, expected_tensors
from .checksums import note_file
from .formats import FLAGAI, FORMATS, HUGGINGFACE, OPENGLM, THUDM, existing
from .logits import probe_logits
from .published import SPECIAL_TOKENS
from .resolve import WRITE, open_checkpoint
from .safetensors_files import SHARD_BYTES
from .vocabulary import VOCABULARY_FILES, Vocabulary, carry_tokenizer, open_tokenizer
from .weights import CastWeights, StreamingReader, Weights, WithRowCopied, is_finite

TOLERANCE = 5e-5  # of logits, relative to the largest: the order of additions may differ
OTHER_FILES = ("README.md", "LICENSE", "generation_config.json")
REMOTE_CODE = ("configuration_glm.py", "modeling_glm.py", "tokenization_glm.py")


@dataclass(frozen=True)
class Conversion:
    """What a conversion did.

    Attributes:
        source, target: formats.
        folder: the new folder.
        files: written into it, relative to it.
        parameters: of the network.
        comparison: how source and target were compared, and with what outcome.
        notes: what the user should know about the result.
    """

    source: str
    target: str
    folder: Path
    files: tuple[str, ...]
    parameters: int
    comparison: str
    notes: tuple[str, ...]


def convert(
    source: Path,
    folder: Path,
    *,
    to: str,
    model_parallel: int = 1,
    dtype: torch.dtype | None = None,
    tokenizer: Path | None = None,
    without_tokenizer: bool = False,
    shard_bytes: int = SHARD_BYTES,
) -> Conversion:
    """Write the model in `source` as a new folder in another format.

    Args:
        to: one of `formats.FORMATS`.
        model_parallel: pieces to cut the network into (flagai and thudm only).
        dtype: what to store the weights in (default: as they are).
        tokenizer: folder to take the vocabulary from (default: `source`).
        without_tokenizer: write no vocabulary.
        shard_bytes: most bytes of a weights file of the formats that have shards.

    Raises:
        OptionError: an unknown format, a folder that exists, or a network that the format
            cannot express.
        CheckpointError, ConfigError, TokenizerError: the source cannot be read, or the result
            is not what went in.
    """
    if to not in FORMATS:
        raise OptionError(f"unknown format {to!r}; known are {', '.join(FORMATS)}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OptionError(f"{folder}: exists already; give the name of a new folder, or remove it first")
    checkpoint = open_checkpoint(source)
    if to != OPENGLM:
        beside.check_parts(checkpoint.folder, (), f"the format {to}")
    vocabulary = None if without_tokenizer else _tokenizer_of(checkpoint, tokenizer)
    weights, vocabulary, notes = _for_format(checkpoint, vocabulary, to)
    if dtype is not None:
        weights = CastWeights(weights, dtype)
    infos = {name: weights.infos[name] for name in expected_tensors(checkpoint.config)}
    same = checkpoint.values if checkpoint.format == to else {}
    spec = ExportSpec(checkpoint.config, weights, infos, model_parallel, shard_bytes, same)
    with _appearing(folder) as part:
        WRITE[to](part, spec)
        if vocabulary is not None:
            there = Vocabulary(checkpoint.config.vocab_size, checkpoint.vocabulary.published, hub=to == HUGGINGFACE)
            carry_tokenizer(tokenizer or source, vocabulary, part, to=to, there=there)
        _carry_other_files(checkpoint, part, to)
        comparison = _compare(spec, open_checkpoint(part))
        files = tuple(sorted(path.relative_to(part).as_posix() for path in part.rglob("*") if path.is_file()))
    return Conversion(checkpoint.format, to, folder, files, checkpoint.config.num_parameters, comparison, tuple(notes))


def _tokenizer_of(checkpoint: Checkpoint, folder: Path | None) -> Tokenizer:
    try:
        return open_tokenizer(folder or checkpoint.folder, checkpoint.vocabulary)
    except TokenizerError as error:
        if folder is not None or existing(checkpoint.folder, (*VOCABULARY_FILES, MODEL_FILE)):
            raise
        raise TokenizerError(
            f"{error}, name the folder that holds it with --tokenizer, or convert with --without-tokenizer"
        ) from error


def _for_format(
    checkpoint: Checkpoint, tokenizer: Tokenizer | None, to: str
) -> tuple[Weights, Tokenizer | None, list[str]]:
    """Weights and tokenizer as the other format needs them, and what that changes."""
    weights, notes = checkpoint.weights, []
    if weights.left_out:
        shown = ", ".join(weights.left_out[:4]) + (", ..." if len(weights.left_out) > 4 else "")
        notes.append(f"left out, because they belong to a task and not to the network: {shown}")
    gelu = {HUGGINGFACE: "erf", FLAGAI: "tanh", THUDM: "tanh"}.get(to, checkpoint.config.gelu)
    if gelu != checkpoint.config.gelu:
        notes.append(
            f"code for {to} computes GELU in its {gelu} form, code for {checkpoint.format} in its "
            f"{checkpoint.config.gelu} form: logits there differ by about 0.001"
        )
    if to == HUGGINGFACE:
        weights, tokenizer = _with_repaired_table(checkpoint, tokenizer, notes)
        if checkpoint.format != HUGGINGFACE:
            notes.append(f"to use it with transformers, put {', '.join(REMOTE_CODE)} of a published model beside it")
    if tokenizer is None:
        notes.append("without a vocabulary")
    asks = existing(checkpoint.folder, (beside.TASK_FILE, beside.SETTINGS_FILE)) if to != OPENGLM else []
    if asks:
        notes.append(f"left out, because only openglm's own format has them: {', '.join(path.name for path in asks)}")
    return weights, tokenizer, notes


def _with_repaired_table(
    checkpoint: Checkpoint, tokenizer: Tokenizer | None, notes: list[str]
) -> tuple[Weights, Tokenizer | None]:
    """The hub knows the repaired Chinese table only, in which `[gMASK]` has an id of its own."""
    repaired = tokenizer
    if isinstance(tokenizer, ChineseTokenizer) and tokenizer.special.get("gmask") == tokenizer.special["eop"]:
        repaired = ChineseTokenizer(tokenizer.model_bytes)
        table = repaired.special
    elif tokenizer is None and checkpoint.vocabulary.older_table:
        table = SPECIAL_TOKENS["chinese"]
    else:
        return checkpoint.weights, tokenizer
    source, target = table["eop"], table["gmask"]
    notes.append(f"row {source} of the word embedding is copied onto row {target}: there [gMASK] has an id of its own")
    return WithRowCopied(checkpoint.weights, source, target), repaired


def _carry_other_files(checkpoint: Checkpoint, folder: Path, to: str) -> None:
    names = (*OTHER_FILES, *REMOTE_CODE) if to == checkpoint.format == HUGGINGFACE else OTHER_FILES
    if to == OPENGLM:
        names = (*names, *beside.FILES)
    for path in existing(checkpoint.folder, names):
        write_atomically(folder / path.name, path.read_bytes())
        if path.name in (beside.HEAD_WEIGHTS, beside.PROMPT_WEIGHTS):
            note_file(folder, path.name)


@contextmanager
def _appearing(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder`, which takes its place on success and goes otherwise."""
    parent = folder.absolute().parent
    part = parent / f".{folder.name}.{os.getpid()}.part"
    try:
        part.mkdir(parents=True)
        yield part
        for path in part.rglob("*"):
            if path.is_dir():
                sync_folder(path)
        sync_folder(part)
        if folder.is_dir():
            folder.rmdir()  # it is empty
        part.replace(folder)
        sync_folder(parent)
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be written ({error.strerror or error}); nothing was kept") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


# --- comparison ----------------------------------------------------------------------


def _compare(spec: ExportSpec, written: Checkpoint) -> str:
    """Compare what went in with what a reader of the new folder gets: tensors, then logits.

    Raises:
        CheckpointError: they differ, or the source holds values that are not finite numbers.
    """
    before, after = StreamingReader(spec.weights), StreamingReader(written.weights)
    for name in spec.infos:
        tensor = before(name)
        if not is_finite(tensor):
            raise CheckpointError(
                f"{spec.weights.path}: {name} holds values that are not finite numbers; fetch or copy it again"
            )
        if not torch.equal(tensor, after(name)):
            raise CheckpointError(f"{name} came out changed (is the disk sound?); nothing was kept")
    spec.weights.release()
    written.weights.release()
    # Each format's code has its own GELU; what is compared here is everything else.
    config = dataclasses.replace(written.config, gelu=spec.config.gelu)
    expected, found = probe_logits(spec.config, spec.weights), probe_logits(config, written.weights)
    difference = float((found - expected).abs().max())
    if not difference <= TOLERANCE * max(1.0, float(expected.abs().max())):
        raise CheckpointError(f"logits before and after differ by {difference:.2g}; nothing was kept")
    return f"all tensors are equal; largest difference of logits: {difference:.2g}"
