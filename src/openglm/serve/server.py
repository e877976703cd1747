"""Running the application: sockets, slow clients, signals.

On SIGTERM (or Ctrl-C) the server goes on answering: /ready and new requests get 503, those
that are running finish, then it ends with exit code 0. Whatever is not done after the grace
period is given up. A second signal ends it at once.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import sys
from types import FrameType
from typing import Any

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from ..errors import OptionError
from .service import Service

LAST_WORDS_SECONDS = 5  # for answers to what was given up
log = logging.getLogger("openglm.serve")


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises OptionError: the address cannot be had."""
    if not 0 <= port <= 65535:
        raise OptionError(f"port {port} does not exist; --port is 0 to 65535")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        # asyncio turns Nagle's delays off only for sockets that say they are TCP.
        listening = socket.socket(family, kind, protocol or socket.IPPROTO_TCP)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
        except OSError:
            listening.close()
            raise
        return listening
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise OptionError(f"port {port} of {host} is in use; give another --port") from error
        raise OptionError(f"cannot listen on port {port} of {host!r} ({error}); change --host or --port") from error


class Server(uvicorn.Server):
    """Serves an application made by `build_app` until it is told to stop."""

    def __init__(self, app: Starlette) -> None:
        self.service: Service = app.state.service
        limits = self.service.settings.limits

        class Protocol(_Timed):
            seconds = limits.read_seconds

        config = uvicorn.Config(
            app,
            http=Protocol,
            ws="none",
            lifespan="on",
            loop="asyncio",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=limits.idle_seconds,
            timeout_graceful_shutdown=LAST_WORDS_SECONDS,
        )
        super().__init__(config)
        self._draining: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM or SIGINT came."""
        if self._loop is None or self.service.admission.draining:
            self.should_exit = self.force_exit = True
            return
        # In a handler nothing is safe but to pass the word on.
        self.service.admission.draining = True
        self._loop.call_soon_threadsafe(self._begin_to_drain)

    def _begin_to_drain(self) -> None:
        self._draining = asyncio.create_task(self._drain())

    async def _drain(self) -> None:
        grace = self.service.settings.limits.grace
        try:
            await asyncio.wait_for(self.service.admission.emptied(), grace)
        except asyncio.TimeoutError:
            log.warning("%d requests were not done within %g s and are given up", self.service.admission.count, grace)
            await self.service.worker.stop()
        self.should_exit = True


class _Timed(H11Protocol):
    """HTTP/1.1 whose clients have so many seconds to send the head of a request."""

    seconds = 10.0

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client came."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Some bytes came."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client left."""
        super().connection_lost(exc)
        self._stop_timer()

    def _watch(self) -> None:
        waiting = self.cycle is None or self.cycle.response_complete
        if not waiting:
            self._stop_timer()
        elif self._timer is None:
            self._timer = self.loop.call_later(self.seconds, self._give_up)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._timer = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()


def run(app: Starlette, listening: socket.socket) -> int:
    """Serve until SIGTERM or SIGINT; the exit code."""
    _allow_many_connections()
    # Handlers and the engine share the interpreter; a handler that wakes up should not wait long for its turn.
    sys.setswitchinterval(0.001)
    server = Server(app)
    server.run(sockets=[listening])
    server.service.worker.abandon()  # after a second signal something may still be running
    return 0 if server.started else 1


def _allow_many_connections() -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
