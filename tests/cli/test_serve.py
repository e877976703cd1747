"""`openglm serve` as a process: it starts, serves, and ends when it is told to."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from openglm.checkpoints.native import save_model
from openglm.cli import serve
from openglm.cli.main import _build_parser, main
from openglm.network.model import GLMModel
from openglm.tokenizer import BilingualTokenizer

httpx = pytest.importorskip("httpx")

SLOW = {"text": "[MASK]" * 15, "max_new_tokens": 60, "min_new_tokens": 60}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tiny_model: GLMModel, tokenizer: BilingualTokenizer) -> str:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    folder.mkdir()
    save_model(folder, tiny_model, tokenizer)
    return str(folder)


@contextlib.contextmanager
def serving(model: str, *options: str, **env: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "openglm", "serve", "--model", model, "--port", "0", *options],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **env},
    )
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        found = re.search(r"http://\S+", line)
        assert found, line
        url = found.group()
        for _ in range(500):
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{url}/ready").status_code == 200:
                    break
            time.sleep(0.02)
        yield process, url
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stderr.close()


def ended(process: subprocess.Popen[str]) -> str:
    """Its last words; it ended well."""
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    return errors


def test_sigterm_under_load(model: str) -> None:
    """What runs is finished, streams too; whoever comes meanwhile gets 503; then it ends with 0."""
    with serving(model, "--max-tokens", "4000") as (process, url):
        whole = httpx.post(f"{url}/v1/fill", json=SLOW, timeout=60).json()
        answers: list[dict[str, Any]] = []

        def ask(stream: bool) -> None:
            answer = httpx.post(f"{url}/v1/fill", json={**SLOW, "stream": stream}, timeout=60)
            answers.append(json.loads(answer.text.split("data: ")[-1]) if stream else answer.json())

        askers = [threading.Thread(target=ask, args=(number % 2 == 0,)) for number in range(6)]
        for asker in askers:
            asker.start()
        while "openglm_requests_in_flight 6.0" not in httpx.get(f"{url}/metrics").text:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        while (ready := httpx.get(f"{url}/ready").status_code) == 200:
            time.sleep(0.01)
        refused = httpx.post(f"{url}/v1/fill", json={"text": "a [MASK]"})
        assert (ready, refused.status_code) == (503, 503)
        assert refused.json()["error"]["code"] == "shutting_down"
        for asker in askers:
            asker.join()
        ended(process)
    # Log-probabilities may differ in their last digits, as what shares a pass differs.
    assert [answer["text"] for answer in answers] == [whole["text"]] * 6
    assert [answer["logprob"] for answer in answers] == pytest.approx([whole["logprob"]] * 6, rel=1e-5)


def test_grace_is_bounded(model: str) -> None:
    with serving(model, "--grace", "0", "--max-tokens", "4000") as (process, url):
        with httpx.stream("POST", f"{url}/v1/fill", json={**SLOW, "stream": True}, timeout=60) as stream:
            lines = stream.iter_lines()
            next(lines)
            process.send_signal(signal.SIGTERM)
            last = list(lines)[-2]
        assert json.loads(last[6:])["error"]["code"] == "shutting_down"
        assert "given up" in ended(process)


def test_idle_servers_end_at_once(model: str) -> None:
    with serving(model, "--name", "mine") as (process, url), contextlib.ExitStack() as idle:
        idle.enter_context(socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1]))))
        assert httpx.get(f"{url}/v1/models").json()["data"][0]["id"] == "mine"
        process.send_signal(signal.SIGINT)
        ended(process)


def test_key_and_name(model: str, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("from file\n")
    body = {"model": "tiny", "prompt": "the", "max_tokens": 1}
    with serving(model, OPENGLM_API_KEY="s3cret") as (_, url):
        assert httpx.post(f"{url}/v1/completions", json=body).status_code == 401
        headers = {"Authorization": "Bearer s3cret"}
        answer = httpx.post(f"{url}/v1/completions", json=body, headers=headers)
        assert answer.json()["model"] == "tiny"  # not the folder it lies in
        assert str(Path(model).parent) not in httpx.get(f"{url}/v1/models", headers=headers).text
    assert serve._key(str(tmp_path / "key")) == "from file"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--port", "70000"], "port 70000"),
        (["--host", "nowhere.invalid"], "nowhere.invalid"),
        (["--max-requests", "0"], "requests"),
        (["--max-seconds", "nan"], "seconds"),
        (["--grace", "-1"], "grace"),
        (["--threads", "0"], "--threads"),
        (["--key-file", "does-not-exist"], "--key-file"),
        (["--port", "0", "--model", "glm-larg"], "Did you mean"),
        (["--port", "0", "--cors-origin", "https://example.org/path"], "https://example.org/path"),
        (["--port", "0", "--cors-origin", "example.org"], "example.org"),
        (["--port", "0", "--cors-origin", "https://*.example.org"], "https://*.example.org"),
        (["--port", "0", "--cors-origin", ""], "origin"),
        (["--port", "0", "--allowed-host", "http://a.example"], "http://a.example"),
        (["--port", "0", "--allowed-host", "a.example:80"], "a.example:80"),
        (["--port", "0", "--allowed-host", "*"], "'*'"),
        (["--port", "0", "--allowed-host", ""], "host"),
    ],
)
def test_bad_options_are_one_line(options: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", *options]) == 2
    errors = capsys.readouterr().err
    assert words in errors
    assert len(errors.splitlines()) == 1


@pytest.mark.parametrize("key", ["", "  ", "\n"])
def test_an_empty_key_is_no_key_by_accident(key: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OPENGLM_API_KEY", key)
    assert main(["serve", "--port", "0"]) == 2
    monkeypatch.delenv("OPENGLM_API_KEY")
    (tmp_path / "key").write_text(key)
    assert main(["serve", "--port", "0", "--key-file", str(tmp_path / "key")]) == 2


def test_every_option_may_stand_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them, with what is given on the command line before it."""
    plain = serve_arguments([])
    values = {bool: "yes", int: "7", float: "7.5", str: "seven", list: "a.example, b.example"}
    for action in _build_parser("serve")._subparsers._group_actions[0].choices["serve"]._actions:  # type: ignore
        flag = next(flag for flag in action.option_strings if flag.startswith("--"))
        if flag == "--help":
            continue
        default = getattr(plain, action.dest)
        kind = action.type or (type(default) if isinstance(default, (bool, list)) else str)
        wanted = ["a.example", "b.example"] if kind is list else True if kind is bool else kind(values[kind])
        with monkeypatch.context() as patch:
            patch.setenv("OPENGLM_SERVE_" + flag[2:].upper().replace("-", "_"), values[kind])
            assert getattr(serve_arguments([]), action.dest) == wanted, flag
            if kind in (int, str):
                assert getattr(serve_arguments([flag, "5"]), action.dest) == kind("5")


def serve_arguments(arguments: list[str]) -> Any:
    return _build_parser("serve").parse_args(["serve", *arguments])


@pytest.mark.parametrize(("name", "value"), [("PORT", "tcp://10.0.0.1:80"), ("COMPILE", "perhaps"), ("GRACE", "")])
def test_wrong_variables_are_named(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(f"OPENGLM_SERVE_{name}", value)
    assert main(["serve"]) == 2
    assert f"OPENGLM_SERVE_{name}" in capsys.readouterr().err


def test_a_port_in_use(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["serve", "--port", str(taken.getsockname()[1])]) == 2
    assert "in use" in capsys.readouterr().err


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(serve, "NEEDED", ("starlette", "no_such_package"))
    assert main(["serve"]) == 2
    assert capsys.readouterr().err == ('openglm: error: serving needs no_such_package: pip install "openglm[serve]"\n')


def test_only_this_machine_is_local() -> None:
    assert [serve._is_local(a) for a in ("127.0.0.1", "::1", "0.0.0.0", "::", "10.0.0.1")] == [True, True] + [False] * 3
