"""The OpenAPI document: every route with every answer it can give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from .. import __version__
from .access import is_private
from .classify_schemas import ClassifyBatchResponse, ClassifyRequest, ClassifyResponse
from .completion_schemas import CompletionRequest, CompletionResponse
from .editor_schemas import (
    FimRequest,
    FimResponse,
    GenerateRequest,
    GenerateResponse,
    InfillRequest,
    InfillResponse,
    OllamaError,
    Tags,
    Version,
)
from .schemas import (
    ChooseBatchResponse,
    ChooseRequest,
    ChooseResponse,
    ErrorResponse,
    FillBatchResponse,
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

REQUESTS: tuple[type[BaseModel], ...] = (
    FillRequest, ChooseRequest, ScoreRequest, ClassifyRequest, CompletionRequest, FimRequest, InfillRequest,
    GenerateRequest,
)  # fmt: skip
ANSWERS: tuple[type[BaseModel], ...] = (
    FillResponse, FillBatchResponse, ChooseResponse, ChooseBatchResponse, ScoreResponse, ClassifyResponse,
    ClassifyBatchResponse, CompletionResponse, FimResponse, InfillResponse, GenerateResponse, Tags, Version, ModelCard,
    ModelList, Status, ErrorResponse, OllamaError,
)  # fmt: skip
CLASSIFIED = (ClassifyResponse, ClassifyBatchResponse)
FILLED, CHOSEN = (FillResponse, FillBatchResponse), (ChooseResponse, ChooseBatchResponse)
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
INFILLED = "Server-sent events: InfillResponse with a piece in `content` each, the last one with `stop` true."
LINES = "Lines of JSON: GenerateResponse with a piece in `response` each, the last one with `done` true."
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
        "paths": _paths(),
        "components": {"schemas": defined["$defs"]},
    }
    if settings.key is not None:
        out["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        for path, methods in out["paths"].items():
            if is_private(path):
                for operation in methods.values():
                    operation["security"] = [{"key": []}]
    return out


def _paths() -> Json:
    return {
        "/v1/fill": {
            "post": _posting("fill", "Fill the blanks of texts", FillRequest, [FillResponse, FillBatchResponse], PIECES)
        },
        "/v1/choose": {
            "post": _posting("choose", "Rank answers to texts", ChooseRequest, [ChooseResponse, ChooseBatchResponse])
        },
        "/v1/score": {"post": _posting("score", "Log-probability of given fills", ScoreRequest, ScoreResponse)},
        "/v1/classify": {"post": _posting("classify", "Say the labels of texts", ClassifyRequest, CLASSIFIED)},
        "/v1/completions": {
            "post": _posting(
                "complete", "Complete or insert text, as OpenAI does", CompletionRequest, CompletionResponse, CHUNKS
            )
        },
        "/v1/fim/completions": {
            "post": _posting("fim", "Insert text, as Mistral does", FimRequest, FimResponse, CHUNKS)
        },
        "/infill": {
            "post": _posting("infill", "Insert text, as llama.cpp does", InfillRequest, InfillResponse, INFILLED)
        },
        "/api/generate": {"post": _generate()},
        "/api/tags": {"get": _getting("tags", "What is served, as ollama lists it", Tags, 401, 421)},
        "/api/version": {"get": _getting("version", "Of this server", Version, 401, 421)},
        "/v1/models": {"get": _getting("models", "What is served, and what it can do", ModelList, 401, 421)},
        "/v1/models/{model}": {"get": _one_model()},
        "/health": {"get": _getting("health", "Whether the server works", Status, 421, unwell=True)},
        "/ready": {"get": _getting("ready", "Whether it takes requests", Status, 421, unwell=True)},
        "/metrics": {"get": _metrics()},
    }


def _ref(model: type[BaseModel]) -> Json:
    return {"$ref": f"#/components/schemas/{model.__name__}"}


def _json(description: str, model: type[BaseModel]) -> Json:
    return {"description": description, "content": {"application/json": {"schema": _ref(model)}}}


def _refusal(status: int) -> Json:
    out = _json(REFUSALS[status], ErrorResponse)
    return {**out, "headers": RETRY_AFTER} if status in (429, 503) else out


def _posting(
    name: str,
    summary: str,
    body: type[BaseModel],
    answer: type[BaseModel] | Sequence[type[BaseModel]],
    events: str | None = None,
) -> Json:
    if isinstance(answer, Sequence):
        done = _json("Done; the second form for several texts.", answer[0])
        done["content"]["application/json"]["schema"] = {"anyOf": [_ref(each) for each in answer]}
    else:
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


def _generate() -> Json:
    out = _posting("generate", "Complete or insert text, as ollama does", GenerateRequest, GenerateResponse)
    done = out["responses"]["200"]
    done["description"] = f"Done; unless `stream` is false: {LINES}"
    done["content"]["application/x-ndjson"] = {"schema": {"type": "string", "description": LINES}}
    either = {"anyOf": [_ref(OllamaError), _ref(ErrorResponse)]}  # the latter before the request is read
    for status in REFUSALS:
        out["responses"][str(status)]["content"]["application/json"]["schema"] = either
    return out


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
