"""What editors and other servers' clients send, as they send it."""

from __future__ import annotations

import json
from itertools import chain
from typing import Any

import pytest
from starlette.testclient import TestClient

from openglm.blanks import BlankedText, BlankKind
from openglm.infill.infiller import Infiller

PREFIX, SUFFIX = "the old teacher", " the yellow curtain."

# llama.vscode and llama.vim, while one types.
INFILL = {
    "input_prefix": "the old\n", "input_suffix": SUFFIX, "input_extra": [{"filename": "a.txt", "text": "老师"}],
    "prompt": "teacher", "n_predict": 6, "top_k": 40, "top_p": 0.99, "stream": False, "n_indent": 2,
    "samplers": ["top_k", "top_p", "infill"], "cache_prompt": True, "t_max_prompt_ms": 500, "t_max_predict_ms": 1000,
    "response_fields": ["content", "timings/prompt_n", "truncated"], "min_p": 0.05,
}  # fmt: skip
# Before one types, to fill a cache.
WARM = {
    "input_extra": [], "input_prefix": "", "input_suffix": "", "prompt": "", "n_predict": 0, "temperature": 0.0,
    "samplers": ["temperature"], "stream": False, "cache_prompt": True, "t_max_predict_ms": 1, "response_fields": [""],
}  # fmt: skip
# ollama's Python client, and Continue's tab completion.
OLLAMA = {
    "model": "tiny", "prompt": PREFIX, "suffix": SUFFIX, "system": "", "template": "", "context": [], "stream": False,
    "raw": True, "images": [], "format": "", "keep_alive": 1800,
    "options": {"num_predict": 6, "temperature": 0.0, "num_ctx": 4096, "stop": ["\n\n"], "mirostat": 0, "seed": 3},
}  # fmt: skip
# minuet's codestral provider, and Zed's.
FIM = {
    "model": "tiny", "prompt": PREFIX, "suffix": SUFFIX, "max_tokens": 6, "temperature": 0, "stop": ["\n\n"],
    "stream": False, "random_seed": 5, "metadata": {"a": 1},
}  # fmt: skip
# minuet's openai_fim_compatible, vLLM's client, LangChain and lm-evaluation-harness, each at /v1/completions.
COMPLETIONS: list[dict[str, Any]] = [
    {"model": "tiny", "prompt": PREFIX, "suffix": SUFFIX, "max_tokens": 6, "stream": True, "stop": ["\n\n"],
     "top_p": 0.9},
    {"model": "tiny", "prompt": PREFIX, "max_tokens": 6, "top_k": -1, "min_tokens": 1, "repetition_penalty": 1.1,
     "seed": -1, "min_p": 0.0, "ignore_eos": False, "skip_special_tokens": True, "spaces_between_special_tokens": True,
     "include_stop_str_in_output": False, "stop_token_ids": [], "priority": 0, "truncate_prompt_tokens": -1,
     "response_format": None, "guided_json": None, "add_special_tokens": True, "length_penalty": 1.0},
    {"model": "tiny", "prompt": [PREFIX], "frequency_penalty": 0, "presence_penalty": 0, "n": 1, "max_tokens": 6,
     "temperature": 0.7, "logit_bias": None, "top_p": 1, "stream": False},
    {"model": "tiny", "prompt": [[5, 6, 7, 8]], "temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1234,
     "echo": True},
]  # fmt: skip


def between(infiller: Infiller, prefix: str, suffix: str, **options: Any) -> str:
    kind = BlankKind.SMASK if suffix else BlankKind.GMASK
    return infiller.fill(BlankedText((prefix, suffix), (kind,)), **options).blanks[0].text


def test_llama_cpp(client: TestClient, infiller: Infiller) -> None:
    answer = client.post("/infill", json={**INFILL, "temperature": 0})
    assert answer.status_code == 200
    found = answer.json()
    assert found["content"] == between(infiller, "the old\nteacher", SUFFIX, max_new_tokens=6)
    assert found["stop"]
    assert found["stop_type"] in ("eos", "limit")
    assert found["tokens_predicted"] <= 6
    assert found["timings"]["predicted_n"] == found["tokens_predicted"]
    ignored = answer.headers["OpenGLM-Ignored"].split(", ")
    assert {"input_extra", "cache_prompt", "samplers", "t_max_predict_ms", "min_p"} <= set(ignored)
    with client.stream("POST", "/infill", json={**INFILL, "temperature": 0, "stream": True}) as stream:
        events = [json.loads(line[6:]) for line in stream.iter_lines() if line.startswith("data: ")]
    assert "".join(event["content"] for event in events) == found["content"]
    assert [event["stop"] for event in events] == [False] * (len(events) - 1) + [True]
    warmed = client.post("/infill", json=WARM)
    assert (warmed.status_code, warmed.json()["content"]) == (200, "")


def test_llama_cpp_stops_at_a_word(client: TestClient, infiller: Infiller) -> None:
    text = between(infiller, "the old\nteacher", SUFFIX, max_new_tokens=30)
    word = text[4:7]
    found = client.post("/infill", json={**INFILL, "temperature": 0, "n_predict": 30, "stop": [word]}).json()
    assert found["content"] == text[: text.index(word)]
    assert (found["stop_type"], found["stopping_word"]) == ("word", word)


def test_ollama(client: TestClient, infiller: Infiller) -> None:
    answer = client.post("/api/generate", json=OLLAMA)
    assert answer.status_code == 200
    found = answer.json()
    wanted = between(infiller, PREFIX, SUFFIX, max_new_tokens=6)
    assert found["response"] == wanted.partition("\n\n")[0]
    assert found["done"]
    assert found["eval_count"] <= 6
    assert {"keep_alive", "num_ctx", "raw"} <= set(answer.headers["OpenGLM-Ignored"].split(", "))
    streaming = {**OLLAMA}
    del streaming["stream"]  # ollama streams unless told not to
    with client.stream("POST", "/api/generate", json=streaming) as stream:
        assert stream.headers["content-type"].startswith("application/x-ndjson")
        lines = [json.loads(line) for line in stream.iter_lines()]
    assert "".join(line["response"] for line in lines) == found["response"]
    assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]
    without = client.post("/api/generate", json={**OLLAMA, "suffix": None}).json()
    assert without["response"] == between(infiller, PREFIX, "", max_new_tokens=6).partition("\n\n")[0]
    assert client.post("/api/generate", json={"model": "tiny"}).json()["done_reason"] == "load"
    assert [model["name"] for model in client.get("/api/tags").json()["models"]] == ["tiny"]
    assert client.get("/api/version").json()["version"]


def test_mistral(client: TestClient, infiller: Infiller) -> None:
    answer = client.post("/v1/fim/completions", json=FIM)
    assert answer.status_code == 200
    [choice] = answer.json()["choices"]
    wanted = between(infiller, PREFIX, SUFFIX, max_new_tokens=6).partition("\n\n")[0]
    assert choice["message"]["content"] == wanted
    assert answer.headers["OpenGLM-Ignored"] == "metadata"
    with client.stream("POST", "/v1/fim/completions", json={**FIM, "stream": True}) as stream:
        data = [line[6:] for line in stream.iter_lines() if line.startswith("data: ")]
    assert data.pop() == "[DONE]"
    chunks = [json.loads(each) for each in data]
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks) == wanted
    assert chunks[-1]["choices"][0]["finish_reason"] == choice["finish_reason"]
    assert chunks[-1]["usage"] == answer.json()["usage"]


@pytest.mark.parametrize("body", COMPLETIONS)
def test_completions_of_other_clients(client: TestClient, body: dict[str, Any]) -> None:
    answer = client.post("/v1/completions", json=body)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/infill", {**INFILL, "grammar": "root ::= a"}, "grammar"),
        ("/infill", {**INFILL, "json_schema": {"type": "object"}}, "json_schema"),
        ("/infill", {**INFILL, "n_predict": "6"}, "n_predict"),
        ("/infill", {**INFILL, "input_sufix": "a"}, "input_sufix"),
        ("/infill", {**INFILL, "temperature": -1}, "temperature"),
        ("/infill", {**INFILL, "stop": [""]}, "stop"),
        ("/v1/fim/completions", {**FIM, "min_tokens": 7}, "min_tokens"),
        ("/v1/fim/completions", {**FIM, "sufix": "a"}, "sufix"),
        ("/v1/fim/completions", {"suffix": "a"}, "prompt"),
    ],
)
def test_what_cannot_be_done_is_named(client: TestClient, path: str, body: dict[str, Any], param: str) -> None:
    answer = client.post(path, json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({**OLLAMA, "format": "json"}, 400, "format"),
        ({**OLLAMA, "model": "llama3"}, 404, "no model of that name"),
        ({**OLLAMA, "images": ["aGk="]}, 400, "images"),
        ({**OLLAMA, "options": {"temperature": "hot"}}, 400, "temperature"),
        ({"prompt": "a"}, 400, "model"),
    ],
)
def test_ollama_is_told_what_is_wrong_its_own_way(
    client: TestClient, body: dict[str, Any], status: int, words: str
) -> None:
    answer = client.post("/api/generate", json=body)
    assert answer.status_code == status
    assert words in answer.json()["error"]


@pytest.mark.parametrize("most", [-1, 4096, 2**31])
def test_one_setting_for_every_model_is_met_as_far_as_it_goes(client: TestClient, most: int) -> None:
    """Long texts are cut around the cursor; limits beyond the model are those of the model."""
    long = "the river and the old bridge " * 40
    llama = client.post("/infill", json={**INFILL, "input_prefix": long, "input_suffix": long, "n_predict": most})
    assert (llama.status_code, llama.json()["truncated"]) == (200, True)
    body = {**OLLAMA, "prompt": long, "suffix": long, "options": {"num_predict": most}}
    assert client.post("/api/generate", json=body).status_code == 200
    if most > 0:
        assert client.post("/v1/fim/completions", json={**FIM, "prompt": long, "max_tokens": most}).status_code == 200
    completion = client.post("/v1/completions", json={"prompt": long, "suffix": long, "max_tokens": 4})
    assert completion.status_code == 200


def test_names_in_the_header_cannot_break_it(client: TestClient) -> None:
    odd = {"a\r\nSet-Cookie: b": 1, "名": 2, "x" * 5000: 3, "fine_name": 4}
    answer = client.post("/v1/completions", json={"prompt": "a", "max_tokens": 1, **odd})
    assert answer.headers["OpenGLM-Ignored"] == "fine_name"
    assert "set-cookie" not in answer.headers


def test_echo_scores_the_prompt(client: TestClient, infiller: Infiller) -> None:
    """As lm-evaluation-harness asks: log-probabilities of a prompt's own tokens."""
    ids = infiller.tokenizer.encode(PREFIX)
    scored = infiller.score("[gMASK]", PREFIX)
    for prompt in (PREFIX, ids):
        body = {"prompt": prompt, "echo": True, "logprobs": 2, "max_tokens": 0}
        [choice] = client.post("/v1/completions", json=body).json()["choices"]
        found = choice["logprobs"]
        assert choice["text"] == "".join(found["tokens"]) == PREFIX
        assert found["token_logprobs"] == pytest.approx(scored.token_logprobs[0][:-1], abs=1e-4)
        for offset, token in zip(found["text_offset"], found["tokens"], strict=True):
            assert PREFIX[offset:].startswith(token)
    more = {**body, "max_tokens": 3, "temperature": 0, "stream": False}
    [choice] = client.post("/v1/completions", json=more).json()["choices"]
    assert "".join(choice["logprobs"]["tokens"]) == choice["text"]
    assert choice["logprobs"]["token_logprobs"][: len(ids)] == pytest.approx(found["token_logprobs"])
    with client.stream("POST", "/v1/completions", json={**more, "stream": True}) as stream:
        data = [json.loads(line[6:]) for line in stream.iter_lines() if line.startswith("data: {")]
    parts = [each["choices"][0] for each in data]
    assert "".join(part["text"] for part in parts) == choice["text"]
    for name in ("tokens", "text_offset"):
        assert list(chain(*(part["logprobs"][name] for part in parts))) == choice["logprobs"][name]


@pytest.mark.parametrize("stop", [None, ["e", "走", "old br"]])
def test_written_tokens_are_among_the_probable_ones_and_whole(client: TestClient, stop: list[str] | None) -> None:
    body = {
        "prompt": ["the", "老师"],
        "n": 4,
        "seed": 2,
        "temperature": 2,
        "logprobs": 1,
        "max_tokens": 20,
        "stop": stop,
    }
    whole = client.post("/v1/completions", json=body).json()["choices"]
    for choice in whole:
        found = choice["logprobs"]
        assert "".join(found["tokens"]) == choice["text"]
        for token, logprob, top in zip(found["tokens"], found["token_logprobs"], found["top_logprobs"], strict=True):
            assert top[token] == logprob
            assert len(top) <= 2
    with client.stream("POST", "/v1/completions", json={**body, "stream": True}) as stream:
        data = [json.loads(line[6:]) for line in stream.iter_lines() if line.startswith("data: {")]
    for choice in whole:
        parts = [each["choices"][0] for each in data if each["choices"][0]["index"] == choice["index"]]
        tokens = list(chain(*(part["logprobs"]["tokens"] for part in parts)))
        assert tokens == choice["logprobs"]["tokens"]
        tops = list(chain(*(part["logprobs"]["top_logprobs"] for part in parts)))
        assert [list(top) for top in tops] == [list(top) for top in choice["logprobs"]["top_logprobs"]]
