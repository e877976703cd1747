"""Records in, results out: texts of a file filled or ranked, a bad one without harm to the others.

Results come in the order of the records and as soon as they are ready. Knows nothing about
files or how results are written down.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from ..blanks import BlankedText
from ..data.records import Record
from ..errors import OpenGLMError, OptionError
from .infiller import Infiller
from .results import Filled, Scored

AT_ONCE = 64  # texts ranked together

Choices = Sequence[str | Sequence[str]]


def fill_records(
    infiller: Infiller, records: Iterable[Record], field: str, options: dict[str, Any]
) -> Iterator[tuple[Record, Filled | None]]:
    """Every record with its text filled; None for empty ones and those with an error, which is noted in them."""
    waiting: deque[Record] = deque()

    def texts() -> Iterator[str]:
        for record in records:
            waiting.append(record)
            if _usable(record):
                yield record.values[field]

    for result in infiller.fill_iter(texts(), on_error="return", **options):
        while not _usable(waiting[0]):
            yield waiting.popleft(), None
        record = waiting.popleft()
        if isinstance(result, OpenGLMError):
            record.error = str(result)
        yield record, None if isinstance(result, OpenGLMError) else result
    yield from ((record, None) for record in waiting)


def _usable(record: Record) -> bool:
    return record.error is None and not record.empty


def rank_records(
    infiller: Infiller,
    records: Iterable[Record],
    field: str,
    choices: Choices,
    options: dict[str, Any],
    *,
    of_one_blank: Choices | None = None,
) -> Iterator[tuple[Record, list[Scored] | None]]:
    """Every record with the ranking of the answers; None for empty ones and those with an error.

    Args:
        of_one_blank: other choices for texts with one blank.
    """
    source = iter(records)
    while chunk := list(islice(source, AT_ONCE)):
        found: dict[int, list[Scored] | None] = {}
        good = [record for record in chunk if _usable(record)]
        single = [record for record in good if len(BlankedText.parse(record.values[field]).kinds) == 1]
        others = [record for record in good if not any(record is each for each in single)]
        for part, asked in ((single, of_one_blank or choices), (others, choices)):
            found.update(zip(map(id, part), _ranked(infiller, part, field, asked, options), strict=True))
        yield from ((record, found.get(id(record))) for record in chunk)


def _ranked(
    infiller: Infiller, records: Sequence[Record], field: str, choices: Choices, options: dict[str, Any]
) -> list[list[Scored] | None]:
    """Rankings of records together; where one of them is wrong, of each by itself."""
    if not records:
        return []
    try:
        return list(infiller.choose([record.values[field] for record in records], choices, **options))
    except OptionError:
        raise
    except OpenGLMError as error:
        if len(records) == 1:
            records[0].error = str(error)
            return [None]
    return [each for record in records for each in _ranked(infiller, [record], field, choices, options)]
