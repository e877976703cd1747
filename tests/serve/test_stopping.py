"""Ending a server: in time, whatever runs, with named errors for what is given up."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import httpx
import pytest

from openglm.infill.infiller import Infiller
from openglm.network.model import GLMModel
from openglm.serve.app import build_app
from openglm.serve.server import Server, bind
from openglm.serve.settings import Limits, Settings
from openglm.tokenizer import BilingualTokenizer

CHOOSE = {"text": "the [MASK] bridge", "choices": ["old", "wooden"]}
FILL = {"text": "[MASK]" * 20, "max_new_tokens": 60, "min_new_tokens": 60}


class Endless(Infiller):
    """Its choices take for ever, in passes of the model like any others."""

    def choose(self, *arguments: Any, **options: Any) -> Any:
        """Again and again."""
        while True:
            super().choose(*arguments, **options)


@pytest.fixture
def endless(tiny_model: GLMModel, tokenizer: BilingualTokenizer) -> Iterator[tuple[Server, str, threading.Thread]]:
    """A server that runs in a thread, with half a second of grace."""
    listening = bind("127.0.0.1", 0)
    server = Server(build_app(Endless(tiny_model, tokenizer), Settings(limits=Limits(grace=0.5))))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield server, f"http://127.0.0.1:{listening.getsockname()[1]}", thread
    server.should_exit = True
    thread.join(20)


def wait(true: Callable[[], Any]) -> None:
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_what_is_not_done_is_given_up_by_name(endless: tuple[Server, str, threading.Thread]) -> None:
    """A choice that never ends, those that wait behind it, fills and streams: each is told why."""
    server, url, thread = endless
    requests = [("choose", CHOOSE)] * 3 + [("fill", FILL)] * 8 + [("fill", {**FILL, "stream": True})]
    requests += [("completions", {"prompt": "the", "max_tokens": 60, "stream": True, "n": 8})]
    with ThreadPoolExecutor(len(requests)) as pool:
        answers = [pool.submit(httpx.post, f"{url}/v1/{path}", json=body, timeout=30) for path, body in requests]
        wait(lambda: server.service.admission.count == len(requests))
        began = time.monotonic()
        server._loop.call_soon_threadsafe(server.handle_exit, signal.SIGTERM, None)  # type: ignore[union-attr]
        for answer in answers:
            found = answer.result()
            if found.status_code == 200:  # a stream that had begun, or one that was done in time
                assert found.headers["content-type"].startswith(("text/event-stream", "application/json"))
                continue
            assert found.status_code == 503
            assert found.json()["error"]["code"] == "shutting_down"
    assert [answer.result().status_code for answer in answers[:3]] == [503] * 3
    thread.join(10)
    assert not thread.is_alive()
    assert time.monotonic() - began < 0.5 + 6
    assert not server.service.worker.alive


def test_choices_nobody_waits_for_are_stopped(endless: tuple[Server, str, threading.Thread]) -> None:
    server, url, _ = endless
    with pytest.raises(httpx.TimeoutException):
        httpx.post(f"{url}/v1/choose", json=CHOOSE, timeout=0.5)
    lanes = server.service.worker._lanes
    wait(lambda: all(lane.thread is None for lane in lanes))
    scored = httpx.post(f"{url}/v1/score", json={"text": "the [MASK] bridge", "fills": "old"}, timeout=20)
    assert scored.status_code == 200


def test_short_scorings_do_not_wait_for_long_ones(endless: tuple[Server, str, threading.Thread]) -> None:
    server, url, _ = endless
    long = {**CHOOSE, "choices": ["old river " * 5] * 200}

    def rank() -> None:
        with suppress(httpx.TimeoutException):
            httpx.post(f"{url}/v1/choose", json=long, timeout=2)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(rank)
        wait(lambda: any(lane.thread is not None for lane in server.service.worker._lanes))
        scored = httpx.post(f"{url}/v1/score", json={"text": "the [MASK] bridge", "fills": "old"}, timeout=2)
        assert scored.status_code == 200


@pytest.mark.slow
@pytest.mark.parametrize("signals", [1, 2])
def test_a_process_ends_while_it_ranks(signals: int) -> None:
    """The whole command, with many long choices: within its grace, or at once after a second signal."""
    command = [sys.executable, "-m", "openglm", "serve", "--port", "0", "--grace", "2" if signals == 1 else "60"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        found = re.search(r"http://\S+:\d+", process.stderr.readline())
        assert found is not None, process.stderr.read()
        url, body = (
            found[0],
            {"text": "He lived in [MASK].", "choices": ["a far country " * 100] * 256, "calibrate": True},
        )
        with ThreadPoolExecutor(16) as pool:  # more than any machine ranks within the grace
            answers = [pool.submit(httpx.post, f"{url}/v1/choose", json=body, timeout=120) for _ in range(16)]
            time.sleep(1)
            began = time.monotonic()
            for _ in range(signals):
                process.send_signal(signal.SIGTERM)
                time.sleep(0.5)
            assert process.wait(30) == 0
            assert time.monotonic() - began < (2 if signals == 1 else 0.5) + 6
            given_up = 0
            for answer in answers:
                try:
                    found_answer = answer.result()
                except httpx.TransportError:
                    assert signals == 2  # who ends it at once cuts connections
                    given_up += 1
                    continue
                if found_answer.status_code == 200:  # done in time
                    continue
                given_up += 1
                assert found_answer.status_code == 503
                assert json.loads(found_answer.text)["error"]["code"] == "shutting_down"
            assert given_up, "all was done in time; this showed nothing"
    finally:
        process.kill()
        process.communicate()
