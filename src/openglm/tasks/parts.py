"""What a task is made of: prompt templates, fields made from others, results that others have published.

Plain data that task files come to and `Task` uses. Knows nothing about questions or models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import DataError
from .examples import Example
from .pattern import Pattern
from .verbalizer import Verbalizer, label_name


@dataclass(frozen=True)
class PromptTemplate:
    """One way to ask: a pattern, and the words for its blanks if they differ from the task's."""

    pattern: Pattern
    verbalizer: Verbalizer | None = None


@dataclass(frozen=True)
class Derived:
    """A field made from another by a table: `because` for `cause`."""

    source: str
    table: Mapping[str, str]

    def value(self, example: Example) -> str:
        """The table's entry.

        Raises:
            DataError: the field is missing, or its value not in the table.
        """
        found = label_name(example.get(self.source))
        if found not in self.table:
            raise DataError(
                f'{example.where}: {found!r} in the field "{self.source}"; expected {", ".join(self.table)}'
            )
        return self.table[found]


@dataclass(frozen=True)
class PublishedResult:
    """A published result: who, how, which metric, in percent, where it stands, and of which category."""

    system: str
    setting: str
    metric: str
    value: float
    source: str
    category: str = ""
