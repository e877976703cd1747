"""Writing a shard so that a preparation killed at any moment can go on.

While it is written, a shard's folder holds the ids so far (`tokens.bin`), the two lists as
plain numbers (`bounds.part`, `sentences.part`), and a journal (`progress.json`) that says
up to where all three are whole. Going on means to cut the three files to what the journal
says and to read the corpus from the position in it. The manifest is written last.

Knows what the files of a shard are; not how documents become tokens.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..errors import DataError
from ..files import cannot_write, digest_of_file, lock_file, replacing, write_atomically
from .tokenize import Encoded

VERSION = 2  # 1 had no sentences and no version
MANIFEST, TOKENS, BOUNDS, SENTENCES = "manifest.json", "tokens.bin", "bounds.npy", "sentences.npy"
JOURNAL = "progress.json"
_PARTS = {TOKENS: TOKENS, BOUNDS: "bounds.part", SENTENCES: "sentences.part"}
COMMIT_SECONDS = 5.0  # work that a killed preparation may lose
_BLOCK = 1 << 22  # bytes hashed at a time


@dataclass
class Progress:
    """How far a preparation is.

    Attributes:
        file, read: the input file being read, and how many of its documents are done.
        documents, tokens, sentences: written so far; documents of no tokens are left out.
    """

    file: int = 0
    read: int = 0
    documents: int = 0
    tokens: int = 0
    sentences: int = 0


def _refuse_other_files(folder: Path) -> None:
    """A shard has a folder of its own: nothing of anybody else's may stand there, under our names or others.

    Raises:
        OutputError: other files are there, or the folder is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise cannot_write(folder, "a file is there; give the name of a folder")
    names = {entry.name for entry in folder.iterdir()} if folder.exists() else set()
    ours = {TOKENS, BOUNDS, SENTENCES, MANIFEST, JOURNAL, *_PARTS.values()}
    other = sorted(name for name in names - ours if not (name.startswith(".") and name.endswith(".part")))
    finished = {MANIFEST, TOKENS, BOUNDS} <= names
    if MANIFEST in names and not finished:
        other.append(MANIFEST)
    if not finished and JOURNAL not in names:  # a writer says whose the files are before it writes into them
        other += [name for name in sorted(names & ours) if (folder / name).stat().st_size]
    if other:
        more = f" and {len(other) - 3} more" if len(other) > 3 else ""
        names_of_other = ", ".join(other[:3]) + more
        raise cannot_write(
            folder, f"the folder holds other files ({names_of_other}); give the name of a new or an empty one"
        )


class ShardWriter:
    """Appends to a shard and finishes it; goes on where an earlier writer stopped.

    Args:
        folder: of the shard; made if need be.
        identity: what the shard is made of (tokenizer, inputs, ...): goes into the manifest,
            and must be that of the earlier writer.
        dtype: of the ids.

        modified: when the inputs were last changed: an unfinished shard remembers it, the
            finished one does not.

    Raises:
        DataError: the folder holds other files, a finished shard, an unfinished one of other
            inputs or of damaged files, or another process is writing to it.
    """

    def __init__(
        self, folder: Path, identity: dict[str, Any], dtype: np.dtype[Any], *, modified: Sequence[int | None] = ()
    ) -> None:
        self.folder = folder
        self.identity = {"version": VERSION, "dtype": dtype.str, **identity}
        self.modified = list(modified)
        self.width = dtype.itemsize
        _refuse_other_files(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / MANIFEST).exists():  # and all else of a shard
            self._tidy()
            raise DataError(f"{folder}: already holds a finished shard; give another --output or remove it")
        self._files: dict[str, BinaryIO] = {}
        try:
            # Opened without cutting anything off: another process may be at work here.
            for name, part in _PARTS.items():
                self._files[name] = (folder / part).open("ab")
            if not lock_file(self._files[TOKENS]):
                raise DataError(f"{folder}: another process is preparing this shard; wait for it, or end it")
            self.progress = self._earlier()
            if self.progress == Progress():
                self._write_journal()  # before anything else, so that what follows is known as ours
            self._cut()
        except BaseException:
            self.close()
            raise
        self._committed = time.monotonic()

    def append(self, encoded: Encoded, file: int, read: int) -> None:
        """Add documents; `file` and `read` say up to where the inputs are then done."""
        now, lengths = self.progress, encoded.lengths[encoded.lengths > 0]
        self._files[TOKENS].write(encoded.tokens.tobytes())
        self._files[BOUNDS].write((now.tokens + np.cumsum(lengths)).astype("<i8").tobytes())
        self._files[SENTENCES].write((now.tokens + encoded.sentences).astype("<i8").tobytes())
        self.progress = Progress(
            file,
            read,
            now.documents + len(lengths),
            now.tokens + len(encoded.tokens),
            now.sentences + len(encoded.sentences),
        )
        if time.monotonic() - self._committed >= COMMIT_SECONDS:
            self.commit()

    def commit(self) -> None:
        """Make what has been appended safe, then say so in the journal."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        self._write_journal()
        self._committed = time.monotonic()

    def _write_journal(self) -> None:
        journal = {**self.identity, "modified": self.modified, "progress": asdict(self.progress)}
        write_atomically(self.folder / JOURNAL, json.dumps(journal, ensure_ascii=False).encode())

    def finish(self) -> dict[str, Any]:
        """Write what is missing of the shard and return its manifest."""
        self.commit()
        done = self.progress
        self._as_array(BOUNDS, done.documents + 1)
        self._as_array(SENTENCES, done.sentences)
        manifest = {
            **self.identity,
            "documents": done.documents,
            "tokens": done.tokens,
            "sentences": done.sentences,
            "sha256": digest_of_file(self.folder / TOKENS),
        }
        text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
        write_atomically(self.folder / MANIFEST, text.encode())
        self.close()
        self._tidy()
        return manifest

    def discard(self) -> None:
        """Leave nothing of this shard behind."""
        self.close()
        self._tidy()
        (self.folder / TOKENS).unlink(missing_ok=True)

    def close(self) -> None:
        """Close the files; what was committed can be gone on from."""
        for file in self._files.values():
            try:
                file.close()
            except OSError:  # a full disk, met again when flushing; the journal does not count on it
                pass

    def _earlier(self) -> Progress:
        """The progress in the journal, after checking that it is of the same work."""
        path = self.folder / JOURNAL
        try:
            journal = json.loads(path.read_text(encoding="utf-8"))
            progress = Progress(**journal.pop("progress"))
        except FileNotFoundError:
            return Progress()
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise DataError(f"{path}: not readable ({error}); remove {self.folder} and prepare again") from error
        if progress == Progress():
            return progress  # nothing has been written, so it does not matter of what
        changed = [key for key in self.identity if journal.get(key) != self.identity[key]]
        if not changed and journal.get("modified", self.modified) != self.modified:
            changed = ["sources, which were changed since"]
        if changed:
            raise DataError(
                f"{self.folder}: holds an unfinished shard that differs in its {' and '.join(changed)}; "
                "repeat the command that began it, give another --output, or remove the folder"
            )
        return progress

    def _cut(self) -> None:
        """Cut the files to what the journal says is whole."""
        done = self.progress
        sizes = {TOKENS: done.tokens * self.width, BOUNDS: 8 * (done.documents + 1), SENTENCES: 8 * done.sentences}
        if done == Progress():
            self._files[BOUNDS].truncate(0)
            self._files[BOUNDS].write(bytes(8))  # the first document starts at token 0
            self._files[BOUNDS].flush()
        for name, file in self._files.items():
            if os.fstat(file.fileno()).st_size < sizes[name]:
                raise DataError(
                    f"{self.folder / _PARTS[name]}: shorter than {JOURNAL} says; remove {self.folder} and prepare again"
                )
            file.truncate(sizes[name])

    def _tidy(self) -> None:
        """Remove what only an unfinished shard needs, and what a killed writer left half written."""
        names = [_PARTS[BOUNDS], _PARTS[SENTENCES], JOURNAL]
        halves = [
            half for name in (BOUNDS, SENTENCES, MANIFEST, JOURNAL) for half in self.folder.glob(f".{name}.*.part")
        ]
        for path in [*(self.folder / name for name in names), *halves]:
            path.unlink(missing_ok=True)

    def _as_array(self, name: str, count: int) -> None:
        source = self.folder / _PARTS[name]
        with replacing(self.folder / name) as part, source.open("rb") as numbers, part.open("wb") as out:
            header = {"descr": "<i8", "fortran_order": False, "shape": (count,)}
            np.lib.format.write_array_header_1_0(out, header)
            shutil.copyfileobj(numbers, out, _BLOCK)
