"""Values that callers give, checked: one rule and one wording for ranges, texts and names of options.

Knows nothing about what the values are for.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterable
from dataclasses import fields
from typing import Any, ParamSpec, TypeVar

from .errors import InputError, OpenGLMError, OptionError, suggest

P = ParamSpec("P")
R = TypeVar("R")


def check_number(
    name: str,
    value: object,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
    whole: bool = False,
    note: str = "",
    error: type[OpenGLMError] = OptionError,
) -> None:
    """Refuse what is no finite number of the range, with the range in the message.

    Args:
        least, above, most, below: the range; `above` and `below` are not part of it.
        whole: it is an integer. True and False are no numbers.
        note: what else to say of the range.
        error: what is raised.

    Raises:
        OptionError, or `error`.
    """
    bounds = [(least, "at least"), (above, "above"), (most, "at most"), (below, "below")]
    number = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    if (
        number
        and math.isfinite(value)  # type: ignore[arg-type]
        and (least is None or value >= least)  # type: ignore[operator]
        and (above is None or value > above)  # type: ignore[operator]
        and (most is None or value <= most)  # type: ignore[operator]
        and (below is None or value < below)  # type: ignore[operator]
    ):
        return
    wanted = " and ".join(f"{words} {bound:g}" for bound, words in bounds if bound is not None)
    kind = "an integer" if whole else "a finite number"
    raise error(f"{name} must be {wanted or kind}{f' ({note})' if note else ''}{_not(value, whole and bool(wanted))}")


def check_one_of(name: str, value: object, known: Iterable[str], *, error: type[OpenGLMError] = OptionError) -> None:
    """Refuse a value that is not one of a few words; names the nearest.

    Raises:
        OptionError, or `error`.
    """
    words = list(known)
    if value not in words:
        raise error(f"{name} must be one of {', '.join(words)}, not {value!r:.80}.{suggest(str(value), words)}")


def check_text(what: str, value: object) -> str:
    """The value, if it is Unicode text.

    Args:
        what: what to call it.

    Raises:
        InputError: bytes, None, a number, ..., or text with half of a surrogate pair.
    """
    if isinstance(value, bytes):
        raise InputError(f"{what} is bytes; decode it first, e.g. with .decode('utf-8')")
    if not isinstance(value, str):
        raise InputError(f"{what} must be text (a str), not {value!r:.80}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"{what} is not valid Unicode (lone surrogate at character {error.start}); decode it as UTF-8 first"
        ) from error
    return value


def named_options(source: type | None = None) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorator: a keyword that a function does not have is an `OptionError` that names the nearest one.

    Args:
        source: a dataclass whose fields the function takes as `**options`; `help` then shows
            each of them with its default.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = _signature(function, source)
        known = [
            name
            for name, parameter in signature.parameters.items()
            if parameter.kind is not parameter.POSITIONAL_ONLY and name != "self"
        ]

        @functools.wraps(function)
        def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            unknown = [name for name in kwargs if name not in known]
            if unknown:
                raise OptionError(
                    f"{function.__name__} has no option {unknown[0]!r}.{suggest(unknown[0], known)} "
                    f"It takes {', '.join(known)}"
                )
            return function(*args, **kwargs)

        checked.__signature__ = signature  # type: ignore[attr-defined]
        return checked

    return decorate


def _signature(function: Callable[..., Any], source: type | None) -> inspect.Signature:
    """Of a function, with the fields of `source` in place of its `**options`."""
    signature = inspect.signature(function)
    if source is None:
        return signature
    kept = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    options = [
        inspect.Parameter(each.name, inspect.Parameter.KEYWORD_ONLY, default=each.default, annotation=each.type)
        for each in fields(source)
        if each.name not in {p.name for p in kept}
    ]
    return signature.replace(parameters=[*kept, *options])


def _not(value: object, whole: bool) -> str:
    return f", not {value!r:.80}" + (" (it is an integer)" if whole and isinstance(value, float) else "")
