"""/v1/fill, /v1/choose and /v1/score: what `Infiller` does, over HTTP."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from starlette.responses import JSONResponse, Response

from ..blanks import BlankedText
from ..errors import OpenGLMError
from ..infill.request import Request
from .errors import HTTPError, as_http_error, bad_request
from .http import sse
from .schemas import ChooseRequest, FillRequest, Json, ScoreRequest, TextValue
from .service import Service, updates, usage
from .worker import Ticket

NOT_OPTIONS = {"model", "text", "texts", "stream", "on_error"}


async def fill(service: Service, body: FillRequest) -> Response:
    """Fill the blanks of a text, or of several."""
    if body.stream and body.num_beams > 1:
        raise bad_request("beams have no order in which to stream; set stream to false or num_beams to 1", "stream")
    options = body.model_dump(exclude=NOT_OPTIONS)
    if body.several is not None:
        return await _fill_all(service, body, body.several, options)
    text = service.text(body.text or "")
    request = await service.worker.prepare(lambda: service.request(text, **options), characters(text))
    ticket = Ticket(request, updates(), streams=body.stream)
    if body.stream:
        return service.stream(_events(service, ticket), lambda error: sse(error.body(), "error"))
    await service.whole([ticket])
    filled = ticket.request.result()
    return JSONResponse({**_frame(service), **filled.to_dict(), "usage": _usage([ticket])})


async def _fill_all(service: Service, body: FillRequest, texts: Sequence[TextValue], options: Json) -> Response:
    if body.stream:
        raise bad_request("a stream has one text; set stream to false, or send the texts one by one", "stream")

    def prepared() -> list[Request | HTTPError]:
        return [_prepared(service, body, number, text, options) for number, text in enumerate(texts)]

    found = await service.worker.prepare(prepared, sum(len(text) for text in texts))
    requests = [each for each in found if isinstance(each, Request)]
    service.check_tokens(requests)
    asked = sum(each.job.num_seqs * each.job.max_tokens for each in requests)
    news = updates()
    tickets = {place: Ticket(each, news, asked=asked) for place, each in enumerate(found) if isinstance(each, Request)}
    await service.whole(list(tickets.values()))
    results = [
        each.body() if isinstance(each, HTTPError) else tickets[place].request.result().to_dict()
        for place, each in enumerate(found)
    ]
    return JSONResponse({**_frame(service), "results": results, "usage": _usage(list(tickets.values()))})


def _prepared(service: Service, body: FillRequest, number: int, text: TextValue, options: Json) -> Request | HTTPError:
    try:
        return service.request(service.text(text), **options)
    except (HTTPError, OpenGLMError) as error:
        found = as_http_error(error)
        wrong = bad_request(f"texts.{number}: {found.message}", "texts", found.code)
        if body.on_error == "raise":
            raise wrong from error
        return wrong


async def _events(service: Service, ticket: Ticket) -> AsyncGenerator[bytes, None]:
    began, first = time.monotonic(), True
    async with aclosing(service.run([ticket])) as news:
        async for _, pieces in news:
            if first:
                service.metrics.first_piece.labels("/v1/fill").observe(time.monotonic() - began)
                first = False
            yield b"".join(sse(vars(piece), "piece") for piece in pieces)
    filled = ticket.request.result()
    yield sse({**_frame(service), **filled.to_dict(), "usage": _usage([ticket])}, "result")


def _frame(service: Service) -> Json:
    return {"model": service.settings.name}


def _usage(tickets: Sequence[Ticket]) -> Json:
    results = [ticket.request.result() for ticket in tickets]
    written = sum(len(blank.token_ids) for each in results for answer in each.answers for blank in answer.blanks)
    return usage(sum(ticket.request.prompt_tokens for ticket in tickets), written)


async def choose(service: Service, body: ChooseRequest) -> Response:
    """Rank answers to a text, or to several."""
    given = [body.text or ""] if body.several is None else body.several
    count, most = len(body.choices) * len(given), service.settings.limits.choices
    if count > most:
        raise bad_request(f"{count} choices; this server takes at most {most} in a request", "choices")
    options = body.model_dump(include={"length_penalty", "calibrate", "context", "ends", "truncate"})
    texts = [service.text(text) for text in given]
    size = sum(map(characters, texts)) + len(texts) * sum(len("".join(choice)) for choice in body.choices)
    ranked = await service.worker.score(lambda: service.infiller.choose(texts, body.choices, **options), size)
    rankings = [{"choices": [one.to_dict() for one in each]} for each in ranked]
    return JSONResponse({**_frame(service), **(rankings[0] if body.several is None else {"results": rankings})})


async def score(service: Service, body: ScoreRequest) -> Response:
    """Log-probability of given fills."""
    text = service.text(body.text)
    size = characters(text) + len("".join(body.fills))
    scored = await service.worker.score(lambda: service.infiller.score(text, body.fills, truncate=body.truncate), size)
    values = scored.to_dict()
    del values["index"], values["probability"]  # of choices only
    return JSONResponse({"model": service.settings.name, **values})


def characters(text: BlankedText) -> int:
    """Length of a text without its blanks."""
    return sum(map(len, text.literals))


def models(service: Service) -> Json:
    """`ModelList`."""
    return {"object": "list", "data": [model_card(service)]}


def model_card(service: Service) -> Json:
    """`ModelCard`."""
    config, settings, classifier = service.infiller.model.config, service.settings, service.classifier
    writes = dict.fromkeys(("fill", "choose", "score", "completions", "suffix"), service.fills)
    return {
        "id": settings.name,
        "object": "model",
        "created": service.started,
        "owned_by": "openglm",
        "aliases": list(settings.aliases),
        "blanks": list(config.blanks),
        "context": config.max_sequence_length,
        "parameters": config.num_parameters,
        "capabilities": {**writes, "classify": classifier is not None},
        "fields": [] if classifier is None else list(classifier.fields),
        "labels": [] if classifier is None else list(classifier.labels),
        "limits": vars(settings.limits),
    }


def find_model(service: Service, name: str) -> Json:
    """`ModelCard` of one model. Raises HTTPError 404."""
    if not name:
        raise HTTPError(404, "name a model", code="model_not_found")
    service.check_model(name)
    return model_card(service)
