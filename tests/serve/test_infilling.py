"""/v1/fill, /v1/choose, /v1/score: what the library gives, in JSON."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from starlette.testclient import TestClient

from openglm.blanks import BlankedText, BlankKind
from openglm.infill.infiller import Infiller
from openglm.infill.results import Filled
from openglm.serve.http import sse as encoded

from .conftest import sse

TEXTS = ["the [MASK] bridge", "老师[MASK]走到了[MASK]。", "Did [sMASK] say?[MASK]", "[MASK]", "the old [gMASK]"]
OPTIONS = [
    {"max_new_tokens": 5},
    {"max_new_tokens": 4, "temperature": 1.2, "seed": 3, "num_return_sequences": 3},
    {"max_new_tokens": 4, "temperature": 0.7, "top_p": 0.9, "top_k": 50, "seed": 8, "repetition_penalty": 1.3},
    {"max_new_tokens": 3, "num_beams": 4, "num_return_sequences": 4, "length_penalty": 0.5, "min_new_tokens": 1},
]


def same(answer: dict[str, object], filled: Filled) -> None:
    """An answer over HTTP and one of a direct call."""
    assert answer["text"] == filled.text
    assert answer["logprob"] == pytest.approx(filled.logprob, abs=1e-3)
    for got, wanted in zip(answer["blanks"], filled.blanks, strict=True):  # type: ignore[call-overload]
        for name in ("text", "token_ids", "start", "end", "finish_reason"):
            assert got[name] == getattr(wanted, name)
        assert got["token_logprobs"] == pytest.approx(wanted.token_logprobs, abs=1e-3)
        assert filled.text[got["start"] : got["end"]] == got["text"]


@pytest.mark.parametrize("options", OPTIONS)
def test_fill_gives_what_direct_calls_give(client: TestClient, infiller: Infiller, options: dict[str, object]) -> None:
    """All at once, so that they share the engine's passes."""
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda text: client.post("/v1/fill", json={"text": text, **options}), TEXTS * 2))
    for text, answer in zip(TEXTS * 2, answers, strict=True):
        assert answer.status_code == 200
        body, direct = answer.json(), infiller.fill(text, **options)
        same(body, direct)
        assert len(body["alternatives"]) == len(direct.alternatives)
        for other, wanted in zip(body["alternatives"], direct.alternatives, strict=True):
            same(other, wanted)
        assert body["usage"]["total_tokens"] == body["usage"]["prompt_tokens"] + body["usage"]["completion_tokens"]


@pytest.mark.parametrize("options", OPTIONS[:3])
@pytest.mark.parametrize("text", TEXTS)
def test_streams_give_what_whole_answers_give(client: TestClient, text: str, options: dict[str, object]) -> None:
    whole = client.post("/v1/fill", json={"text": text, **options}).json()
    with client.stream("POST", "/v1/fill", json={"text": text, **options, "stream": True}) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        events = [(event, json.loads(data)) for event, data in sse(response.iter_lines())]
    assert [event for event, _ in events[:-1]] == ["piece"] * (len(events) - 1)
    assert events[-1] == ("result", whole)
    for number, answer in enumerate([whole, *whole["alternatives"]]):
        for blank, fill in enumerate(answer["blanks"]):
            own = [e for _, e in events[:-1] if (e["answer"], e["blank"]) == (number, blank)]
            assert "".join(piece["text"] for piece in own) == fill["text"]
            assert [piece["finish_reason"] for piece in own if piece["finish_reason"]] == [fill["finish_reason"]]


def test_text_in_parts_may_hold_the_wording_of_blanks(client: TestClient, infiller: Infiller) -> None:
    parts = ["the [MASK] is ", {"blank": "[MASK]"}, " [gMASK]."]
    answer = client.post("/v1/fill", json={"text": parts, "max_new_tokens": 3}).json()
    direct = infiller.fill(BlankedText(("the [MASK] is ", " [gMASK]."), (BlankKind.MASK,)), max_new_tokens=3)
    same(answer, direct)
    assert answer["text"].startswith("the [MASK] is ")


def test_choose_and_score(client: TestClient, infiller: Infiller) -> None:
    text, choices = "老师[MASK]走到了[MASK]。", [["昨天", "河边"], ["早上", "木桥"], ["", "x"]]
    for options in ({}, {"calibrate": True}, {"length_penalty": 1.0}, {"ends": True, "length_penalty": 0.5}):
        got = client.post("/v1/choose", json={"text": text, "choices": choices, **options}).json()["choices"]
        wanted = infiller.choose(text, choices, **options)
        assert [one["fills"] for one in got] == [one.fills for one in wanted]
        assert [one["probability"] for one in got] == pytest.approx([one.probability for one in wanted])
    got = client.post("/v1/score", json={"text": text, "fills": choices[0]}).json()
    wanted = infiller.score(text, choices[0])
    assert got["logprob"] == pytest.approx(wanted.logprob)
    assert got["token_ids"] == wanted.token_ids
    assert got["blank_logprobs"] == pytest.approx(wanted.blank_logprobs)
    assert got["text"] == wanted.text


@pytest.mark.parametrize(
    ("path", "body", "words", "param"),
    [
        ("fill", {"text": "nothing"}, "no blank", None),
        ("fill", {"text": 5}, "text", "text"),
        ("fill", {}, "text", "text"),
        ("fill", {"text": "a [MASK]", "temperature": "1"}, "temperature", "temperature"),
        ("fill", {"text": "a [MASK]", "temperature": -1}, "temperature", "temperature"),
        ("fill", {"text": "a [MASK]", "temperture": 1}, "unknown parameter temperture", "temperture"),
        ("fill", {"text": "a [MASK]", "max_new_tokens": [1, 2]}, "max_new_tokens lists 2", None),
        ("fill", {"text": "[MASK]", "top_k": 1, "num_return_sequences": 17}, "at most 16", "num_return_sequences"),
        ("fill", {"text": "a [MASK]", "num_beams": 2**31}, "at most 16", "num_beams"),
        ("fill", {"text": "a [MASK]", "num_return_sequences": 2}, "greedy", None),
        ("fill", {"text": "a [MASK]", "num_beams": 2, "stream": True}, "stream", "stream"),
        ("fill", {"text": "[MASK]" * 65}, "65 blanks", "text"),
        ("fill", {"text": "the river " * 60 + "[MASK]"}, "truncate", None),
        ("fill", {"text": "a [MASK]", "seed": -1}, "seed", "seed"),
        ("fill", {"text": "a [MASK]", "truncate": "middle"}, "truncate", "truncate"),
        ("fill", {"text": ["a ", {"blank": "[X]"}]}, "text", "text"),
        ("choose", {"text": "a [MASK]", "choices": []}, "choices", "choices"),
        ("choose", {"text": "a [MASK]", "choices": ["a"] * 257}, "at most 256", "choices"),
        ("choose", {"text": "a [MASK]", "choices": [["a", "b"]]}, "2 fills", None),
        ("score", {"text": "a [MASK]", "fills": ["a", "b"]}, "2 fills", None),
        ("score", {"text": "a [MASK]", "fills": "word " * 100}, "holds at most", None),
        ("score", {"text": "a [MASK]", "fills": None}, "fills", "fills"),
    ],
)  # fmt: skip
def test_bad_requests(client: TestClient, path: str, body: object, words: str, param: str | None) -> None:
    answer = client.post(f"/v1/{path}", json=body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert words in error["message"]
    assert error["type"] == "invalid_request_error"
    if param is not None:
        assert error["param"] == param


def test_many_blanks_stay_within_the_tokens_of_a_request(client: TestClient) -> None:
    answer = client.post("/v1/fill", json={"text": "[MASK]" * 60, "max_new_tokens": 60, "num_beams": 16})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "too_many_tokens"


def test_models(client: TestClient) -> None:
    listed = client.get("/v1/models").json()["data"]
    assert [model["id"] for model in listed] == ["tiny"]
    assert listed[0]["blanks"] == ["[MASK]", "[sMASK]", "[gMASK]"]
    assert client.get("/v1/models/tiny").json() == listed[0]
    assert client.get("/v1/models/other").status_code == 404
    for path in ("fill", "score", "choose", "completions"):
        body = {"model": "other", "text": "[MASK]", "fills": "a", "choices": ["a"], "prompt": "a"}
        wanted = {
            "fill": ("text",),
            "score": ("text", "fills"),
            "choose": ("text", "choices"),
            "completions": ("prompt",),
        }
        answer = client.post(f"/v1/{path}", json={name: body[name] for name in ("model", *wanted[path])})
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "model_not_found"


def test_events_hold_line_breaks_within_one_line() -> None:
    assert encoded({"text": "a\n\nb"}, "piece") == b'event: piece\ndata: {"text": "a\\n\\nb"}\n\n'


@pytest.mark.parametrize("name", ["text", "texts"])
@pytest.mark.parametrize("options", OPTIONS)
def test_a_list_of_texts_is_what_it_is_in_python(
    client: TestClient, infiller: Infiller, name: str, options: dict[str, object]
) -> None:
    answer = client.post("/v1/fill", json={name: TEXTS, **options}).json()
    for found, direct in zip(answer["results"], infiller.fill(TEXTS, **options), strict=True):
        same(found, direct)
    assert answer["usage"]["completion_tokens"] == sum(
        len(blank["token_ids"])
        for found in answer["results"]
        for each in (found, *found["alternatives"])
        for blank in each["blanks"]
    )


def test_texts_in_parts_and_with_errors(client: TestClient, infiller: Infiller) -> None:
    texts = [["a [MASK] ", {"blank": "[MASK]"}], "nothing", "the [MASK] bridge"]
    refused = client.post("/v1/fill", json={"texts": texts, "max_new_tokens": 2})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "texts"
    assert refused.json()["error"]["message"].startswith("texts.1: ")
    first, wrong, last = client.post(
        "/v1/fill", json={"texts": texts, "max_new_tokens": 2, "on_error": "return"}
    ).json()["results"]
    same(first, infiller.fill(BlankedText(("a [MASK] ", ""), (BlankKind.MASK,)), max_new_tokens=2))
    assert "no blank" in wrong["error"]["message"]
    same(last, infiller.fill("the [MASK] bridge", max_new_tokens=2))


def test_choices_for_several_texts(client: TestClient, infiller: Infiller) -> None:
    texts, choices = ["the [MASK] bridge", "the [MASK] river"], ["old", "wooden", "yellow"]
    answer = client.post("/v1/choose", json={"texts": texts, "choices": choices, "calibrate": True}).json()
    for found, ranked in zip(answer["results"], infiller.choose(texts, choices, calibrate=True), strict=True):
        assert [one["fills"] for one in found["choices"]] == [one.fills for one in ranked]


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("fill", {"text": []}, "text"),
        ("fill", {"texts": []}, "texts"),
        ("fill", {"text": "a [MASK]", "texts": ["b [MASK]"]}, "text"),
        ("fill", {"texts": ["[MASK]"] * 257}, "texts"),
        ("fill", {"texts": ["[MASK]"] * 200}, None),
        ("fill", {"texts": ["[MASK]"], "stream": True}, "stream"),
        ("choose", {"texts": ["[MASK]"] * 90, "choices": ["a", "b", "c"]}, "choices"),
        ("choose", {"choices": ["a"]}, "text"),
    ],
)
def test_bad_lists(client: TestClient, path: str, body: object, param: str | None) -> None:
    answer = client.post(f"/v1/{path}", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
