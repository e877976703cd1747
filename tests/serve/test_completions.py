"""/v1/completions, with OpenAI's own client over a real connection."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from openglm.blanks import BlankedText, BlankKind
from openglm.infill.infiller import Infiller
from openglm.serve.stops import StopWatch

from .conftest import Live

openai = pytest.importorskip("openai", reason="the openai client is not installed")


@pytest.fixture(scope="module")
def api(live: Live) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client


PROMPT = "the old teacher"


def test_completion(api: openai.OpenAI, infiller: Infiller) -> None:
    answer = api.completions.create(model="tiny", prompt=PROMPT, max_tokens=6, temperature=0)
    direct = infiller.fill(BlankedText((PROMPT, ""), (BlankKind.GMASK,)), max_new_tokens=6)
    [choice] = answer.choices
    assert (choice.text, choice.finish_reason) == (direct.blanks[0].text, direct.blanks[0].finish_reason)
    assert answer.object == "text_completion"
    assert answer.model == "tiny"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == len(direct.blanks[0].token_ids)
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_insertion(api: openai.OpenAI, infiller: Infiller) -> None:
    """With a suffix the text in between is written; its blank is [sMASK], or another one by name."""
    suffix = " the yellow curtain."
    answer = api.completions.create(model="tiny", prompt=PROMPT, suffix=suffix, max_tokens=6, temperature=0)
    direct = infiller.fill(BlankedText((PROMPT, suffix), (BlankKind.SMASK,)), max_new_tokens=6)
    assert answer.choices[0].text == direct.blanks[0].text
    short = api.completions.create(
        model="tiny", prompt=PROMPT, suffix=suffix, max_tokens=6, temperature=0, extra_body={"blank": "[MASK]"}
    )
    direct = infiller.fill(BlankedText((PROMPT, suffix), (BlankKind.MASK,)), max_new_tokens=6)
    assert short.choices[0].text == direct.blanks[0].text


def test_prompts_are_literal(api: openai.OpenAI, infiller: Infiller) -> None:
    prompt = "the [MASK] bridge [gMASK]"
    answer = api.completions.create(model="tiny", prompt=prompt, max_tokens=4, temperature=0, echo=True)
    direct = infiller.fill(BlankedText((prompt, ""), (BlankKind.GMASK,)), max_new_tokens=4)
    assert answer.choices[0].text == prompt + direct.blanks[0].text


def test_several_answers_are_the_samples_of_the_seed(api: openai.OpenAI, infiller: Infiller) -> None:
    answer = api.completions.create(model="tiny", prompt=[PROMPT, "老师"], n=3, max_tokens=5, seed=4, top_p=0.9)
    texts = []
    for prompt in (PROMPT, "老师"):
        text = BlankedText((prompt, ""), (BlankKind.GMASK,))
        direct = infiller.fill(text, max_new_tokens=5, temperature=1.0, top_p=0.9, num_return_sequences=3, seed=4)
        texts += [one.blanks[0].text for one in (direct, *direct.alternatives)]
    assert [choice.text for choice in answer.choices] == texts
    assert [choice.index for choice in answer.choices] == list(range(6))


def test_best_of_gives_the_most_probable(api: openai.OpenAI) -> None:
    options = {"model": "tiny", "prompt": PROMPT, "max_tokens": 4, "seed": 1, "logprobs": 0}
    some = api.completions.create(**options, n=8).choices
    best = api.completions.create(**options, n=2, best_of=8).choices

    def mean(choice: object) -> float:
        values = choice.logprobs.token_logprobs  # type: ignore[attr-defined]
        return sum(values) / max(1, len(values))

    full = [choice for choice in some if choice.finish_reason == "length"]
    assert all(choice.text in [one.text for one in some] for choice in best)
    assert [choice.index for choice in best] == [0, 1]
    assert mean(best[0]) >= max(map(mean, full), default=-99) - 1e-6 or best[0].finish_reason == "stop"


@pytest.mark.parametrize("stop", [None, ["e", "走"]])
def test_streams_give_what_whole_answers_give(api: openai.OpenAI, stop: list[str] | None) -> None:
    options = {
        "model": "tiny", "prompt": [PROMPT, "老师"], "max_tokens": 12, "n": 3, "seed": 5, "logprobs": 2, "stop": stop,
    }  # fmt: skip
    whole = api.completions.create(**options)
    chunks = list(api.completions.create(**options, stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].usage == whole.usage
    assert chunks[-1].choices == []
    for choice in whole.choices:
        own = [c for chunk in chunks for c in chunk.choices if c.index == choice.index]
        assert "".join(c.text for c in own) == choice.text
        assert [c.finish_reason for c in own if c.finish_reason] == [choice.finish_reason]
        assert [token for c in own for token in c.logprobs.tokens] == choice.logprobs.tokens
        logprobs = [value for c in own for value in c.logprobs.token_logprobs]
        assert logprobs == pytest.approx(choice.logprobs.token_logprobs)
        assert not any(word in choice.text for word in stop or [])


def test_logprobs(api: openai.OpenAI, infiller: Infiller) -> None:
    answer = api.completions.create(model="tiny", prompt=PROMPT, max_tokens=6, temperature=0, logprobs=3)
    found = answer.choices[0].logprobs
    direct = infiller.fill(BlankedText((PROMPT, ""), (BlankKind.GMASK,)), max_new_tokens=6).blanks[0]
    assert found is not None
    assert found.tokens is not None
    assert found.top_logprobs is not None
    assert "".join(found.tokens) == direct.text == answer.choices[0].text
    assert found.token_logprobs == pytest.approx(direct.token_logprobs[: len(direct.token_ids)], abs=1e-3)
    for offset, token in zip(found.text_offset or [], found.tokens, strict=True):
        assert direct.text[offset:].startswith(token)
    for top in found.top_logprobs:
        values = list(top.values())
        assert 3 <= len(values) <= 4
        assert values == sorted(values, reverse=True)


def test_stop_ends_the_text_in_front_of_it(api: openai.OpenAI) -> None:
    options = {"model": "tiny", "prompt": PROMPT, "max_tokens": 30, "temperature": 0}
    text = api.completions.create(**options).choices[0].text
    assert len(text) > 8
    stop = text[5:8]
    answer = api.completions.create(**options, stop=stop)
    assert answer.choices[0].text == text[: text.index(stop)]
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.completion_tokens < 30


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"frequency_penalty": -1}, "frequency_penalty"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"best_of": 1, "n": 2}, "best_of"),
        ({"best_of": 3, "stream": True}, "best_of"),
        ({"temperature": 0, "n": 2}, "n"),
        ({"temperature": 3}, "temperature"),
        ({"extra_body": {"top_k": -2}}, "top_k"),
        ({"extra_body": {"min_tokens": 17}}, "min_tokens"),
        ({"extra_body": {"guided_regex": "a+"}}, "guided_regex"),
        ({"extra_body": {"response_format": {"type": "json_object"}}}, "response_format"),
        ({"extra_body": {"temperture": 1}}, "temperture"),
        ({"extra_body": {"truncate_prompt_tokens": 8}}, "truncate_prompt_tokens"),
        ({"max_tokens": 64}, "max_tokens"),
        ({"prompt": "the river " * 60}, "prompt"),
        ({"prompt": [1, 10**6]}, "prompt"),
        ({"seed": -2}, "seed"),
        ({"n": 17}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 5000}, "max_tokens"),
        ({"stop": list("abcdefghijklmnopq")}, "stop"),
        ({"stop": ""}, "stop"),
        ({"logprobs": 21}, "logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"prompt": [[1], "a"]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"extra_body": {"min_p": 1}}, "min_p"),
    ],
)
def test_what_is_not_supported_is_named(api: openai.OpenAI, options: dict[str, object], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        api.completions.create(**{"model": "tiny", "prompt": PROMPT, **options})  # type: ignore[call-overload]
    assert caught.value.param == param


def test_zeros_and_nothing_are_no_options(api: openai.OpenAI) -> None:
    answer = api.completions.create(
        model="tiny", prompt=PROMPT, presence_penalty=0, frequency_penalty=0.0, logit_bias={}, user="me",
        best_of=1, suffix=None, stop=None, logprobs=None, echo=False, stream=False,
    )  # fmt: skip
    assert answer.choices[0].logprobs is None


def test_models_and_errors(api: openai.OpenAI) -> None:
    assert [model.id for model in api.models.list()] == ["tiny"]
    assert api.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError):
        api.completions.create(model="gpt", prompt="a")


@pytest.mark.parametrize("cut", [1, 2, 3, 100])
def test_stop_strings_in_pieces(cut: int) -> None:
    def read(text: str, *stops: str) -> tuple[str, bool]:
        watch, out = StopWatch(stops), ""
        for start in range(0, len(text), cut):
            certain, stop = watch.push(text[start : start + cut])
            out += certain
            if stop is not None:
                assert stop in stops
                return out, True
        return out + watch.finish(), False

    assert read("one two three", "two") == ("one ", True)
    assert read("one two three", "twx", "threex") == ("one two three", False)
    assert read("aaab", "aab") == ("a", True)
    assert read("abcabd", "abd") == ("abc", True)
    assert read("xyz") == ("xyz", False)
    assert read("", "a") == ("", False)
