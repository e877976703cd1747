"""The OpenAPI document: every route with every answer it can give."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from .. import __version__
from .completion_schemas import CompletionRequest, CompletionResponse
from .schemas import (
    ChooseRequest,
    ChooseResponse,
    ErrorResponse,
    FillRequest,
    FillResponse,
    Json,
    ModelCard,
    ModelList,
    ScoreRequest,
    ScoreResponse,
    Status,
)
from .settings import Settings

REQUESTS: tuple[type[BaseModel], ...] = (FillRequest, ChooseRequest, ScoreRequest, CompletionRequest)
ANSWERS: tuple[type[BaseModel], ...] = (
    FillResponse, ChooseResponse, ScoreResponse, CompletionResponse, ModelCard, ModelList, Status, ErrorResponse,
)  # fmt: skip
REFUSALS = {
    400: "The body is not what it should be, or asks for what cannot be done; `param` names the field.",
    401: "No key, or a wrong one.",
    404: "No model of that name.",
    408: "The body took too long to arrive.",
    413: "The body is too large.",
    415: "The body is not declared as JSON.",
    421: "The server is not called by that name.",
    429: "The server is at its limit; Retry-After says when to come back.",
    500: "An internal error.",
    503: "The server is shutting down.",
    504: "The request took too long.",
}
RETRY_AFTER = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer", "minimum": 1}}}
PIECES = (
    "Server-sent events: `piece` (blank, text, finish_reason, answer) as text is written, then `result` "
    "(a FillResponse), or `error`."
)
EVENT = {
    "type": "object",
    "properties": {"event": {"type": "string"}, "data": {"type": "string"}},
    "required": ["data"],
}
CHUNKS = "Server-sent events: completion chunks, the last one `[DONE]`."


def document(settings: Settings) -> Json:
    """OpenAPI 3.1."""
    _, defined = models_json_schema(
        [*((model, "validation") for model in REQUESTS), *((model, "serialization") for model in ANSWERS)],
        ref_template="#/components/schemas/{model}",
    )
    out: Json = {
        "openapi": "3.1.0",
        "info": {
            "title": "openglm",
            "version": __version__,
            "description": "Fills the blanks of texts with GLM: as many as you like, of any length.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": {
            "/v1/fill": {"post": _posting("fill", "Fill the blanks of a text", FillRequest, FillResponse, PIECES)},
            "/v1/choose": {
                "post": _posting("choose", "Rank answers to a text with blanks", ChooseRequest, ChooseResponse)
            },
            "/v1/score": {"post": _posting("score", "Log-probability of given fills", ScoreRequest, ScoreResponse)},
            "/v1/completions": {
                "post": _posting(
                    "complete", "Complete or insert text, as OpenAI does", CompletionRequest, CompletionResponse, CHUNKS
                )
            },
            "/v1/models": {"get": _getting("models", "What is served, and what it can do", ModelList, 401, 421)},
            "/v1/models/{model}": {"get": _one_model()},
            "/health": {"get": _getting("health", "Whether the server works", Status, 421, unwell=True)},
            "/ready": {"get": _getting("ready", "Whether it takes requests", Status, 421, unwell=True)},
            "/metrics": {"get": _metrics()},
        },
        "components": {"schemas": defined["$defs"]},
    }
    if settings.key is not None:
        out["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        for path, methods in out["paths"].items():
            if path.startswith("/v1/") or path == "/metrics":
                for operation in methods.values():
                    operation["security"] = [{"key": []}]
    return out


def _ref(model: type[BaseModel]) -> Json:
    return {"$ref": f"#/components/schemas/{model.__name__}"}


def _json(description: str, model: type[BaseModel]) -> Json:
    return {"description": description, "content": {"application/json": {"schema": _ref(model)}}}


def _refusal(status: int) -> Json:
    out = _json(REFUSALS[status], ErrorResponse)
    return {**out, "headers": RETRY_AFTER} if status in (429, 503) else out


def _posting(
    name: str, summary: str, body: type[BaseModel], answer: type[BaseModel], events: str | None = None
) -> Json:
    done = _json("Done.", answer)
    if events is not None:
        done["description"] = f"Done; with `stream`: {events}"
        done["content"]["text/event-stream"] = {"schema": {**EVENT, "description": events}}
    return {
        "operationId": name,
        "summary": summary,
        "requestBody": {"required": True, "content": {"application/json": {"schema": _ref(body)}}},
        "responses": {"200": done, **{str(status): _refusal(status) for status in REFUSALS}},
    }


def _getting(name: str, summary: str, answer: type[BaseModel], *refusals: int, unwell: bool = False) -> Json:
    responses: dict[str, Any] = {"200": _json("Yes." if unwell else "Done.", answer)}
    if unwell:
        responses["503"] = _json("No.", Status)
    responses.update({str(status): _refusal(status) for status in refusals})
    return {"operationId": name, "summary": summary, "responses": responses}


def _one_model() -> Json:
    parameter = {"name": "model", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    return {**_getting("model", "One model", ModelCard, 401, 404, 421), "parameters": [parameter]}


def _metrics() -> Json:
    return {
        "operationId": "metrics",
        "summary": "Counters for Prometheus",
        "responses": {
            "200": {"description": "Done.", "content": {"text/plain": {"schema": {"type": "string"}}}},
            "401": _refusal(401),
            "421": _refusal(421),
        },
    }
