"""Documents into token ids and sentence ends, in this process or in several.

The result is the same however many processes share the work. Knows nothing about files.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
import threading
from collections import deque
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..blanks import Ids
from ..errors import DataError, OptionError
from ..tokenizer import Tokenizer, load_tokenizer

FEW_BATCHES = 64  # a corpus of fewer is tokenized before processes have started
MOST_WORKERS = 1024  # more than any machine has processors
AHEAD = 3  # batches per process that wait or are worked on

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Encoded:
    """Some documents as token ids.

    Attributes:
        tokens: [total] ids, end to end, in the type `token_type` gives.
        lengths: [documents] int64, tokens of each (0 for one that holds nothing to the vocabulary).
        sentences: [ends] int64, rising; where sentences end, counted in `tokens` (see `sentence_ends`).
    """

    tokens: NDArray[Any]
    lengths: Ids
    sentences: Ids


def token_type(tokenizer: Tokenizer) -> np.dtype[Any]:
    """The smallest unsigned type that holds every id, little endian."""
    return np.dtype("<u2" if tokenizer.num_tokens <= 1 << 16 else "<u4")


def sentence_ends(tokens: NDArray[Any], bounds: Ids, ending: NDArray[np.bool_]) -> Ids:
    """Where sentences end: int64 positions, one past their last token, rising.

    A sentence ends behind a token that ends one and is not followed, in its own document, by
    another such token: of several in a row (`?!`, or a stop and a newline) the last closes it.

    Args:
        tokens: [total] ids of all documents.
        bounds: [documents + 1] where each document starts.
        ending: [vocabulary] bool, True for tokens that end a sentence.
    """
    ends = ending[tokens]
    goes_on = np.zeros_like(ends)
    goes_on[:-1] = ends[1:]
    last = bounds[1:] - 1
    goes_on[last[last >= 0]] = False
    return np.flatnonzero(ends & ~goes_on).astype(np.int64) + 1


def encode_documents(texts: Sequence[str], tokenizer: Tokenizer) -> Encoded:
    """Tokenize some documents."""
    return join([np.asarray(tokenizer.encode(text), np.int64) for text in texts], tokenizer)


def join(ids: Collection[NDArray[Any]], tokenizer: Tokenizer) -> Encoded:
    """Documents given as ids, end to end."""
    kind = token_type(tokenizer)
    lengths = np.fromiter((len(document) for document in ids), np.int64, len(ids))
    tokens = np.concatenate([np.empty(0, kind), *ids], dtype=kind, casting="unsafe")
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    return Encoded(tokens, lengths, sentence_ends(tokens, bounds, tokenizer.sentence_ends))


def encode_in_order(
    batches: Iterable[tuple[Sequence[str], T]], tokenizer: Tokenizer, workers: int | None
) -> Generator[tuple[Encoded, T], None, None]:
    """Tokenize batches of documents; each result comes with the tag of its batch, in order.

    Args:
        batches: documents and a tag; read ahead only as far as the workers need.
        workers: processes; 0 or 1 for none but this one, None for one per processor (none for
            a corpus of less than `FEW_BATCHES` batches).

    Raises:
        OptionError: a negative number of workers.
        DataError: a worker process died.
    """
    batches = iter(batches)
    if workers is None:
        first = list(islice(batches, FEW_BATCHES))
        workers = _processors() if len(first) == FEW_BATCHES else 1
        batches = chain(first, batches)
    if workers < 0:
        raise OptionError(f"workers must be 0 or more, not {workers}")
    if workers > MOST_WORKERS:
        raise OptionError(f"workers must be at most {MOST_WORKERS}, not {workers}")
    if workers > 1:
        yield from _in_processes(batches, tokenizer, workers)
        return
    for texts, tag in batches:
        yield encode_documents(texts, tokenizer), tag


def _in_processes(
    batches: Iterable[tuple[Sequence[str], T]], tokenizer: Tokenizer, workers: int
) -> Iterator[tuple[Encoded, T]]:
    # A fresh Python each: forked copies of a process with threads may hang.
    pool = ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=_start_worker, initargs=(tokenizer.files(),)
    )
    waiting: deque[tuple[Future[Encoded], T]] = deque()
    try:
        for texts, tag in batches:
            waiting.append((pool.submit(_encode, texts), tag))
            if len(waiting) > AHEAD * workers:
                yield _next(waiting)
        while waiting:
            yield _next(waiting)
    except BrokenProcessPool as error:
        raise DataError(
            "a tokenizing process died: short of memory, or started from a script without the line "
            'if __name__ == "__main__": (then use --workers 1, or add it)'
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _next(waiting: deque[tuple[Future[Encoded], T]]) -> tuple[Encoded, T]:
    future, tag = waiting.popleft()
    return future.result(), tag


def _processors() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# --- in a worker process ---------------------------------------------------------------

_tokenizer: Tokenizer


def _start_worker(files: Mapping[str, bytes]) -> None:
    global _tokenizer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process says what happens on Ctrl-C
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            (Path(folder) / name).write_bytes(content)
        _tokenizer = load_tokenizer(Path(folder))


def _end_with_parent() -> None:
    """A main process that is killed cannot end its workers; they would wait for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _encode(texts: Sequence[str]) -> Encoded:
    return encode_documents(texts, _tokenizer)
