"""The documents of text files as one endless sequence, pass after pass.

    files -> shuffled by pass -> one document of each in turn -> document 0, 1, 2, ...

Which document has which number depends on the files, the seed and what is held out alone.
Knows nothing about tokens or windows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import islice, repeat

import numpy as np

from ..errors import DataError
from .corpus import documents, in_turn


class DocumentSequence:
    """The files over and over, in every pass in another order, one document of each in turn.

    Args:
        files: their addresses, in a fixed order.
        field: of JSON Lines and Parquet files.
        seed: of the order of files.
        hold_out: how many documents, the first of the first pass, never come up.

    Attributes:
        in_pass: documents of a pass, once one has been read to its end; None until then.
    """

    def __init__(self, files: Sequence[str], *, field: str, seed: int, hold_out: int) -> None:
        self.files, self.field, self.seed, self.hold_out = files, field, seed, hold_out
        self.in_pass: int | None = None

    def read_from(self, number: int) -> Iterator[tuple[int, str]]:
        """(pass, document) from document `number` on, without end.

        Raises:
            DataError: no documents, or files that have changed since an earlier pass.
        """
        current, to_skip = 0, number
        while True:
            if self.in_pass is not None:
                current, to_skip = current + to_skip // self.in_pass, to_skip % self.in_pass
            count = 0
            for text in self._pass(current):
                count += 1
                if to_skip:
                    to_skip -= 1
                else:
                    yield current, text
            self._note_length(count)
            current += 1

    def held_out(self) -> Iterator[str]:
        """The documents that never come up.

        Raises:
            DataError: there are not more documents than these.
        """
        if sum(self._held_of_file.values()):
            yield from (text for _, text in islice(self._first_pass(), self.hold_out))

    def __str__(self) -> str:
        more = f" and {len(self.files) - 3} more files" if len(self.files) > 3 else ""
        return ", ".join(self.files[:3]) + more

    def _note_length(self, count: int) -> None:
        if not count:
            raise DataError(f"no documents in {self}")
        if self.in_pass not in (None, count):
            raise DataError(
                f"{self}: {count} documents where an earlier pass found {self.in_pass}; "
                "the files must stay as they are while they are read"
            )
        self.in_pass = count

    def _pass(self, number: int) -> Iterator[str]:
        held = self._held_of_file
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

    @cached_property
    def _held_of_file(self) -> Counter[str]:
        """How many documents of each file are held out: always its first ones."""
        first = self._first_pass()
        held = Counter(file for file, _ in islice(first, self.hold_out))
        if self.hold_out and next(first, None) is None:
            raise DataError(f"{self}: {held.total()} documents in all, too few to hold out {self.hold_out} of them")
        return held
