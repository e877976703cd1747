"""Tokenised corpora on disk: one array of ids, one of document bounds, one manifest.

    openglm data prepare --tokenizer DIR --output SHARD FILE...

A shard is a folder of `tokens.bin` (uint16 or uint32, little endian), `bounds.npy`
([documents + 1] int64) and `manifest.json`, written last, so that a folder without it is
known to be unfinished. Reading maps the files; nothing is copied.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..blanks import Ids
from ..errors import DataError
from ..files import write_atomically
from ..tokenizer import Tokenizer
from .corpus import documents

MANIFEST = "manifest.json"


def prepare(paths: Sequence[Path], tokenizer: Tokenizer, output: Path, *, field: str = "text") -> dict[str, Any]:
    """Tokenise files into one shard and return its manifest.

    Raises:
        DataError: unreadable input, no documents in it, or `output` exists already with
            other content.
    """
    if (output / MANIFEST).exists():
        raise DataError(f"{output}: already holds a finished shard; give another --output or remove it")
    output.mkdir(parents=True, exist_ok=True)
    width = np.dtype("<u2" if tokenizer.num_tokens <= 1 << 16 else "<u4")
    bounds, digest = [0], hashlib.sha256()
    with (output / "tokens.bin").open("wb") as out:
        for path in paths:
            for text in documents(path, field=field):
                ids = np.asarray(tokenizer.encode(text), dtype=width)
                if len(ids):
                    out.write(ids.tobytes())
                    digest.update(ids.tobytes())
                    bounds.append(bounds[-1] + len(ids))
    if len(bounds) == 1:
        raise DataError(f"no documents in {', '.join(map(str, paths))}")
    np.save(output / "bounds.npy", np.asarray(bounds, np.int64))
    manifest = {
        "tokenizer": tokenizer.identity,
        "dtype": width.str,
        "documents": len(bounds) - 1,
        "tokens": bounds[-1],
        "sha256": digest.hexdigest(),
        "sources": [path.name for path in paths],
    }
    write_atomically(output / MANIFEST, (json.dumps(manifest, indent=2, ensure_ascii=False) + "\n").encode())
    return manifest


@dataclass(frozen=True)
class Shard:
    """A prepared corpus, mapped into memory.

    Attributes:
        tokens: [total] ids of all documents, end to end.
        bounds: [documents + 1] where each document starts.
        manifest: counts, hash, tokenizer identity.
    """

    tokens: NDArray[Any]
    bounds: Ids
    manifest: dict[str, Any]

    @classmethod
    def open(cls, folder: Path, tokenizer: Tokenizer) -> Shard:
        """Open a shard and check that it belongs to this tokenizer.

        Raises:
            DataError: not a finished shard, made with another tokenizer, or truncated.
        """
        try:
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            bounds = np.load(folder / "bounds.npy", mmap_mode="r")
            tokens = np.memmap(folder / "tokens.bin", dtype=manifest["dtype"], mode="r")
            expected = manifest["tokens"], manifest["documents"] + 1
        except (OSError, EOFError, ValueError, TypeError, KeyError) as error:
            raise DataError(
                f"{folder}: not a prepared shard ({error}); make one with `openglm data prepare`"
            ) from error
        if manifest.get("tokenizer") != tokenizer.identity:
            raise DataError(f"{folder}: prepared with another tokenizer; prepare the corpus again with this one")
        if (len(tokens), len(bounds)) != expected:
            raise DataError(
                f"{folder}: truncated, {len(tokens)} tokens and {len(bounds)} bounds "
                f"where the manifest says {expected[0]} and {expected[1]}"
            )
        return cls(tokens, bounds, manifest)

    def document(self, number: int) -> Ids:
        """The ids of one document."""
        return np.asarray(self.tokens[self.bounds[number] : self.bounds[number + 1]], np.int64)
