"""Errors as HTTP answers, in the shape the OpenAI clients read.

    {"error": {"message": ..., "type": ..., "param": ..., "code": ...}}

Messages of `OpenGLMError` name the input and the remedy and go out as they are; of any
other error nothing goes out but that there was one.
"""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from ..errors import ContextLengthError, OpenGLMError, OptionError, UnsupportedBlankError

LONGEST_MESSAGE, LONGEST_PARAM = 300, 60  # characters: a client knows what it sent


def shortened(text: str, most: int = LONGEST_MESSAGE) -> str:
    """A text without its middle, if it is long."""
    return text if len(text) <= most else f"{text[: most // 2]} ... {text[-(most // 2) + 5 :]}"


class HTTPError(Exception):
    """An answer that is not what was asked for.

    Attributes:
        status: HTTP status.
        message, kind, param, code: the fields of the body.
        headers: to send along.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.kind, self.code = status, kind, code
        self.message, self.param = shortened(message), None if param is None else shortened(param, LONGEST_PARAM)
        self.headers = headers or {}

    def body(self) -> dict[str, Any]:
        """What is sent."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


class Stopped(Exception):
    """The server was stopped before this was done."""


def bad_request(message: str, param: str | None = None, code: str | None = None) -> HTTPError:
    """400: what was asked cannot be done as it stands."""
    return HTTPError(400, message, param=param, code=code)


def refused(param: str, message: str, code: str = "invalid_parameter") -> PydanticCustomError:
    """What a validator raises: the answer will be a 400 with this parameter, message and code."""
    return PydanticCustomError("refused", "{message}", {"param": param, "message": message, "code": code})


def busy(retry_after: int) -> HTTPError:
    """429: as many requests as the server takes are running or waiting."""
    message = f"the server is at its limit of requests; try again in {retry_after} s"
    return HTTPError(
        429, message, kind="rate_limit_error", code="server_busy", headers={"Retry-After": str(retry_after)}
    )


def closing() -> HTTPError:
    """503: the server is about to stop."""
    return HTTPError(
        503,
        "the server is shutting down",
        kind="server_error",
        code="shutting_down",
        headers={"Retry-After": "5", "Connection": "close"},
    )


def out_of_time(seconds: float) -> HTTPError:
    """504: the request took longer than the server allows."""
    message = f"not done within the {seconds:g} s a request may take; ask for fewer tokens"
    return HTTPError(504, message, kind="server_error", code="timeout")


def as_http_error(error: BaseException) -> HTTPError:
    """The answer to an error."""
    if isinstance(error, HTTPError):
        return error
    if isinstance(error, Stopped):
        return closing()
    if isinstance(error, ValidationError):
        return _invalid(error)
    if isinstance(error, ContextLengthError):
        return bad_request(str(error), code="context_length_exceeded")
    if isinstance(error, UnsupportedBlankError):
        return bad_request(str(error), code="unsupported_blank")
    if isinstance(error, OptionError):
        return bad_request(str(error), code="invalid_option")
    if isinstance(error, OpenGLMError):
        return bad_request(str(error), code="invalid_input")
    return HTTPError(500, "internal error; the server's log has the details", kind="server_error", code="internal")


def _invalid(error: ValidationError) -> HTTPError:
    first = error.errors(include_url=False, include_input=False)[0]
    if first["type"] == "refused":
        context = first["ctx"]
        return bad_request(context["message"], context["param"], context["code"])
    if first["type"] == "json_invalid":
        return bad_request(f"the body is not JSON: {first['msg'].removeprefix('Invalid JSON: ')}", code="invalid_json")
    names = [str(part) for part in first["loc"]]
    param = names[0] if names else None
    where = ".".join(names)
    if first["type"] == "extra_forbidden":
        return bad_request(f"unknown parameter {where}", param, "unknown_parameter")
    return bad_request(f"{where}: {first['msg']}" if where else first["msg"], param, "invalid_parameter")
