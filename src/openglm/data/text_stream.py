"""Training straight from text files: a window of documents that moves along as batches are drawn.

    files -> endless sequence of documents -> tokenized -> window (a `Shard`)

Batch `number` is drawn from the window `TextStream.at(number)`, which depends on the files,
the seed and the number alone. A resumed run therefore sees what one that never stopped
sees; documents that are over by then are read past without being tokenized.

Knows nothing about how samples are made of a window.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, OptionError
from ..tokenizer import Tokenizer
from .addresses import expand, is_remote
from .document_sequence import DocumentSequence
from .shards import Shard, is_shard
from .tokenize import token_type

WINDOW_DOCUMENTS = 20_000
WINDOW_TOKENS = 4_000_000
WINDOW_BATCHES = 16  # a window holds at least so many batches
MOVES = 64  # moves in which a window is replaced by the next


@dataclass(frozen=True)
class _Measures:
    """What the first window has shown.

    Attributes:
        window: documents of a window.
        mean_length: tokens of a document.
        whole: whether the window holds the whole corpus.
    """

    window: int
    mean_length: float
    whole: bool

    @property
    def step(self) -> int:
        """The window moves by multiples of this many documents, so that it seldom needs to be put together."""
        return max(1, self.window // MOVES)


@dataclass
class _Window:
    """Documents `first`, `first + 1`, ... of the sequence, tokenized.

    Attributes:
        first: number of the first of them.
        ids: token ids of each.
        reader: gives the document behind the last of them; None: it has to be opened there.
        shard: the documents put together; None until they are.
        process: that opened the reader; files opened before a fork are shared with the parent.
    """

    first: int = 0
    ids: deque[NDArray[Any]] = field(default_factory=deque)
    reader: Iterator[tuple[int, str]] | None = None
    shard: Shard | None = None
    process: int = field(default_factory=os.getpid)

    @property
    def end(self) -> int:
        """Number of the document behind the last one."""
        return self.first + len(self.ids)


class TextStream:
    """A corpus in text files as windows of tokenized documents.

    The documents are an endless sequence (`DocumentSequence`): the files over and over, in every
    pass in another order drawn from `seed`, one document of each in turn. The window of a
    batch is a run of them. It moves on by as many documents as a batch draws tokens for, so
    a document stays in it until about as many tokens have been drawn as it brought. A corpus
    no larger than the window is held whole, and nothing moves.

    Within a window documents are drawn at random, so the window is what shuffles the corpus
    beyond the mixing of files. 20,000 documents or 4 million tokens, whichever is reached
    first, is a hundred batches and more of usual sizes, so that neighbours in a file seldom
    meet in a batch; it is tokenized in seconds when a run starts, and takes about 10 MB. At
    least 16 batches always fit.

    Args:
        addresses: files, patterns or folders (`addresses.expand`).
        tokenizer: of the model.
        field: of JSON Lines and Parquet files.
        window: documents of a window; by default as above.
        seed: of the order of files.
        hold_out: how many documents, the first of the first pass, are kept for validation
            (`held_out`) and never come up in training.

    A stream can be pickled, and goes on in a forked process; it then opens its files anew.

    Raises:
        DataError: no such files.
        OptionError: a window or number of documents held out that is impossible.
    """

    def __init__(
        self,
        addresses: str | Path | Iterable[str | Path],
        tokenizer: Tokenizer,
        *,
        field: str = "text",
        window: int | None = None,
        seed: int = 0,
        hold_out: int = 0,
    ) -> None:
        if (window is not None and window < 1) or hold_out < 0 or seed < 0:
            raise OptionError("a text stream needs a window of 1 document or more, and hold_out and seed of 0 or more")
        self.documents = DocumentSequence(expand(addresses), field=field, seed=seed, hold_out=hold_out)
        self.tokenizer = tokenizer
        self._asked_window = window
        self._tokens_per_batch: float | None = None
        self._measures: _Measures | None = None
        self._current = _Window()

    def configure(self, tokens_per_batch: float) -> None:
        """Say how many tokens a batch draws from this stream; sets how fast the window moves.

        Raises:
            OptionError: not a positive number.
        """
        if not tokens_per_batch > 0:
            raise OptionError(f"a batch must draw tokens from the stream, not {tokens_per_batch}")
        if tokens_per_batch != self._tokens_per_batch:
            self._tokens_per_batch, self._measures = tokens_per_batch, None

    @property
    def files(self) -> Sequence[str]:
        """Addresses of its files."""
        return self.documents.files

    @property
    def window(self) -> int:
        """Documents of a window."""
        return self._measured().window

    @property
    def advance(self) -> float:
        """Documents by which the window moves per batch; 0 if it holds the whole corpus.

        Limited by the window, so that no document is passed over.

        Raises:
            OptionError: the size of batches is not known (`configure`).
        """
        measures = self._measured()
        if measures.whole:
            return 0.0
        if self._tokens_per_batch is None:
            raise OptionError("the stream does not know how many tokens a batch draws: call configure() first")
        return min(self._tokens_per_batch / measures.mean_length, float(measures.window - measures.step + 1))

    @cached_property
    def held_out(self) -> Shard | None:
        """The documents kept for validation; None if none are.

        Raises:
            DataError: the corpus has no more documents than are to be held out, or they hold no tokens.
        """
        if not self.documents.hold_out:
            return None
        return Shard.from_documents([self._encode(text) for text in self.documents.held_out()], self.tokenizer)

    def at(self, number: int) -> Shard:
        """The window that batch `number` is drawn from, in memory.

        It starts at document `number * advance` of the endless sequence, rounded down to a
        multiple of 1/64 of the window: it moves seldom, and then by some way. Going forward
        costs the new documents only; going back starts from the beginning of a pass.

        Raises:
            DataError: the files cannot be read, hold no documents, or are not what they were.
            OptionError: `configure` has not been called (number 0 does without).
        """
        start = self.first_document(number)
        if self._current.shard is None or start != self._current.first:
            self._move(start)
        assert self._current.shard is not None
        return self._current.shard

    def first_document(self, number: int) -> int:
        """Where in the endless sequence the window of batch `number` starts."""
        measures = self._measured()
        if number == 0 or measures.whole:
            return 0
        return int(number * self.advance) // measures.step * measures.step

    # --- the window ------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the window and the open files; measures are kept."""
        return {name: value for name, value in self.__dict__.items() if name != "_current"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._current = _Window()

    def _measured(self) -> _Measures:
        """Size of the window, and mean length of its documents, from the first window, which is read for it."""
        if self._measures is not None:
            return self._measures
        self._current = window = _Window()
        enough = WINDOW_BATCHES * (self._tokens_per_batch or 0)
        reader, tokens = self.documents.read_from(0), 0
        for passes, text in reader:
            if passes or self._full(len(window.ids), tokens, enough):
                break
            window.ids.append(self._encode(text))
            tokens += len(window.ids[-1])
        if not tokens:
            raise DataError(f"no tokens in the first {len(window.ids)} documents of {self.documents}")
        whole = passes > 0
        window.reader = None if whole else chain([(passes, text)], reader)
        self._measures = _Measures(len(window.ids), tokens / len(window.ids), whole)
        return self._measures

    def _full(self, count: int, tokens: int, enough: float) -> bool:
        if self._asked_window is not None:
            return count >= self._asked_window
        return tokens >= enough and (count >= WINDOW_DOCUMENTS or tokens >= WINDOW_TOKENS)

    def _move(self, start: int) -> None:
        """Make `start` the first document of the window."""
        if start < self._current.first:
            self._current = _Window()
        window = self._current
        if window.process != os.getpid():
            window.reader, window.process = None, os.getpid()
        if start < window.end:
            for _ in range(start - window.first):
                window.ids.popleft()
        else:
            self._skip(window, start)
            window.ids.clear()
        window.first, window.shard = start, None
        self._fill(window)
        try:
            window.shard = Shard.from_documents(window.ids, self.tokenizer)
        except DataError as error:
            raise DataError(f"documents {start} and following of {self.documents}: {error}") from error

    def _skip(self, window: _Window, start: int) -> None:
        """Read on to document `start`; a pass or more of documents is not read but counted."""
        for number in range(window.end, start):
            in_pass = self.documents.in_pass
            if in_pass is not None and start - number >= in_pass:
                window.reader = None
            if window.reader is None:
                return
            next(window.reader)

    def _fill(self, window: _Window) -> None:
        missing = self._measured().window - len(window.ids)
        if missing > 0:
            if window.reader is None:
                window.reader = self.documents.read_from(window.end)
            window.ids.extend(self._encode(text) for _, text in islice(window.reader, missing))

    def _encode(self, text: str) -> NDArray[Any]:
        return np.asarray(self.tokenizer.encode(text), token_type(self.tokenizer))


def open_corpus(
    address: str | Path,
    tokenizer: Tokenizer,
    *,
    field: str = "text",
    window: int | None = None,
    seed: int = 0,
    hold_out: int = 0,
) -> tuple[Shard | TextStream, Shard | None]:
    """What an address means, a prepared shard or text files, and the documents held out of it.

    Args:
        address: the folder of a shard, or files as `TextStream` takes them.
        field, window, seed: of a `TextStream`.
        hold_out: documents for validation: the last of a shard, the first of text files.

    Returns:
        The corpus to train on (both kinds have `at(number)`) and that to validate on, or None.

    Raises:
        DataError: as `Shard.open` and `TextStream`.
    """
    if not is_remote(address) and is_shard(Path(address)):
        shard = Shard.open(Path(address), tokenizer)
        return shard.split(hold_out) if hold_out else (shard, None)
    stream = TextStream(address, tokenizer, field=field, window=window, seed=seed, hold_out=hold_out)
    return stream, stream.held_out
