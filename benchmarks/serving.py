"""A server under load: many clients at once, a rush, clients that misbehave.

    python benchmarks/serving.py [--model NAME] [--threads 2] [--clients 64] [--rush 1000]

Starts `openglm serve` as a process of its own and talks to it over real connections. Clients run
in this process, on the same cores: a small HTTP client without a library keeps their share low.
The ceiling beside the figures is the same texts filled by one call in this process, without HTTP.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

TEXTS = [
    "The [MASK] of the United States lives in the White House.",
    "The film was released in [MASK] and directed by [MASK].",
    "北京故宫是中国[MASK]文化遗产。",
    "该车站位于[MASK]，于[MASK]启用。",
    "In {year} the company moved to [MASK], where it built a new [MASK].",
    "He was born in {year} in [MASK] and became a [MASK].",
    "{year}年，他前往[MASK]，成为一名[MASK]。",
]
OPTIONS: dict[str, Any] = {"max_new_tokens": 16}
Answer = tuple[int, Any, float]  # status (0: none came), body, seconds


def bodies(count: int) -> list[dict[str, Any]]:
    """Requests of different texts; every third one is sampled."""
    rng, out = random.Random(1), []
    for number in range(count):
        text = TEXTS[number % len(TEXTS)].replace("{year}", str(rng.randrange(1800, 2020)))
        sampled = {"temperature": 0.8, "seed": number} if number % 3 == 2 else {}
        out.append({"text": text, **OPTIONS, **sampled})
    return out


def head(length: int) -> bytes:
    """The head of a request."""
    lines = ("POST /v1/fill HTTP/1.1", "Host: localhost", "Content-Type: application/json", f"Content-Length: {length}")
    return "\r\n".join([*lines, "", ""]).encode()


class Connection:
    """A client that keeps its connection."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, body: Any) -> Answer:
        """One request."""
        content = json.dumps(body).encode()
        began = time.perf_counter()
        try:
            if self._streams is None:
                self._streams = await asyncio.open_connection("127.0.0.1", self._port)
            reader, writer = self._streams
            writer.write(head(len(content)) + content)
            received = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            length = re.search(r"content-length: (\d+)", received)
            assert length is not None
            answer = json.loads(await reader.readexactly(int(length[1])))
            return int(received.split()[1]), answer, time.perf_counter() - began
        except (OSError, asyncio.IncompleteReadError):
            self.close()
            return 0, None, time.perf_counter() - began

    def close(self) -> None:
        """Hang up."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def load(port: int, requests: list[dict[str, Any]], clients: int) -> tuple[list[Answer], float]:
    """All requests, by so many clients; the answers in order, and the seconds."""
    answers: list[Any] = [None] * len(requests)
    waiting = iter(range(len(requests)))

    async def client() -> None:
        connection = Connection(port)
        for number in waiting:
            answers[number] = await connection.post(requests[number])
        connection.close()

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return answers, time.perf_counter() - began


async def hang_up(port: int, clients: int) -> None:
    """Clients that leave while their text is being written."""
    body = {"text": "[MASK]" * 30, "max_new_tokens": 100, "min_new_tokens": 100}

    async def client() -> None:
        connection = Connection(port)
        try:
            await asyncio.wait_for(connection.post(body), random.uniform(0.05, 1.0))
        except asyncio.TimeoutError:
            connection.close()

    await asyncio.gather(*(client() for _ in range(clients)))


async def misbehave(port: int) -> Counter[str]:
    """10 MB bodies, half requests, JSON that is none."""
    starts = Counter[str]()

    async def send(content: bytes, length: int, wait: bool = True) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(head(length) + content)
            if wait:
                starts[(await reader.read(64)).decode("latin-1")[9:12] or "closed"] += 1
        except OSError:
            starts["closed"] += 1
        writer.close()

    await asyncio.gather(*(send(b"x" * 10_000_000, 10_000_000) for _ in range(8)))
    await asyncio.gather(*(send(b"{" * 100, 100) for _ in range(100)), *(send(b"{", 100, False) for _ in range(100)))
    return starts


def memory_mib(pid: int) -> float:
    """Resident memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+)", status)
    return int(found[1]) / 1024 if found else float("nan")


def shown(name: str, answers: list[Answer], seconds: float) -> float:
    """Print a row; requests per second."""
    times = sorted(1000 * taken for _, _, taken in answers)
    tokens = sum(body["usage"]["completion_tokens"] for status, body, _ in answers if status == 200)
    p50, p95 = statistics.median(times), times[int(0.95 * (len(times) - 1))]
    rate = len(answers) / seconds
    print(f"{name:32} {rate:8.1f} requests/s {tokens / seconds:8.0f} tokens/s   p50 {p50:7.1f} ms   p95 {p95:7.1f} ms")
    return rate


def same(answer: Any, direct: Any) -> bool:
    return bool(
        answer["text"] == direct.text
        and [b["token_ids"] for b in answer["blanks"]] == [b.token_ids for b in direct.blanks]
    )


def measure(args: argparse.Namespace, port: int, pid: int) -> None:
    import torch

    import openglm

    torch.set_num_threads(args.threads)
    requests = bodies(args.requests)
    asyncio.run(load(port, requests[:8], 2))  # warm
    alone, seconds = asyncio.run(load(port, requests[: max(16, args.requests // 8)], 1))
    one = shown("one client", alone, seconds)
    together, seconds = asyncio.run(load(port, requests, args.clients))
    many = shown(f"{args.clients} clients", together, seconds)
    print(f"{'':32} {many / one:8.1f} times one client")

    model = openglm.load(args.model)
    plain = [body["text"] for body in requests if "seed" not in body]
    model.fill(plain[:8], **OPTIONS)
    began = time.perf_counter()
    model.fill(plain, **OPTIONS)
    print(f"{'one call, no HTTP':32} {len(plain) / (time.perf_counter() - began):8.1f} texts/s (the ceiling)")
    differ = 0
    for body, (status, answer, _) in list(zip(requests, together, strict=True))[: args.compared]:
        options = dict(body)
        differ += status != 200 or not same(answer, model.fill(options.pop("text"), **options))
    print(f"{'equal to direct calls':32} {args.compared - differ:8} of {args.compared}")

    before = memory_mib(pid)
    rushed, seconds = asyncio.run(load(port, bodies(args.rush), args.rush))
    counts = Counter(status for status, _, _ in rushed)
    shown(f"{args.rush} clients at once", [a for a in rushed if a[0] == 200], seconds)
    print(f"{'':32} answers by status: {dict(counts)}; refused by the connection: {counts[0]}")
    asyncio.run(hang_up(port, args.hang_up))
    level = memory_mib(pid)  # the pages for keys and values that so many texts need are kept for the next ones
    asyncio.run(hang_up(port, args.hang_up))
    odd = asyncio.run(misbehave(port))
    print(f"{'10 MB, half and wrong bodies':32} answers by status: {dict(odd)}")
    began = time.perf_counter()
    [(status, _, _)], _ = asyncio.run(load(port, requests[:1], 1))
    took = time.perf_counter() - began
    print(f"{f'after {2 * args.hang_up} hang-ups':32} the next request: {status} in {1000 * took:.0f} ms")
    print(
        f"{'memory of the server':32} {before:8.0f} MiB before the rush, "
        f"{level:.0f} MiB after {args.hang_up} hang-ups, {memory_mib(pid):.0f} MiB after the rest"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="default")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--requests", type=int, default=512)
    parser.add_argument("--compared", type=int, default=64, help="answers compared with direct calls")
    parser.add_argument("--rush", type=int, default=1000)
    parser.add_argument("--hang-up", type=int, default=200)
    args = parser.parse_args()
    command = [sys.executable, "-m", "openglm", "serve", "--model", args.model, "--port", "0"]
    command += ["--threads", str(args.threads), "--max-tokens", "8192"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        found = re.search(r"http://\S+:(\d+)", server.stderr.readline())
        assert found is not None, server.stderr.read()
        measure(args, int(found[1]), server.pid)
    finally:
        server.send_signal(signal.SIGTERM)
        _, errors = server.communicate(timeout=60)
    print(f"{'after SIGTERM':32} exit code {server.returncode}{', ' + errors.strip() if errors.strip() else ''}")


if __name__ == "__main__":
    main()
