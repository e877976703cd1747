"""A small model behind the application: called directly, and served on a port."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
import pytest
from starlette.testclient import TestClient

from openglm.infill.infiller import Infiller
from openglm.network.model import GLMModel
from openglm.serve.app import build_app
from openglm.serve.classifying import Served
from openglm.serve.server import Server, bind
from openglm.serve.service import Service
from openglm.serve.settings import Limits, Settings
from openglm.tokenizer import BilingualTokenizer


@pytest.fixture(scope="session")
def infiller(tiny_model: GLMModel, tokenizer: BilingualTokenizer) -> Infiller:
    """For direct calls."""
    return Infiller(tiny_model, tokenizer)


@pytest.fixture(scope="session")
def settings() -> Settings:
    """The default limits, but for time."""
    return Settings(name="tiny", limits=Limits(read_seconds=0.5, idle_seconds=0.5))


@pytest.fixture(scope="session")
def client(tiny_model: GLMModel, tokenizer: BilingualTokenizer, settings: Settings) -> Iterator[TestClient]:
    """The application without a network."""
    app = build_app(Infiller(tiny_model, tokenizer), settings)
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


class Live:
    """A server on a port.

    Attributes:
        url: where it is.
        service: its inside.
    """

    def __init__(self, port: int, service: Service) -> None:
        self.port, self.url, self.service = port, f"http://127.0.0.1:{port}", service

    def settles(self) -> None:
        """Wait until nothing runs; what a request took has been given back."""
        engine = self.service.infiller.engine
        self.until(lambda: not (engine.running or engine.queued or self.service.admission.count))
        assert engine.runner.num_held == 0

    @staticmethod
    def until(true: Callable[[], bool]) -> None:
        """Wait for something that is about to happen."""
        end = time.monotonic() + 30
        while not true():
            assert time.monotonic() < end, "it did not happen"
            time.sleep(0.01)


@pytest.fixture(scope="session")
def serving(tiny_model: GLMModel, tokenizer: BilingualTokenizer) -> Callable[[Settings], object]:
    """A context manager that serves the small model, or another one, with the settings it is given."""

    @contextmanager
    def serve(settings: Settings, model: Served | None = None) -> Iterator[Live]:
        listening = bind("127.0.0.1", 0)
        app = build_app(model or Infiller(tiny_model, tokenizer), settings)
        server = Server(app)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            live = Live(listening.getsockname()[1], app.state.service)
            live.until(lambda: server.started)
            yield live
        finally:
            server.should_exit = True
            thread.join()

    return serve


@pytest.fixture(scope="session")
def live(serving: Callable[[Settings], object], settings: Settings) -> Iterator[Live]:
    """The server with the default limits."""
    with serving(settings) as live:  # type: ignore[attr-defined]
        yield live


def sse(lines: Iterator[str]) -> list[tuple[str, str]]:
    """(event, data) of a stream."""
    out, event = [], ""
    for line in lines:
        if line.startswith("event: "):
            event = line[7:]
        elif line.startswith("data: "):
            out.append((event, line[6:]))
            event = ""
    return out


def post(live: Live, path: str, body: object, **options: object) -> httpx.Response:
    """A request of its own connection."""
    return httpx.post(live.url + path, json=body, timeout=60, **options)  # type: ignore[arg-type]
