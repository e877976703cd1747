"""Requests that somebody else runs: pieces, several answers, most probable tokens, answers that are stopped."""

from __future__ import annotations

import pytest

from openglm.infill.infiller import Infiller
from openglm.infill.request import Request
from openglm.network.model import GLMModel
from openglm.tokenizer import BilingualTokenizer

TEXT = "the [MASK] bridge，老师[MASK]。"
SAMPLED = {"max_new_tokens": 5, "temperature": 1.1, "seed": 2, "num_return_sequences": 3}


@pytest.fixture(scope="module")
def infiller(tiny_model: GLMModel, tokenizer: BilingualTokenizer) -> Infiller:
    return Infiller(tiny_model, tokenizer)


def run(infiller: Infiller, *requests: Request) -> None:
    for request in requests:
        infiller.engine.submit(request.job)
    while not all(request.job.done for request in requests):
        infiller.engine.step()


def test_pieces_of_several_answers(infiller: Infiller) -> None:
    request, direct = infiller.request(TEXT, **SAMPLED), infiller.fill(TEXT, **SAMPLED)
    run(infiller, request)
    pieces = list(request.pieces())
    assert list(request.pieces()) == []
    assert request.result() == direct
    for answer, filled in enumerate((direct, *direct.alternatives)):
        for blank, fill in enumerate(filled.blanks):
            own = [piece for piece in pieces if (piece.answer, piece.blank) == (answer, blank)]
            assert "".join(piece.text for piece in own) == fill.text == "".join(request.spelled[answer][blank])
            assert [piece.finish_reason for piece in own][-1] == fill.finish_reason
            assert len(request.spelled[answer][blank]) == len(fill.token_ids)


def test_requests_that_draw_alike_are_done_together(infiller: Infiller) -> None:
    """Their other options may differ; each gets what it gets alone."""
    asked = [{**SAMPLED, "seed": seed, "max_new_tokens": 2 + seed} for seed in range(4)]
    asked += [{"max_new_tokens": 4}, {"max_new_tokens": 3, "min_new_tokens": 2}, {"repetition_penalty": 1.5}]
    requests = [infiller.request(TEXT, **options) for options in asked]
    run(infiller, *requests)
    for request, options in zip(requests, asked, strict=True):
        direct = infiller.fill(TEXT, **options)
        assert [blank.token_ids for blank in request.result().blanks] == [blank.token_ids for blank in direct.blanks]


def test_most_probable_tokens(infiller: Infiller) -> None:
    request = infiller.request(TEXT, top_logprobs=4, max_new_tokens=5)
    plain = infiller.request(TEXT, max_new_tokens=5)
    run(infiller, request, plain)
    [output] = request.job.outputs()
    for best, logprobs, fill in zip(output.top_logprobs, output.logprobs, output.fills, strict=True):
        assert len(best) == len(logprobs)
        for top, logprob in zip(best, logprobs, strict=True):
            assert len(top) == 4
            assert [value for _, value in top] == sorted((value for _, value in top), reverse=True)
            assert top[0][1] >= logprob - 1e-5
        for top, token, logprob in zip(best, fill, logprobs, strict=False):
            assert dict(top).get(token, logprob) == pytest.approx(logprob, abs=1e-5)
    assert plain.job.outputs()[0].top_logprobs == [[], []]


def test_stopped_answers_leave_the_others_alone(infiller: Infiller) -> None:
    direct = infiller.fill(TEXT, **SAMPLED)
    request = infiller.request(TEXT, **SAMPLED)
    infiller.engine.submit(request.job)
    infiller.engine.step()
    request.job.stop(1)
    while not request.job.done:
        infiller.engine.step()
    found = [request.result(), *request.result().alternatives]
    assert [blank.finish_reason for blank in found[1].blanks] == ["stop", "stop"]
    assert found[0].text == direct.text
    assert found[2].text == direct.alternatives[1].text
    assert infiller.engine.runner.num_held == 0
