"""What clients must not be able to do, and what the server says instead."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections import Counter
from collections.abc import Callable

import httpx
import pytest
from starlette.testclient import TestClient

from openglm.serve.admission import Admission
from openglm.serve.server import bind
from openglm.serve.settings import Limits, Settings

from .conftest import Live, post, sse

JSON = {"Content-Type": "application/json"}
SLOW = {"text": "[MASK]" * 20, "max_new_tokens": 60, "min_new_tokens": 60}  # a thousand steps
QUICK = {"text": "the [MASK] bridge", "max_new_tokens": 2}


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b"[1, 2", "invalid_json"),
        (b"\xff\xfe", "invalid_json"),
        (b'{"text": "\\ud800 [MASK]"}', "invalid_json"),
        (b'{"text": "a [MASK]", "top_p": NaN}', None),
        (b"[" * 100_000, None),
        (b"null", "invalid_parameter"),
        (b'"text"', "invalid_parameter"),
        (b'{"text": {"a": 1}}', "invalid_parameter"),
    ],
)
def test_malformed_bodies(client: TestClient, content: bytes, code: str | None) -> None:
    for path in ("fill", "choose", "score", "completions"):
        answer = client.post(f"/v1/{path}", content=content, headers=JSON)
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert error["type"] == "invalid_request_error"
        assert code in (None, error["code"])
        assert "pydantic" not in error["message"]


@pytest.mark.parametrize(
    "content_type", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"]
)
def test_only_json_is_read(client: TestClient, content_type: str | None) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    assert client.post("/v1/fill", content=json.dumps(QUICK), headers=headers).status_code == 415
    accepted = client.post(
        "/v1/fill", content=json.dumps(QUICK), headers={"Content-Type": "Application/JSON; charset=utf-8"}
    )
    assert accepted.status_code == 200


def test_large_bodies_are_refused_before_they_are_read(live: Live) -> None:
    large = b'{"text": "' + b"x" * 10_000_000 + b'"}'
    assert httpx.post(f"{live.url}/v1/fill", content=large, headers=JSON).status_code == 413

    def chunks() -> object:
        for start in range(0, len(large), 65536):
            yield large[start : start + 65536]

    assert httpx.post(f"{live.url}/v1/fill", content=chunks(), headers=JSON).status_code == 413  # type: ignore[arg-type]
    # Told the length, the server does not wait for the body.
    with socket.create_connection(("127.0.0.1", live.port), timeout=10) as raw:
        raw.sendall(
            b"POST /v1/fill HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 999999999\r\n\r\n"
        )
        assert raw.recv(100).startswith(b"HTTP/1.1 413")
    assert post(live, "/v1/fill", QUICK).status_code == 200


def test_half_open_connections_are_closed(live: Live) -> None:
    """Nothing, half a head, half a body, and half a second request."""
    head = b"POST /v1/fill HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    starts = [b"", head, head + b"Content-Length: 50\r\n\r\n{", b"GET /health HTTP/1.1\r\nHost: a\r\n\r\nGET /hea"]
    raws = [socket.create_connection(("127.0.0.1", live.port), timeout=20) for _ in starts]
    for raw, start in zip(raws, starts, strict=True):
        raw.sendall(start)
    answers = []
    for raw in raws:
        received = b""
        while data := raw.recv(65536):
            received += data
        answers.append(received[:12])
        raw.close()
    assert answers == [b"", b"", b"HTTP/1.1 408", b"HTTP/1.1 200"]
    assert post(live, "/v1/fill", QUICK).status_code == 200


def hang_up(live: Live, body: object, path: str = "/v1/fill") -> socket.socket:
    content = json.dumps(body).encode()
    raw = socket.create_connection(("127.0.0.1", live.port), timeout=10)
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {len(content)}"
    raw.sendall(head.encode() + b"\r\n\r\n" + content)
    return raw


def test_clients_that_hang_up_free_their_room(live: Live) -> None:
    engine = live.service.infiller.engine
    stream = {"prompt": "老师", "max_tokens": 60, "stream": True, "n": 4}
    raws = [
        hang_up(live, *request)
        for _ in range(20)
        for request in ((SLOW,), ({**SLOW, "stream": True},), (stream, "/v1/completions"))
    ]
    live.until(lambda: engine.running > 0 or engine.queued > 0)
    for raw in raws:
        raw.close()
    began = time.monotonic()
    live.settles()
    assert live.service.metrics.hung_up._value.get() > 0
    assert post(live, "/v1/fill", QUICK).status_code == 200
    # 40 of them would have taken a thousand steps each, two of which can be told apart by any clock
    assert time.monotonic() - began < 20


def test_a_full_server_refuses_and_forgets(serving: Callable[[Settings], object]) -> None:
    """Many at once: each gets what it asked for, or a clean 429."""

    async def many(url: str) -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=url, timeout=60, limits=limits) as client:
            return await asyncio.gather(*(client.post("/v1/fill", json=QUICK) for _ in range(150)))

    with serving(Settings(limits=Limits(requests=4))) as live:  # type: ignore[attr-defined]
        answers = asyncio.run(many(live.url))
        counts = Counter(answer.status_code for answer in answers)
        assert set(counts) == {200, 429}
        assert len({answer.json()["text"] for answer in answers if answer.status_code == 200}) == 1
        for answer in answers:
            if answer.status_code == 429:
                assert int(answer.headers["Retry-After"]) >= 1
                assert answer.json()["error"]["code"] == "server_busy"
        live.settles()
        assert post(live, "/v1/fill", QUICK).status_code == 200
        shown = httpx.get(f"{live.url}/metrics").text
        assert f'openglm_requests_total{{route="/v1/fill",status="429"}} {counts[429]:.1f}' in shown


def test_scoring_has_a_bound_of_its_own(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    service = client.app.state.service  # type: ignore[attr-defined]
    monkeypatch.setattr(service.scoring, "count", service.scoring.most)
    assert client.post("/v1/score", json={"text": "a [MASK]", "fills": "b"}).status_code == 429
    assert client.post("/v1/fill", json=QUICK).status_code == 200


def test_time_limit(serving: Callable[[Settings], object]) -> None:
    with serving(Settings(limits=Limits(seconds=0.05))) as live:  # type: ignore[attr-defined]
        whole = post(live, "/v1/fill", SLOW)
        assert whole.status_code == 504
        assert whole.json()["error"]["code"] == "timeout"
        with httpx.stream("POST", f"{live.url}/v1/fill", json={**SLOW, "stream": True}, timeout=30) as stream:
            assert stream.status_code == 200
            events = sse(stream.iter_lines())
        assert events[-1][0] == "error"
        assert json.loads(events[-1][1])["error"]["code"] == "timeout"
        live.settles()


def test_key(serving: Callable[[Settings], object]) -> None:
    with serving(Settings(key="s3cret")) as live:  # type: ignore[attr-defined]
        for headers in (
            {},
            {"Authorization": "Bearer s3cre"},
            {"Authorization": "Bearer s3crett"},
            {"Authorization": "s3cret"},
            {"Authorization": "Basic s3cret"},
            {"Authorization": b"Bearer \xff\xfe"},
        ):
            for method, path in (
                ("POST", "/v1/fill"),
                ("GET", "/v1/models"),
                ("GET", "/metrics"),
                ("GET", "/v1/nothing"),
            ):
                answer = httpx.request(method, live.url + path, headers=headers)  # type: ignore[arg-type]
                assert answer.status_code == 401
                assert answer.headers["WWW-Authenticate"] == "Bearer"
                assert answer.json()["error"]["code"] == "invalid_api_key"
        for scheme in ("bearer", "BEARER", "Bearer "):
            written = {"Authorization": f"{scheme} s3cret"}
            assert httpx.get(f"{live.url}/v1/models", headers=written).status_code == 200
        right = {"Authorization": "Bearer s3cret"}
        assert httpx.post(f"{live.url}/v1/fill", json=QUICK, headers=right).status_code == 200
        assert httpx.get(f"{live.url}/metrics", headers=right).status_code == 200
        for path in ("/", "/health", "/ready", "/docs", "/openapi.json"):
            assert httpx.get(live.url + path).status_code == 200


def test_other_names(serving: Callable[[Settings], object]) -> None:
    """A page elsewhere whose name leads to this machine gets nothing."""
    with serving(Settings(hosts=("localhost", "127.0.0.1", "::1"))) as live:  # type: ignore[attr-defined]
        for host in ("evil.example", "evil.example:8000", "localhost.evil.example", "", "127.0.0.1.evil.example:80"):
            for path in ("/", "/v1/models", "/health"):
                answer = httpx.get(live.url + path, headers={"Host": host})
                assert answer.status_code == 421
                assert answer.json()["error"]["code"] == "unknown_host"
        for host in ("localhost", "LOCALHOST:1", "127.0.0.1:9", "[::1]", "[::1]:8000"):
            assert httpx.get(f"{live.url}/v1/models", headers={"Host": host}).status_code == 200


def test_other_origins(serving: Callable[[Settings], object], client: TestClient) -> None:
    """Pages of other origins may call only if they were named."""
    asked = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    off = client.options("/v1/fill", headers=asked)
    assert off.status_code == 405
    assert "access-control-allow-origin" not in off.headers
    assert "access-control-allow-origin" not in client.post("/v1/fill", json=QUICK, headers=asked).headers
    with serving(Settings(cors_origins=("https://a.example",), key="k")) as live:  # type: ignore[attr-defined]
        allowed = httpx.options(f"{live.url}/v1/fill", headers=asked)
        assert allowed.status_code == 200
        assert allowed.headers["access-control-allow-origin"] == "https://a.example"
        assert (
            "access-control-allow-origin"
            not in httpx.get(f"{live.url}/health", headers={"Origin": "https://b.example"}).headers
        )


def test_errors_keep_the_inside_to_themselves(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    service = client.app.state.service  # type: ignore[attr-defined]

    def broken(*arguments: object, **options: object) -> None:
        raise RuntimeError("/secret/path failed")

    with monkeypatch.context() as patch:
        patch.setattr(service.infiller.engine, "_decode", broken)
        for path, body in (("fill", QUICK), ("completions", {"prompt": "a"})):
            answer = client.post(f"/v1/{path}", json=body)
            assert answer.status_code == 500
            assert "secret" not in answer.text
        with client.stream("POST", "/v1/fill", json={**QUICK, "stream": True}) as stream:
            *_, (event, data) = sse(stream.iter_lines())  # after what was written before the fault
        assert event == "error"
        assert "secret" not in data
    with monkeypatch.context() as patch:
        patch.setattr(service.infiller, "score", broken)
        answer = client.post("/v1/score", json={"text": "a [MASK]", "fills": "b"})
        assert answer.status_code == 500
        assert "secret" not in answer.text
    assert client.post("/v1/fill", json=QUICK).status_code == 200  # and the server goes on
    assert client.get("/nothing").json()["error"]["code"] == "not_found"
    assert client.get("/page.css/../../app.py").status_code == 404


HUGE = "word " * 20_000


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("fill", {"text": HUGE}),
        ("fill", {"text": f"{HUGE} [MASK]"}),
        ("fill", {"text": "a [MASK]", HUGE: 1}),
        ("fill", {"text": "a [MASK]", "truncate": HUGE}),
        ("fill", {"text": "a [MASK]", "model": HUGE}),
        ("fill", {"text": ["a", {"blank": HUGE}]}),
        ("fill", {"text": "a [MASK]", "max_new_tokens": [5] * 20_000}),
        ("choose", {"text": "a [MASK]", "choices": [["a", HUGE]]}),
        ("choose", {"text": "a [MASK]", "choices": ["b"], "calibrate": HUGE}),
        ("score", {"text": "a [MASK]", "fills": [HUGE, "b"]}),
        ("score", {"text": "a [MASK]", "fills": HUGE}),
        ("completions", {"prompt": HUGE}),
        ("completions", {"prompt": "a", "stop": [HUGE]}),
        ("completions", {"prompt": "a", "blank": HUGE}),
        ("completions", {"prompt": "a", "logit_bias": {HUGE: 1}}),
    ],
)
def test_errors_echo_little_of_what_was_sent(client: TestClient, path: str, body: object) -> None:
    answer = client.post(f"/v1/{path}", json=body)
    assert answer.status_code in (400, 404)
    assert len(answer.content) < 1000
    assert len(answer.json()["error"]["message"]) > 10


def test_answers_are_sent_at_once() -> None:
    """Nagle's algorithm would hold every answer back for some 40 ms."""

    async def delays() -> int:
        with bind("127.0.0.1", 0) as listening:
            accepted = asyncio.get_running_loop().create_future()
            server = await asyncio.start_server(lambda _, writer: accepted.set_result(writer), sock=listening)
            async with server:
                _, ours = await asyncio.open_connection(*listening.getsockname())
                theirs = await accepted
                held = theirs.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                ours.close()
                theirs.close()
                return held

    assert asyncio.run(delays())


def test_security_headers(client: TestClient) -> None:
    for path in ("/", "/docs", "/health", "/v1/nothing"):
        headers = client.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe-inline" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert "server" not in headers


def test_while_closing_nobody_is_let_in(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    service = client.app.state.service  # type: ignore[attr-defined]
    monkeypatch.setattr(service.admission, "draining", True)
    assert client.get("/ready").status_code == 503
    assert client.get("/health").status_code == 200
    for path, body in (
        ("fill", QUICK),
        ("completions", {"prompt": "a"}),
        ("score", {"text": "a [MASK]", "fills": "b"}),
    ):
        answer = client.post(f"/v1/{path}", json=body)
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "shutting_down"


def test_patience_follows_the_pace() -> None:
    async def told() -> int:
        admission = Admission(100)
        assert admission.retry_after() == 1
        admission._ends.extend(time.monotonic() - 10 + second for second in range(10))  # one a second
        admission.count = 40
        return admission.retry_after()

    assert asyncio.run(told()) in (20, 21)
