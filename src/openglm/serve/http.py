"""Reading bodies within limits, noticing clients that hang up, and event streams."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from .errors import HTTPError, as_http_error, bad_request, out_of_time
from .settings import Limits

log = logging.getLogger("openglm.serve")
M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")


class HungUp(Exception):
    """The client is gone; nobody reads the answer."""


def error_response(error: BaseException, shape: Callable[[HTTPError], Any] = HTTPError.body) -> JSONResponse:
    """The answer to an error, in the shape of an interface; what is not meant for clients goes to the log."""
    answer = as_http_error(error)
    if answer.status == 500:
        log.error("a request failed", exc_info=error)
    return JSONResponse(shape(answer), answer.status, headers=answer.headers)


async def read_body(request: Request, kind: type[M], limits: Limits) -> M:
    """The body, checked.

    Args:
        kind: what it should be; its validators find `limits` as their context.
        limits: of its size and of the time in which it must have arrived; not many more bytes are ever read.

    Raises:
        HTTPError: 408, 413, 415, or 400 for a body that is not what it should be.
        HungUp: the client left before it was complete.
    """
    content_type = request.headers.get("content-type", "")
    # Only JSON: a page of another origin can send other types without being asked for leave.
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise HTTPError(415, "send JSON, with Content-Type: application/json", code="unsupported_media_type")
    most, seconds = limits.body, limits.read_seconds
    too_large = HTTPError(
        413, f"a request may have at most {most} bytes", code="request_too_large", headers={"Connection": "close"}
    )
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > most:
        raise too_large

    async def arriving() -> bytes:
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > most:
                raise too_large
        return bytes(body)

    try:
        body = await asyncio.wait_for(arriving(), seconds)
    except asyncio.TimeoutError:
        message = f"the request did not arrive within {seconds:g} s"
        raise HTTPError(408, message, code="request_timeout", headers={"Connection": "close"}) from None
    except ClientDisconnect:
        raise HungUp from None
    try:
        return kind.model_validate_json(body, context=limits)
    except ValidationError as error:
        raise as_http_error(error) from None
    except RecursionError:
        raise bad_request("the body is nested too deeply", code="invalid_json") from None


async def until_hung_up(receive: Receive) -> None:
    """Wait until the client is gone; the body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def or_hung_up(work: Awaitable[T], receive: Receive, seconds: float) -> T:
    """The result of `work`, which is cancelled if it takes too long or nobody waits for it.

    Raises:
        HungUp: the client left.
        HTTPError: 504, out of time.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(until_hung_up(receive))
    try:
        await asyncio.wait({task, gone}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise HungUp if gone.done() else out_of_time(seconds)
    finally:
        for each in (task, gone):
            each.cancel()
            with suppress(BaseException):
                await each


def sse(data: Any, event: str | None = None) -> bytes:
    """One server-sent event; `data` as JSON, or a string as it is."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    return (f"event: {event}\n" if event else "").encode() + f"data: {text}\n\n".encode()


class EventStream(Response):
    """Events as they come, until they end, the client leaves or time is up.

    Args:
        events: encoded with `sse`; closed in every case.
        seconds: for the whole stream.
        failed: the last event of a stream that could not be finished.
        left: called when the client left early.
        media_type: of the events.
    """

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        *,
        seconds: float,
        failed: Callable[[HTTPError], bytes],
        left: Callable[[], None],
        media_type: str = "text/event-stream",
    ) -> None:
        self.media_type = media_type
        self._events, self._seconds, self._failed, self._left = events, seconds, failed, left
        self.status_code, self.background = 200, None
        self.init_headers({"Cache-Control": "no-store", "X-Accel-Buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        headers = self.raw_headers

        async def sending() -> None:
            await send({"type": "http.response.start", "status": self.status_code, "headers": headers})
            async with aclosing(self._events) as events:
                async for event in events:
                    await send({"type": "http.response.body", "body": event, "more_body": True})

        try:
            await or_hung_up(sending(), receive, self._seconds)
        except HungUp:
            self._left()
            return
        except Exception as error:
            answer = as_http_error(error)
            if answer.status == 500:
                log.error("a stream failed", exc_info=error)
            with suppress(asyncio.TimeoutError):  # a client that does not read gets no last word
                await asyncio.wait_for(
                    send({"type": "http.response.body", "body": self._failed(answer), "more_body": True}), 1
                )
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(send({"type": "http.response.body", "body": b""}), 1)
