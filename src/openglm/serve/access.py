"""What every request passes: the key, security headers, and the count of answers."""

from __future__ import annotations

import hmac
import time

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import HTTPError
from .http import error_response
from .metrics import Metrics

# Nothing but what this server sends itself; no scripts or styles inside the pages.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def is_private(path: str) -> bool:
    """Whether a path wants the key."""
    return path in ("/metrics", "/infill", "/v1", "/api") or path.startswith(("/v1/", "/api/"))


class AccessControl:
    """An ASGI middleware.

    Args:
        key: that requests must show where `is_private`, if any.
        routes: paths by which answers are counted; others count as one.
        hosts: names by which the server may be called; none: any.
    """

    def __init__(
        self, app: ASGIApp, *, key: str | None, hosts: tuple[str, ...], metrics: Metrics, routes: frozenset[str]
    ) -> None:
        self._app, self._metrics, self._routes = app, metrics, routes
        self._hosts = frozenset(host.lower() for host in hosts)
        self._key = None if key is None else key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path, began, status = scope["path"], time.monotonic(), 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            if self._hosts and self._host(scope) not in self._hosts:
                message = "this server is not called by that name; --allowed-host adds one"
                await error_response(HTTPError(421, message, code="unknown_host"))(scope, receive, sending)
            elif is_private(path) and not self._shows_key(scope):
                refusal = HTTPError(
                    401,
                    "a key is needed: send it as Authorization: Bearer KEY",
                    code="invalid_api_key",
                    headers={"WWW-Authenticate": "Bearer"},
                )
                await error_response(refusal)(scope, receive, sending)
            else:
                await self._app(scope, receive, sending)
        finally:
            route = self._route(path)
            self._metrics.requests.labels(route, str(status or "hung up")).inc()
            self._metrics.seconds.labels(route).observe(time.monotonic() - began)

    @staticmethod
    def _host(scope: Scope) -> str:
        given = next((value.decode("latin-1").lower() for name, value in scope["headers"] if name == b"host"), "")
        return given[1:].partition("]")[0] if given.startswith("[") else given.partition(":")[0]

    def _route(self, path: str) -> str:
        if path in self._routes:
            return path
        return "/v1/models/{model}" if path.startswith("/v1/models/") else "other"

    def _shows_key(self, scope: Scope) -> bool:
        if self._key is None:
            return True
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        if len(given) != 1:
            return False
        scheme, _, key = given[0].partition(b" ")
        return scheme.lower() == b"bearer" and hmac.compare_digest(key.strip(b" "), self._key)
