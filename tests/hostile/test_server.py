"""Requests of any kind, thrown at a server while a victim asks for the same things again and again.

Whatever a client sends, the others get their answers unchanged, and what comes back is never an internal error.
"""

from __future__ import annotations

import itertools
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from openglm.serve.settings import Limits, Settings

from ..serve.conftest import Live, infiller, serving  # noqa: F401

VICTIM: list[tuple[str, dict[str, Any]]] = [
    ("/v1/fill", {"text": "the [MASK] bridge", "max_new_tokens": 6}),
    ("/v1/fill", {"text": "老师[MASK]走到了[MASK]。", "max_new_tokens": 5, "temperature": 1.0, "seed": 4}),
    ("/v1/fill", {"text": "the [MASK] river", "max_new_tokens": 4, "num_beams": 3, "num_return_sequences": 2}),
    ("/v1/choose", {"text": "the [MASK] bridge", "choices": ["old", "wooden"]}),
    ("/v1/completions", {"prompt": "the old", "suffix": " bridge", "max_tokens": 5, "temperature": 0, "logprobs": 1}),
]
EXTREME: dict[str, list[Any]] = {
    "temperature": [1e-40, 1e-7, 1e-3, 100, 1e308, 0, -1, float("1e-320")],
    "top_p": [1e-46, 1e-10, 0.5, 1, 0],
    "top_k": [0, 1, 2**31, -1],
    "repetition_penalty": [1e-40, 1e-5, 100, 2.9e-219, 1],
    "length_penalty": [-100, 100, 1e3, -1e300, 0.5],
    "num_beams": [1, 2, 16, 17, 2**31],
    "num_return_sequences": [1, 2, 16, 2**31],
    "max_new_tokens": [1, 5, 63, 2**31, [1], [1, 2], []],
    "min_new_tokens": [0, 1, 63, 2**31],
    "seed": [0, 2**63 - 1, 2**64, -1],
    "truncate": ["start", "end", "around", "middle", None],
    "stream": [True, False],
    "calibrate": [True, False, "yes"],
    "ends": [True, False],
    "n": [1, 2, 16, 128],
    "best_of": [1, 16],
    "max_tokens": [0, 1, 8, 63, 4096],
    "min_tokens": [0, 8, 99],
    "logprobs": [0, 5, 20, 21],
    "echo": [True, False],
    "stop": ["", "e", ["a"] * 16, ["a"] * 17, "x" * 1000],
    "n_predict": [-2, -1, 0, 4, 2**31],
    "blank": ["[MASK]", "[gMASK]", "[X]"],
}
TEXTS: list[Any] = [
    "the [MASK] bridge", "[MASK]" * 20, "[MASK]" * 70, "", "no blank", "[gMASK]", "[sMASK][gMASK][MASK]", "老师[MASK]",
    "\x00[MASK]\ufffd", "表情：😀 [MASK] 🎉", "e\u0301\u0301[MASK]", "the river " * 300 + "[MASK]",
    ["a", {"blank": "[MASK]"}], ["[MASK]", "b [MASK]"], [], None, 5, {"a": 1}, "\u202e[MASK]\u202d",
    " \n\t[MASK]\n", "x" * 200_000 + "[MASK]",
]  # fmt: skip
FIELDS = {
    "/v1/fill": ("text",),
    "/v1/choose": ("text", "choices"),
    "/v1/score": ("text", "fills"),
    "/v1/completions": ("prompt", "suffix"),
    "/v1/fim/completions": ("prompt", "suffix"),
    "/infill": ("input_prefix", "input_suffix"),
    "/api/generate": ("prompt", "suffix"),
    "/v1/classify": ("text",),
}
KNOWN = {200, 400, 404, 413, 415, 429, 504}


def attacks(seed: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Requests that know the schema: mostly acceptable fields with values at the edges."""
    rng = random.Random(seed)
    while True:
        path = rng.choice(list(FIELDS))
        body: dict[str, Any] = {}
        for name in FIELDS[path]:
            text = rng.choice(TEXTS)
            body[name] = [rng.choice(["old", "", "x" * 300, 5]) for _ in range(rng.randrange(4))] if name in (
                "choices", "fills",
            ) else text  # fmt: skip
        for name in rng.sample(list(EXTREME), rng.randrange(4)):
            body[name] = rng.choice(EXTREME[name])
        if path == "/api/generate":
            body["model"] = "default"
        yield path, body


def answer(client: httpx.Client, path: str, body: dict[str, Any]) -> Any:
    """What a victim gets, without what differs each time."""
    found = client.post(path, json=body)
    assert found.status_code == 200, found.text
    values = found.json()
    return {name: value for name, value in values.items() if name not in ("id", "created")}


def close(found: Any, wanted: Any) -> bool:
    """Equal, numbers within what the company of other rows may change in float32."""
    if isinstance(wanted, dict):
        return set(found) == set(wanted) and all(close(found[name], wanted[name]) for name in wanted)
    if isinstance(wanted, list):
        return len(found) == len(wanted) and all(map(close, found, wanted))
    return bool(found == pytest.approx(wanted, abs=1e-3)) if isinstance(wanted, float) else found == wanted


def attacked(live: Live, count: int, attackers: int) -> Counter[int]:
    """Statuses of so many attacks, while a victim's answers stay what they were."""
    statuses: Counter[int] = Counter()
    wrong: list[Any] = []
    lock = threading.Lock()

    def attack(number: int) -> None:
        with httpx.Client(base_url=live.url, timeout=60) as client:
            for path, body in itertools.islice(attacks(number), count // attackers):
                try:
                    found = client.post(path, json=body)
                except ValueError:
                    continue  # numbers that JSON does not have
                with lock:
                    statuses[found.status_code] += 1
                    if found.status_code not in KNOWN or "internal error" in found.text:
                        wrong.append((path, body, found.text))

    with httpx.Client(base_url=live.url, timeout=120) as client:
        before = [answer(client, path, body) for path, body in VICTIM]
        threads = [threading.Thread(target=attack, args=(number,)) for number in range(attackers)]
        for thread in threads:
            thread.start()
        rounds = 0
        while any(thread.is_alive() for thread in threads) or not rounds:
            for (path, body), wanted in zip(VICTIM, before, strict=True):
                assert close(answer(client, path, body), wanted)
            rounds += 1
        for thread in threads:
            thread.join()
    assert wrong == []
    live.settles()
    return statuses


SETTINGS = Settings(limits=Limits(read_seconds=5.0, seconds=60.0))


def test_nobody_is_hurt(serving: Callable[..., Any]) -> None:  # noqa: F811
    with serving(SETTINGS) as live:
        statuses = attacked(live, 160, 4)
    assert statuses[200] > 10
    assert statuses[400] > 10


@pytest.mark.slow
def test_nobody_is_hurt_for_long(serving: Callable[..., Any]) -> None:  # noqa: F811
    with serving(SETTINGS) as live:
        assert sum(attacked(live, 4000, 16).values()) > 3000
