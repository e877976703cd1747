"""What /metrics tells Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """Counters of one server, in a registry of their own.

    Attributes:
        requests: answered, by route and status.
        seconds: until the last byte of an answer, by route.
        first_piece: seconds until a stream has its first piece, by route.
        prompt_tokens, written_tokens: read and written.
        hung_up: clients that left before their answer.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("openglm_requests", "Requests answered", ["route", "status"], registry=self.registry)
        self.seconds = Histogram(
            "openglm_request_seconds", "Time to the end of the answer", ["route"],
            buckets=SECONDS, registry=self.registry,
        )  # fmt: skip
        self.first_piece = Histogram(
            "openglm_first_piece_seconds", "Time to the first piece of a stream", ["route"],
            buckets=SECONDS, registry=self.registry,
        )  # fmt: skip
        self.prompt_tokens = Counter("openglm_prompt_tokens", "Tokens read", registry=self.registry)
        self.written_tokens = Counter("openglm_written_tokens", "Tokens written", registry=self.registry)
        self.hung_up = Counter("openglm_hung_up", "Clients that left early", registry=self.registry)

    def watch(self, name: str, text: str, read: Callable[[], float]) -> None:
        """A gauge that is read when somebody asks."""
        Gauge(name, text, registry=self.registry).set_function(read)

    def render(self) -> tuple[bytes, str]:
        """The text for Prometheus, and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST
