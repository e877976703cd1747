"""Training straight from text files: a window of documents that moves along as batches are drawn.

    files -> shuffled by pass -> one document of each in turn -> tokenised -> window (a `Shard`)

Batch `number` is drawn from the window `TextStream.at(number)`, which depends on the files,
the seed and the number alone. A resumed run therefore sees what one that never stopped
sees; documents that are over by then are read past without being tokenised.

Knows nothing about how samples are made of a window.
"""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, OptionError
from ..tokenizer import Tokenizer
from .addresses import expand, is_remote
from .corpus import documents, in_turn
from .shards import Shard, is_shard
from .tokenise import token_type

WINDOW_DOCUMENTS = 20_000
WINDOW_TOKENS = 4_000_000
WINDOW_BATCHES = 16  # a window holds at least so many batches
MOVES = 64  # moves in which a window is replaced by the next


class TextStream:
    """A corpus in text files as windows of tokenised documents.

    The documents are an endless sequence: the files over and over, in every pass in another
    order drawn from `seed`, one document of each in turn (`corpus.interleaved`). The window of a
    batch is a run of them. It moves on by as many documents as a batch draws tokens for, so
    a document stays in it until about as many tokens have been drawn as it brought. A corpus
    no larger than the window is held whole, and nothing moves.

    Within a window documents are drawn at random, so the window is what shuffles the corpus
    beyond the mixing of files. 20,000 documents or 4 million tokens, whichever is reached
    first, is a hundred batches and more of usual sizes, so that neighbours in a file seldom
    meet in a batch; it is tokenised in seconds when a run starts, and takes about 10 MB. At
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
        self.files = expand(addresses)
        self.tokenizer, self.field, self.seed, self.hold_out = tokenizer, field, seed, hold_out
        self._asked_window = window
        self._tokens_per_batch: float | None = None
        self._held_of_file: Counter[str] | None = None  # documents held out at the start of each file
        self._in_pass: int | None = None  # documents of a pass, once one has been read
        self._forget_measures()

    def configure(self, tokens_per_batch: float) -> None:
        """Say how many tokens a batch draws from this stream; sets how fast the window moves.

        Raises:
            OptionError: not a positive number.
        """
        if not tokens_per_batch > 0:
            raise OptionError(f"a batch must draw tokens from the stream, not {tokens_per_batch}")
        if tokens_per_batch != self._tokens_per_batch:
            self._tokens_per_batch = tokens_per_batch
            self._forget_measures()

    @property
    def window(self) -> int:
        """Documents of a window."""
        self._measure()
        return self._window

    @property
    def advance(self) -> float:
        """Documents by which the window moves per batch; 0 if it holds the whole corpus.

        Limited by the window, so that no document is passed over.

        Raises:
            OptionError: the size of batches is not known (`configure`).
        """
        self._measure()
        if self._whole:
            return 0.0
        if self._tokens_per_batch is None:
            raise OptionError("the stream does not know how many tokens a batch draws: call configure() first")
        return min(self._tokens_per_batch / self._mean_length, float(self._window - self._step + 1))

    @cached_property
    def held_out(self) -> Shard | None:
        """The documents kept for validation; None if none are.

        Raises:
            DataError: the corpus has no more documents than are to be held out, or they hold no tokens.
        """
        if not self.hold_out:
            return None
        self._count_held()
        texts = islice(self._first_pass(), self.hold_out)
        return Shard.from_documents([self._encode(text) for _, text in texts], self.tokenizer)

    def at(self, number: int) -> Shard:
        """The window that batch `number` is drawn from, in memory.

        It starts at document `number * advance` of the endless sequence, rounded down to a
        multiple of 1/64 of the window: it moves seldom, and then by some way. Going forward
        costs the new documents only; going back starts from the beginning of a pass.

        Raises:
            DataError: the files cannot be read, hold no documents, or are not what they were.
            OptionError: `configure` has not been called (number 0 does without).
        """
        self._measure()
        start = self.first_document(number)
        if self._shard is None or start != self._first:
            self._move(start)
        assert self._shard is not None
        return self._shard

    def first_document(self, number: int) -> int:
        """Where in the endless sequence the window of batch `number` starts."""
        self._measure()
        if number == 0 or self._whole:
            return 0
        return int(number * self.advance) // self._step * self._step

    @property
    def _step(self) -> int:
        """The window moves by multiples of this many documents, so that it seldom needs to be put together."""
        return max(1, self._window // MOVES)

    # --- the window ------------------------------------------------------------------

    def _forget_measures(self) -> None:
        self._window = 0  # 0: not measured yet
        self._mean_length = 0.0
        self._whole = False
        self._forget_window()

    def _forget_window(self) -> None:
        self._first = 0
        self._ids: deque[NDArray[Any]] = deque()
        self._reader: Iterator[tuple[int, str]] | None = None
        self._shard: Shard | None = None
        self._process = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the window and the open files; measures are kept."""
        gone = dict.fromkeys(("_ids", "_reader", "_shard"))
        return {name: value for name, value in self.__dict__.items() if name not in gone}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget_window()

    def _measure(self) -> None:
        """Size of the window, and mean length of its documents, from the first window."""
        if self._window:
            return
        self._forget_window()
        enough = WINDOW_BATCHES * (self._tokens_per_batch or 0)
        reader, tokens, following = self._read_from(0), 0, None
        for pass_number, text in reader:
            if pass_number or self._full(len(self._ids), tokens, enough):
                following = pass_number, text
                break
            self._ids.append(self._encode(text))
            tokens += len(self._ids[-1])
        assert following is not None
        if not tokens:
            raise DataError(f"no tokens in the first {len(self._ids)} documents of {self._named()}")
        self._whole = following[0] > 0
        self._reader = None if self._whole else chain([following], reader)
        self._mean_length = tokens / len(self._ids)
        self._window = len(self._ids)

    def _full(self, count: int, tokens: int, enough: float) -> bool:
        if self._asked_window is not None:
            return count >= self._asked_window
        return tokens >= enough and (count >= WINDOW_DOCUMENTS or tokens >= WINDOW_TOKENS)

    def _move(self, start: int) -> None:
        if self._process != os.getpid():  # files opened before a fork are shared with the parent
            self._reader, self._process = None, os.getpid()
        if start < self._first:
            self._forget_window()
        ahead = self._first + len(self._ids)  # the next document of the reader
        if start < ahead:
            for _ in range(start - self._first):
                self._ids.popleft()
        else:
            self._ids.clear()
            self._skip(ahead, start)
            ahead = start
        self._first, self._shard = start, None
        if len(self._ids) < self._window:
            self._reader = self._reader or self._read_from(ahead)
            self._ids.extend(self._encode(text) for _, text in islice(self._reader, self._window - len(self._ids)))
        try:
            self._shard = Shard.from_documents(self._ids, self.tokenizer)
        except DataError as error:
            raise DataError(f"documents {start} and following of {self._named()}: {error}") from error

    def _skip(self, ahead: int, start: int) -> None:
        """Read on from document `ahead` to `start`; a pass or more of them is not read but counted."""
        while ahead < start and self._reader is not None:
            if self._in_pass is not None and start - ahead >= self._in_pass:
                self._reader = None
            else:
                next(self._reader)
                ahead += 1

    def _encode(self, text: str) -> NDArray[Any]:
        return np.asarray(self.tokenizer.encode(text), token_type(self.tokenizer))

    # --- the endless sequence of documents -----------------------------------------------

    def _read_from(self, index: int) -> Iterator[tuple[int, str]]:
        """Documents of the endless sequence from `index` on, with the number of their pass."""
        number = 0
        while True:
            if self._in_pass is not None:
                number, index = number + index // self._in_pass, index % self._in_pass
            count = 0
            for text in self._pass(number):
                count += 1
                if index:
                    index -= 1
                else:
                    yield number, text
            if not count:
                raise DataError(f"no documents in {self._named()}")
            if self._in_pass not in (None, count):
                raise DataError(
                    f"{self._named()}: {count} documents where an earlier pass found {self._in_pass}; "
                    "the files must stay as they are while they are read"
                )
            self._in_pass = count
            number += 1

    def _pass(self, number: int) -> Iterator[str]:
        held = self._count_held()
        if number == 0:
            return (text for _, text in islice(self._first_pass(), self.hold_out, None))
        files = self._order(number)
        return in_turn(islice(documents(file, field=self.field), held[file], None) for file in files)

    def _first_pass(self) -> Iterator[tuple[str, str]]:
        """File and text of all documents of the first pass, those held out too."""
        return in_turn(zip(repeat(file), documents(file, field=self.field)) for file in self._order(0))

    def _order(self, number: int) -> list[str]:
        order = np.random.default_rng([self.seed, number]).permutation(len(self.files))
        return [self.files[i] for i in order]

    def _count_held(self) -> Counter[str]:
        """How many documents at the start of each file are held out: always its first ones."""
        if self._held_of_file is None:
            first = self._first_pass()
            held = Counter(file for file, _ in islice(first, self.hold_out))
            if self.hold_out and next(first, None) is None:
                raise DataError(
                    f"{self._named()}: {held.total()} documents in all, too few to hold out {self.hold_out} of them"
                )
            self._held_of_file = held
        return self._held_of_file

    def _named(self) -> str:
        more = f" and {len(self.files) - 3} more files" if len(self.files) > 3 else ""
        return ", ".join(self.files[:3]) + more


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
