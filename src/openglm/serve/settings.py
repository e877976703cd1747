"""What can be set about a server; every limit has one place and one default."""

from __future__ import annotations

import ipaddress
import math
import re
from dataclasses import dataclass

from ..errors import OptionError

HOST = r"(?!.*\.\.)[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?\.?"
ORIGIN = re.compile(rf"[a-z][a-z0-9+.-]*://({HOST}|\[[0-9A-Fa-f:.]+\])(:[0-9]{{1,5}})?")


@dataclass(frozen=True)
class Limits:
    """What one server, and one request, may take.

    Attributes:
        requests: running or waiting at once; more are refused with 429.
        scorings: requests that score, running or waiting; they are done one after the other.
        tokens: written for one request, over all its blanks, answers and beams.
        answers: of one request, and beams.
        blanks: in one text.
        choices: scored in one request, over all its texts.
        texts: in one request.
        body: bytes of a request.
        seconds: that a request may take, waiting included; then 504.
        read_seconds: in which the head of a request, and then its body, must have arrived.
        idle_seconds: after which a connection without requests is closed.
        grace: seconds that running requests get to finish on shutdown.
    """

    requests: int = 256
    scorings: int = 64
    tokens: int = 4096
    answers: int = 16
    blanks: int = 64
    choices: int = 256
    texts: int = 256
    body: int = 1 << 20
    seconds: float = 120.0
    read_seconds: float = 10.0
    idle_seconds: float = 15.0
    grace: float = 30.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            least = 0 if name == "grace" else 1e-3 if isinstance(value, float) else 1
            if not math.isfinite(value) or value < least:
                raise OptionError(f"the limit {name} must be {'at least' if least else 'not below'} {least}: {value!r}")


@dataclass(frozen=True)
class Settings:
    """A server's settings.

    Attributes:
        name: by which requests call the model.
        aliases: other names for it.
        key: bearer key that requests to /v1 and /metrics must show; None: none.
        hosts: names by which the server may be called (the Host of requests, without its port); none: any. Where
            everyone on this machine is trusted, they keep out pages that lead their own name to this machine.
        cors_origins: web pages of other origins that may call; "*" for all of them.
        limits: see `Limits`.
    """

    name: str = "default"
    aliases: tuple[str, ...] = ()
    key: str | None = None
    hosts: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        if self.key is not None and (not self.key or not self.key.isascii() or not self.key.isprintable()):
            raise OptionError("the key must be printable ASCII and not empty")
        for origin in self.cors_origins:
            if origin != "*" and not ORIGIN.fullmatch(origin):
                raise OptionError(
                    f"origin {origin!r} is none: give scheme and host as browsers send them, without a path, such as "
                    "https://example.org or http://localhost:3000, or * for all"
                )
        for host in self.hosts:
            if not is_host(host):
                raise OptionError(f"{host!r} is no name of a host; give it without scheme, port or path")


def is_host(name: str) -> bool:
    """Whether this is a host's name or address, with nothing around it."""
    try:
        ipaddress.ip_address(name.partition("%")[0])
        return True
    except ValueError:
        return re.fullmatch(HOST, name) is not None
