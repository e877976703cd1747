"""Tokenized corpora on disk: ids, where documents start, where sentences end, a manifest.

    openglm data prepare --tokenizer DIR --output SHARD FILE...

A shard is a folder of `tokens.bin` (uint16 or uint32, little endian), `bounds.npy`
([documents + 1] int64), `sentences.npy` ([sentences] int64) and `manifest.json`, written
last, so that a folder without it is known to be unfinished. Reading maps the files;
nothing is copied.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..blanks import Ids
from ..errors import DataError
from ..tokenizer import Tokenizer
from .addresses import changed_at, expand, file_name, size_of
from .corpus import documents
from .tokenize import encode_in_order, join, token_type
from .writer import BOUNDS, JOURNAL, MANIFEST, SENTENCES, TOKENS, VERSION, ShardWriter

BATCH_CHARACTERS = 200_000  # of text tokenized at a time
_BLOCK = 1 << 20  # numbers checked at a time


# --- preparing -------------------------------------------------------------------------


def prepare(
    addresses: str | Path | Iterable[str | Path],
    tokenizer: Tokenizer,
    output: Path,
    *,
    field: str = "text",
    workers: int | None = None,
) -> dict[str, Any]:
    """Tokenize files into one shard and return its manifest.

    The shard is the same, byte by byte, whatever the number of workers, and however often the
    preparation was killed and begun again: the same call goes on where the last one stopped.

    Args:
        addresses: files, patterns or folders (`addresses.expand`).
        output: folder of the shard.
        field: of JSON Lines and Parquet files.
        workers: processes that tokenize; 0 or 1 for this one alone, None for one per processor
            (this one alone where the corpus is small).

    Raises:
        DataError: unreadable input, no documents in it, `output` holds a finished shard or an
            unfinished one of other inputs, or it cannot be written.
        OptionError: a negative number of workers.
    """
    files = expand(addresses)
    sources = [{"name": file_name(file), "bytes": size_of(file)} for file in files]
    identity = {"tokenizer": tokenizer.identity, "field": field, "sources": sources}
    try:
        writer = ShardWriter(output, identity, token_type(tokenizer), modified=[changed_at(file) for file in files])
        with closing(writer):
            _write_all(writer, files, tokenizer, field, workers)
            if not writer.progress.documents:
                writer.discard()
                raise DataError(f"no documents in {', '.join(files)}")
            return writer.finish()
    except OSError as error:
        raise DataError(f"{output}: the shard cannot be written ({error})") from error


def _write_all(
    writer: ShardWriter, files: Sequence[str], tokenizer: Tokenizer, field: str, workers: int | None
) -> None:
    from tqdm import tqdm

    start = writer.progress
    batches = _batches(files, field, start.file, start.read)
    bar = tqdm(initial=start.tokens, unit=" tokens", unit_scale=True, disable=not sys.stderr.isatty())
    with bar, closing(encode_in_order(batches, tokenizer, workers)) as results:
        try:
            for encoded, (file, read) in results:
                writer.append(encoded, file, read)
                bar.set_postfix_str(f"{writer.progress.documents:,} documents", refresh=False)
                bar.update(len(encoded.tokens))
        except (DataError, KeyboardInterrupt):
            writer.commit()
            raise


def _batches(files: Sequence[str], field: str, file: int, read: int) -> Iterator[tuple[list[str], tuple[int, int]]]:
    """Documents from a position on, in batches, each with the position behind it."""
    texts: list[str] = []
    characters = 0
    for number in range(file, len(files)):
        done = read if number == file else 0
        for text in islice(documents(files[number], field=field), done, None):
            texts.append(text)
            characters += len(text)
            done += 1
            if characters >= BATCH_CHARACTERS:
                yield texts, (number, done)
                texts, characters = [], 0
    if texts:
        yield texts, (len(files), 0)


# --- reading ---------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Shard:
    """A tokenized corpus, in memory or mapped into it.

    Attributes:
        tokens: [total] ids of all documents, end to end.
        bounds: [documents + 1] where each document starts; the last is the total.
        sentences: [sentences] int64, rising: positions behind the last token of each sentence
            (the rule is `tokenize.sentence_ends`).
        manifest: counts, tokenizer identity; of a prepared shard also hash and sources.
        origin: folder, first and last document (exclusive), if the arrays are mapped from files.
    """

    tokens: NDArray[Any]
    bounds: Ids
    sentences: Ids
    manifest: dict[str, Any]
    origin: tuple[Path, int, int] | None = None

    @classmethod
    def open(cls, folder: Path, tokenizer: Tokenizer) -> Shard:
        """Open a prepared shard and check that it belongs to this tokenizer.

        Raises:
            DataError: not a finished shard, made with another tokenizer or by another version
                of openglm, or truncated.
        """
        shard = _map(folder)
        if shard.manifest.get("tokenizer") != tokenizer.identity:
            raise DataError(f"{folder}: prepared with another tokenizer; prepare the corpus again with this one")
        return shard

    @classmethod
    def from_documents(cls, ids: Collection[NDArray[Any]], tokenizer: Tokenizer) -> Shard:
        """A shard in memory.

        Args:
            ids: the ids of each document, without special tokens.

        Raises:
            DataError: no tokens in any document.
        """
        encoded = join(ids, tokenizer)
        if not len(encoded.tokens):
            raise DataError("no document holds any token")
        bounds = np.concatenate([[0], np.cumsum(encoded.lengths)])
        manifest = {"version": VERSION, "dtype": encoded.tokens.dtype.str, "tokenizer": tokenizer.identity}
        return cls(encoded.tokens, bounds, encoded.sentences, manifest)._counted()

    def __len__(self) -> int:
        """How many documents."""
        return len(self.bounds) - 1

    def document(self, number: int) -> Ids:
        """The ids of one document, int64.

        Raises:
            IndexError: no document of this number.
        """
        if not 0 <= number < len(self):
            raise IndexError(f"document {number} of a shard of {len(self)}")
        return np.asarray(self.tokens[self.bounds[number] : self.bounds[number + 1]], np.int64)

    def at(self, number: int) -> Shard:
        """What batch `number` is drawn from: this shard (see `text_stream` for one that moves)."""
        return self

    def split(self, documents: int) -> tuple[Shard, Shard]:
        """This shard without its last `documents` documents, and a shard of those.

        Raises:
            DataError: one of the two would hold no tokens.
        """
        count = len(self)
        if not 0 < documents < count:
            raise DataError(f"cannot hold out {documents} of {count} documents; at least one must be on either side")
        parts = self._part(0, count - documents), self._part(count - documents, count)
        if not all(len(part.tokens) for part in parts):
            raise DataError(f"the last {documents} of {count} documents, or those before them, hold no tokens")
        return parts

    def verify(self) -> None:
        """Check the contents: the hash of the ids, and the order and range of bounds and sentences.

        Reads everything.

        Raises:
            DataError: something is damaged.
        """
        name = self.origin[0] if self.origin else "shard"
        remedy = "the shard is damaged; prepare the corpus again"
        total = len(self.tokens)
        if self.bounds[0] != 0 or self.bounds[-1] != total or not _rising(self.bounds, strictly=False):
            raise DataError(f"{name}: the bounds of documents are out of order; {remedy}")
        inside = not len(self.sentences) or (self.sentences[0] > 0 and self.sentences[-1] <= total)
        if not inside or not _rising(self.sentences, strictly=True):
            raise DataError(f"{name}: the ends of sentences are out of order; {remedy}")
        expected = self.manifest.get("sha256")
        if expected is not None:
            digest = hashlib.sha256()
            for start in range(0, total, _BLOCK):
                digest.update(self.tokens[start : start + _BLOCK].tobytes())
            if digest.hexdigest() != expected:
                raise DataError(f"{name}: {TOKENS} is not what the manifest says; {remedy}")

    def _part(self, first: int, last: int) -> Shard:
        """The documents first .. last - 1; the ids are a view."""
        start, stop = int(self.bounds[first]), int(self.bounds[last])
        low, high = np.searchsorted(self.sentences, [start, stop], side="right")
        bounds, sentences = self.bounds[first : last + 1], self.sentences[low:high]
        if start:
            bounds, sentences = np.asarray(bounds - start), np.asarray(sentences - start)
        origin = self.origin and (self.origin[0], self.origin[1] + first, self.origin[1] + last)
        manifest = {key: value for key, value in self.manifest.items() if key != "sha256"}
        return Shard(self.tokens[start:stop], bounds, sentences, manifest, origin)._counted()

    def _counted(self) -> Shard:
        counts = {"documents": len(self), "tokens": len(self.tokens), "sentences": len(self.sentences)}
        return replace(self, manifest={**self.manifest, **counts})

    def __reduce__(self) -> tuple[Any, ...]:
        """Mapped files travel to another process by name; a copy of them could be vast."""
        if self.origin is not None:
            folder, first, last = self.origin
            return _map_part, (folder.absolute(), first, last)
        return Shard, (self.tokens, self.bounds, self.sentences, self.manifest)


def is_shard(folder: Path) -> bool:
    """Whether this is the folder of a shard, finished or not."""
    return any((folder / name).is_file() for name in (TOKENS, BOUNDS, JOURNAL))


def _map(folder: Path) -> Shard:
    try:
        manifest = _manifest(folder)
        bounds = np.lib.format.open_memmap(folder / BOUNDS, mode="r")
        sentences = np.lib.format.open_memmap(folder / SENTENCES, mode="r")
        tokens = np.memmap(folder / TOKENS, dtype=manifest["dtype"], mode="r")
        expected = manifest["tokens"], manifest["documents"] + 1, manifest["sentences"]
    except (OSError, EOFError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"{folder}: not a prepared shard ({error}); make one with `openglm data prepare`") from error
    for name, array in ((BOUNDS, bounds), (SENTENCES, sentences)):
        if array.ndim != 1 or array.dtype != np.int64:
            raise DataError(f"{folder / name}: not a list of int64 numbers; prepare the corpus again")
    found = len(tokens), len(bounds), len(sentences)
    if found != expected or bounds[-1] != len(tokens):
        raise DataError(
            f"{folder}: truncated, {found[0]} tokens, {found[1]} bounds and {found[2]} sentences where the manifest "
            f"says {expected[0]}, {expected[1]} and {expected[2]}; prepare the corpus again"
        )
    return Shard(tokens, bounds, sentences, manifest, (folder, 0, len(bounds) - 1))


def _manifest(folder: Path) -> dict[str, Any]:
    if (folder / JOURNAL).exists() and not (folder / MANIFEST).exists():
        raise DataError(f"{folder}: this shard is not finished; repeat its `openglm data prepare`, which goes on")
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    if not isinstance(manifest, dict) or manifest.get("dtype") not in ("<u2", "<u4"):
        raise ValueError(f"{MANIFEST} is of something else")
    version = manifest.get("version", 1)
    if version != VERSION:
        raise DataError(
            f"{folder}: prepared by {'an older' if version < VERSION else 'a newer'} version of openglm "
            f"(format {version}, this one reads {VERSION}); prepare the corpus again"
        )
    return manifest


def _map_part(folder: Path, first: int, last: int) -> Shard:
    shard = _map(folder)
    return shard if last - first == len(shard) else shard._part(first, last)


def _rising(numbers: Ids, *, strictly: bool) -> bool:
    """Whether numbers never fall; `strictly`: always rise."""
    for start in range(0, len(numbers), _BLOCK):
        steps = np.diff(numbers[start : start + _BLOCK + 1])
        if len(steps) and steps.min() < int(strictly):
            return False
    return True
