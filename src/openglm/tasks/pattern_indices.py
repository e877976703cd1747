"""Which of a task's patterns ask: a number, several numbers, or all of them.

    0        0,2,3        all        [0, 2, 3]

A choice is checked in two steps: that it is one at all, before anything is read (`parse_indices`), and
that the task has such patterns (`resolve_indices`). Knows nothing about tasks but how many patterns
they have.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from ..errors import OptionError

ALL = "all"
PatternIndices: TypeAlias = int | Sequence[int] | str  # as given; what `parse_indices` makes of it is int, tuple or ALL


def parse_indices(value: object) -> int | tuple[int, ...] | str:
    """A choice in its plainest form, so that equal choices are equal.

    Args:
        value: a number, numbers, or text: "2", "0,2,3" or "all".

    Returns:
        One number as such, several in ascending order, or `ALL`.

    Raises:
        OptionError: no number, something that is none, or a number that comes twice.
    """
    if isinstance(value, str):
        if value.strip() == ALL:
            return ALL
        parts: list[object] = [int(part) if part.strip().isdecimal() else part for part in value.split(",")]
    else:
        parts = list(value) if isinstance(value, (list, tuple)) else [value]
    numbers = [part for part in parts if isinstance(part, int) and not isinstance(part, bool)]
    if not parts or len(numbers) < len(parts):
        raise OptionError(f"pattern {value!r}: give the number of a pattern, several such as 0,2,3, or all")
    twice = next((number for number in numbers if numbers.count(number) > 1), None)
    if twice is not None:
        raise OptionError(f"pattern {value!r} names {twice} twice; every pattern counts once")
    return numbers[0] if len(numbers) == 1 else tuple(sorted(numbers))


def resolve_indices(chosen: PatternIndices, count: int, name: str) -> tuple[int, ...]:
    """The numbers that a choice comes to, ascending.

    Args:
        count: patterns of the task.
        name: of the task, for messages.

    Raises:
        OptionError: as `parse_indices`, or a number that the task does not have.
    """
    plain = parse_indices(chosen)
    if isinstance(plain, str):
        return tuple(range(count))
    found = (plain,) if isinstance(plain, int) else plain
    for number in found:
        if not 0 <= number < count:
            has = f"{count} patterns, 0 to {count - 1}" if count > 1 else "one pattern, 0"
            raise OptionError(f"{name} has {has}; there is no pattern {number}")
    return found


def as_plain(chosen: PatternIndices) -> int | list[int] | str:
    """A choice for YAML and JSON."""
    found = parse_indices(chosen)
    return list(found) if isinstance(found, tuple) else found
