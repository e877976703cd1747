"""The OpenAPI document says all there is, and nothing else comes back."""

from __future__ import annotations

from typing import Any

import pytest
import requests
from hypothesis import HealthCheck, Phase, given, settings
from starlette.testclient import TestClient

from openglm.serve.openapi import document
from openglm.serve.settings import Settings

from .conftest import Live

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
from schemathesis.specs.openapi.checks import positive_data_acceptance  # noqa: E402

GOOD = {
    "/v1/fill": [
        {"text": "the [MASK] bridge", "max_new_tokens": 2},
        {"text": "a [MASK] b [sMASK]", "max_new_tokens": [1, 2], "num_beams": 3, "num_return_sequences": 3},
        {"text": ["the [MASK] bridge", "a [sMASK]"], "max_new_tokens": 2},
        {
            "texts": ["the [MASK] bridge", "none", ["a ", {"blank": "[MASK]"}]],
            "max_new_tokens": 2,
            "on_error": "return",
        },
        {"text": ["a ", {"blank": "[gMASK]"}], "max_new_tokens": 2, "temperature": 1, "seed": 1, "stream": True},
    ],
    "/v1/choose": [
        {"text": "the [MASK] bridge", "choices": ["old", ["wooden"]], "calibrate": True},
        {"texts": ["the [MASK] bridge", "a [MASK]"], "choices": ["old", ["wooden"]]},
    ],
    "/v1/score": [{"text": "the [MASK] bridge", "fills": ["old"], "truncate": "around"}],
    "/v1/completions": [
        {"prompt": "the old", "max_tokens": 2, "logprobs": 2, "n": 2},
        {"prompt": ["the"], "suffix": "bridge", "max_tokens": 2, "logprobs": 0, "stream": True},
        {"prompt": [[5, 6], [7]], "echo": True, "max_tokens": 0, "logprobs": 1},
    ],
    "/v1/fim/completions": [{"model": "tiny", "prompt": "the", "suffix": "bridge", "max_tokens": 2}],
    "/infill": [
        {"input_prefix": "the ", "input_suffix": " bridge", "n_predict": 2},
        {"input_prefix": "the ", "n_predict": 2, "stream": True},
        {"n_predict": 0},
    ],
    "/api/generate": [
        {"model": "tiny:latest", "prompt": "the", "suffix": "bridge", "options": {"num_predict": 2}, "stream": False},
        {"model": "tiny", "prompt": "the", "options": {"num_predict": 2}},
        {"model": "tiny"},
    ],
}


@pytest.mark.parametrize("mode", ["right", "wrong"])
def test_every_answer_is_one_of_the_document(live: Live, mode: str) -> None:
    """Random requests, right and wrong: no 5xx, no status, type or body that is not described."""
    modes = schemathesis.GenerationMode
    chosen = modes.POSITIVE if mode == "right" else modes.NEGATIVE
    # A text without a blank is a string like any other: what fits the document may still be refused.
    without = [positive_data_acceptance]
    api, tried = schemathesis.openapi.from_url(f"{live.url}/openapi.json"), []
    with requests.Session() as session:
        for found in api.get_all_operations():
            operation = found.ok()
            if mode == "wrong" and not operation.body:
                continue
            for body in GOOD.get(operation.path, []) if mode == "right" else []:
                answer = operation.Case(body=body, media_type="application/json").call_and_validate(session=session)
                assert answer.status_code == 200

            @settings(max_examples=12, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
            @given(case=operation.as_strategy(generation_mode=chosen))
            def try_out(case: Any) -> None:
                case.call_and_validate(session=session, excluded_checks=without)

            try_out()
            tried.append(operation.path)
    assert set(GOOD) <= set(tried)


def test_keys_are_described_where_they_are_asked_for() -> None:
    open_, closed = document(Settings()), document(Settings(key="k"))
    assert "securitySchemes" not in open_["components"]
    private = {path for path, methods in closed["paths"].items() for one in methods.values() if "security" in one}
    assert private == {path for path in closed["paths"] if path not in ("/health", "/ready")}


def test_routes_and_document_agree(client: TestClient) -> None:
    paths = document(Settings())["paths"]
    for path, methods in paths.items():
        for method in ("get", "post", "put", "delete"):
            status = client.request(method, path.replace("{model}", "tiny")).status_code
            assert (status == 405) == (method not in methods), (method, path)


def test_docs_page_needs_nothing_from_elsewhere(client: TestClient) -> None:
    for path in ("/docs", "/docs.js", "/docs.css", "/", "/page.js", "/page.css", "/texts.js"):
        answer = client.get(path)
        assert answer.status_code == 200
        assert "https://" not in answer.text
        assert "http://" not in answer.text
