"""The sources of a run, from what its recipe or the command line says about data.

    addresses -> prepared shards | text files -> sources to train on, sources to evaluate on

Shards are opened, text files streamed. Where no data for evaluation are named, a share of the
training documents is kept for it. Knows where text lies; nothing about batches.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.addresses import expand, file_name, is_remote, open_binary, size_of
from ..data.corpus import documents, interleaved
from ..data.shards import Shard, is_shard
from ..data.stream import Source
from ..data.text_stream import TextStream
from ..errors import DataError
from ..files import write_atomically
from ..tokenizer import Tokenizer
from ..training.parallel import Processes
from .recipe import CorporaOptions, CorpusOptions, PretrainOptions

HELD_TOKENS = 200_000  # most tokens kept for evaluation of one source
CONTENT = "content"  # in the identity of a source
HASHED, BLOCK = 4 << 30, 1 << 20  # bytes of a file that its digest covers, and of one read
COUNTED = 10_000  # documents of text files looked at to decide how many to keep
MEASURED = 100  # and of these, those tokenized to learn how long they are


@dataclass
class Corpora:
    """What a run reads.

    Attributes:
        train, valid: sources; several of one name are several shards of it.
        notes: what the user should know about the choice.
    """

    train: list[Source] = field(default_factory=list)
    valid: list[Source] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def open_corpora(data: CorporaOptions, tokenizer: Tokenizer, run: PretrainOptions, processes: Processes) -> Corpora:
    """Open everything that `data` names; shards are verified, by the first process alone.

    Raises:
        DataError: no training data, or data that cannot be used; TrainingError too.
    """
    if not data.train:
        raise DataError("no training data: name some with --data, or in the section `data` of the recipe")
    opener = _Opener(data, tokenizer, run, processes)
    out = Corpora(notes=opener.notes)
    for name, corpus in data.train.items():
        share = 0.0 if data.valid else data.hold_out
        out.train += opener.training(name, corpus, share, out.valid)
    for name, corpus in data.valid.items():
        out.valid += opener.validation(name, corpus)
    total = sum(source.weight for source in out.train)
    # Streams of text move on by what a batch draws from them, the same in all stages of a run.
    batch = sum(stage.share * stage.rows * stage.length for stage in run.stages)
    for source in out.train:
        if isinstance(source.shard, TextStream):
            source.shard.configure(batch * source.weight / total)
    return out


class _Opener:
    def __init__(self, data: CorporaOptions, tokenizer: Tokenizer, run: PretrainOptions, processes: Processes) -> None:
        self.field, self.seed = data.field, run.seed
        self.tokenizer, self.processes = tokenizer, processes
        self.notes: list[str] = []

    def training(self, name: str, corpus: CorpusOptions, share: float, valid: list[Source]) -> list[Source]:
        """The sources of one name; what is held out of them is appended to `valid`."""
        shards = self._shards(name, corpus)
        if shards is None:
            return [self._text(name, corpus, share, valid)]
        total = sum(len(shard.tokens) for shard in shards)
        out = []
        for shard in shards:
            weight = corpus.weight * len(shard.tokens) / total
            held = _documents_to_hold(np.diff(shard.bounds), share)
            if held:
                shard, kept = shard.split(held)
                valid.append(Source(name, kept, 1.0))
            elif share:
                self._too_small(name)
            out.append(Source(name, shard, weight))
        return out

    def validation(self, name: str, corpus: CorpusOptions) -> list[Source]:
        """The sources to evaluate on; of text files the first documents."""
        shards = self._shards(name, corpus)
        if shards is None:
            shards = [self._first_documents(corpus)]
        return [Source(name, shard, 1.0) for shard in shards]

    def _shards(self, name: str, corpus: CorpusOptions) -> list[Shard] | None:
        """The prepared shards, verified; None if the paths are those of text files."""
        prepared = [path for path in corpus.paths if not is_remote(path) and is_shard(Path(path))]
        if not prepared:
            return None
        if len(prepared) != len(corpus.paths):
            other = next(path for path in corpus.paths if path not in prepared)
            raise DataError(f"{name}: {prepared[0]} is a prepared shard and {other} is not; give them different names")
        shards = [Shard.open(Path(path), self.tokenizer) for path in prepared]
        self.processes.by_first(lambda: _verify(shards))
        return shards

    def _text(self, name: str, corpus: CorpusOptions, share: float, valid: list[Source]) -> Source:
        files = self.processes.by_first(lambda: expand(corpus.paths))
        held = self.processes.by_first(lambda: self._texts_to_hold(files, share)) if share else 0
        stream = TextStream(files, self.tokenizer, field=self.field, seed=self.seed, hold_out=held)
        kept = stream.held_out
        if kept is not None:
            valid.append(Source(name, kept, 1.0))
        elif share:
            self._too_small(name)
        return Source(name, stream, corpus.weight)

    def _texts_to_hold(self, files: Sequence[str], share: float) -> int:
        """A share of the documents counted, within `HELD_TOKENS`; of few documents, at least one."""
        count = sum(1 for _ in islice(interleaved(files, field=self.field), COUNTED))
        lengths = [len(ids) for ids in self._encoded(files, MEASURED)]
        wanted = min(math.ceil(share * count), int(HELD_TOKENS / max(1.0, float(np.mean(lengths or [1])))))
        return max(1, wanted) if count > 1 else 0

    def _encoded(self, files: Sequence[str], most: int) -> list[NDArray[Any]]:
        texts = islice(interleaved(files, field=self.field), most)
        return [np.asarray(self.tokenizer.encode(text), np.int64) for text in texts]

    def _first_documents(self, corpus: CorpusOptions) -> Shard:
        chosen: list[NDArray[Any]] = []
        tokens = 0
        for file in expand(corpus.paths):
            for text in documents(file, field=self.field):
                chosen.append(np.asarray(self.tokenizer.encode(text), np.int64))
                tokens += len(chosen[-1])
                if tokens >= HELD_TOKENS:
                    return Shard.from_documents(chosen, self.tokenizer)
        return Shard.from_documents(chosen, self.tokenizer)

    def _too_small(self, name: str) -> None:
        self.notes.append(f"{name} has too few documents to keep any for evaluation; name some with --valid")


def _verify(shards: Sequence[Shard]) -> None:
    for shard in shards:
        shard.verify()


def _documents_to_hold(lengths: NDArray[Any], share: float) -> int:
    """How many of the last documents make up a share of all, within `HELD_TOKENS`."""
    if not share or len(lengths) < 2:
        return 0
    last = np.cumsum(lengths[: -math.ceil(share * len(lengths)) - 1 : -1])
    fitting = int((last <= HELD_TOKENS).sum())
    held = min(max(1, fitting), len(lengths) - 1)
    rest = int(lengths.sum()) - int(lengths[-held:].sum())
    return held if lengths[-held:].sum() and rest else 0


def content_digest(files: Sequence[str], known: Path | None = None) -> str:
    """A digest of what files hold, so that an edit is noticed when a run goes on.

    Of a file of more than `HASHED` bytes, as many of it in evenly spaced blocks count.

    Args:
        files: those that are remote count by their names alone.
        known: a file that remembers digests: of files whose size and time of change are as they
            were they are not computed again.
    """
    before = _remembered(known)
    now: dict[str, list[Any]] = {}
    for file in files:
        if is_remote(file):
            continue
        status = Path(file.removeprefix("file://")).stat()
        stamp, entry = [status.st_size, status.st_mtime_ns], before.get(file, [])
        now[file] = entry if entry[:2] == stamp else [*stamp, _digest(file, status.st_size)]
    if known is not None and any(before.get(file) != entry for file, entry in now.items()):
        write_atomically(known, json.dumps({**before, **now}).encode())
    return hashlib.sha256("\n".join(sorted(each[2] for each in now.values())).encode()).hexdigest()


def _remembered(known: Path | None) -> dict[str, list[Any]]:
    """File -> size, time of change, digest; what is damaged is left out."""
    try:
        values = json.loads(known.read_text(encoding="utf-8")) if known is not None else {}
    except (OSError, ValueError, RecursionError):
        return {}
    entries = values.items() if isinstance(values, dict) else ()
    return {
        file: entry
        for file, entry in entries
        if isinstance(entry, list) and [type(part) for part in entry] == [int, int, str]
    }


def _digest(file: str, size: int) -> str:
    digest = hashlib.sha256()
    steps = max(1, -(-size // HASHED)) * BLOCK
    with open_binary(file) as source:
        for start in range(0, size, steps):
            source.seek(start)
            digest.update(source.read(BLOCK))
    return digest.hexdigest()


def identity_of(source: Source, known: Path | None = None) -> dict[str, Any]:
    """Plain values that differ where the text of a source does: counts and hash, or the files.

    Args:
        known: see `content_digest`.
    """
    out: dict[str, Any] = {"name": source.name, "weight": round(source.weight, 9)}
    corpus = source.shard
    if isinstance(corpus, Shard):
        return out | {key: corpus.manifest.get(key) for key in ("documents", "tokens", "sha256")}
    if isinstance(corpus, TextStream):
        names = sorted(f"{file_name(file)} {None if is_remote(file) else size_of(file)}" for file in corpus.files)
        digest = hashlib.sha256("\n".join(names).encode()).hexdigest()
        out |= {
            "files": len(names),
            "names_and_sizes": digest,
            CONTENT: content_digest(corpus.files, known),
            "field": corpus.documents.field,
            "held_out": corpus.documents.hold_out,
        }
    return out


def facts_of(source: Source) -> Mapping[str, Any]:
    """What a model card says about a source."""
    out: dict[str, Any] = {"name": source.name, "weight": source.weight}
    corpus = source.shard
    if isinstance(corpus, Shard):
        out |= {key: value for key in ("documents", "tokens", "sha256") if (value := corpus.manifest.get(key))}
    elif isinstance(corpus, TextStream):
        others = len(corpus.files) - 1
        more = f" and {others} more file{'s' if others > 1 else ''}" if others else ""
        out["address"] = file_name(corpus.files[0]) + more
    return out
