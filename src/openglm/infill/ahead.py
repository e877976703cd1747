"""Requests of an iterator on their way through the engine: some ahead of the one that is waited for."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from ..engine.engine import Engine
from ..errors import OpenGLMError
from .request import Request
from .results import Filled

AHEAD = 1024  # requests with the engine


def in_order(
    engine: Engine, asked: Iterable[Request | OpenGLMError], ahead: int = AHEAD, *, returns: bool = False
) -> Iterator[Filled | OpenGLMError]:
    """What comes of requests, in order. Leaving early gives up what is not done.

    Args:
        asked: errors in it are passed on.
        ahead: requests held at most.
        returns: what goes wrong with a request stands in its place, and is not raised.
    """
    source, held = iter(asked), deque[Request | OpenGLMError]()
    try:
        while True:
            while len(held) < ahead and (new := next(source, None)) is not None:
                held.append(new)
                if isinstance(new, Request):
                    engine.submit(new.job)
            if not held:
                return
            first = held[0]
            while isinstance(first, Request) and not first.job.done:
                engine.step(first.job)
            held.popleft()
            yield _outcome(first, returns)
    finally:
        for each in held:
            if isinstance(each, Request):
                engine.cancel(each.job)


def _outcome(asked: Request | OpenGLMError, returns: bool) -> Filled | OpenGLMError:
    if not isinstance(asked, Request):
        return asked
    try:
        return asked.result()
    except OpenGLMError as error:
        if not returns:
            raise
        return error
