"""/v1/fill, /v1/choose and /v1/score: what `Infiller` does, over HTTP."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from starlette.responses import JSONResponse, Response

from ..blanks import BlankedText
from .errors import HTTPError, bad_request
from .http import sse
from .schemas import ChooseRequest, FillRequest, Json, ScoreRequest
from .service import Service, updates, usage
from .worker import Ticket

NOT_OPTIONS = {"model", "text", "stream"}


async def fill(service: Service, body: FillRequest) -> Response:
    """Fill the blanks of a text."""
    if body.stream and body.num_beams > 1:
        raise bad_request("beams have no order in which to stream; set stream to false or num_beams to 1", "stream")
    options = body.model_dump(exclude=NOT_OPTIONS)
    text = service.text(body.text)
    request = await service.worker.prepare(lambda: service.request(text, **options), characters(text))
    ticket = Ticket(request, updates(), streams=body.stream)
    if body.stream:
        return service.stream(_events(service, ticket), lambda error: sse(error.body(), "error"))
    await service.whole([ticket])
    return JSONResponse(filled_record(service, ticket))


async def _events(service: Service, ticket: Ticket) -> AsyncGenerator[bytes, None]:
    began, first = time.monotonic(), True
    async with aclosing(service.run([ticket])) as news:
        async for _, pieces in news:
            if first:
                service.metrics.first_piece.labels("/v1/fill").observe(time.monotonic() - began)
                first = False
            yield b"".join(sse(vars(piece), "piece") for piece in pieces)
    yield sse(filled_record(service, ticket), "result")


def filled_record(service: Service, ticket: Ticket) -> Json:
    """`FillResponse` of a ticket that is done."""
    filled = ticket.request.result()
    written = sum(len(blank.token_ids) for answer in filled.answers for blank in answer.blanks)
    return {
        "model": service.settings.name,
        **filled.to_dict(),
        "usage": usage(ticket.request.prompt_tokens, written),
    }


async def choose(service: Service, body: ChooseRequest) -> Response:
    """Rank answers to a text."""
    most = service.settings.limits.choices
    if len(body.choices) > most:
        raise bad_request(f"{len(body.choices)} choices; this server takes at most {most}", "choices")
    options = body.model_dump(exclude={"model", "text", "choices"})
    text = service.text(body.text)
    size = characters(text) + sum(len("".join(choice)) for choice in body.choices)
    ranked = await service.worker.score(lambda: service.infiller.choose(text, body.choices, **options), size)
    return JSONResponse({"model": service.settings.name, "choices": [one.to_dict() for one in ranked]})


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
    config, settings = service.infiller.model.config, service.settings
    return {
        "id": settings.name,
        "object": "model",
        "created": service.started,
        "owned_by": "openglm",
        "aliases": list(settings.aliases),
        "blanks": list(config.blanks),
        "context": config.max_sequence_length,
        "parameters": config.num_parameters,
        "capabilities": dict.fromkeys(("fill", "choose", "score", "completions", "suffix"), True),
        "limits": vars(settings.limits),
    }


def find_model(service: Service, name: str) -> Json:
    """`ModelCard` of one model. Raises HTTPError 404."""
    if not name:
        raise HTTPError(404, "name a model", code="model_not_found")
    service.check_model(name)
    return model_card(service)
