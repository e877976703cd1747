"""The ASGI application: routes, pages and what surrounds them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ..infill.infiller import Infiller
from .access import AccessControl
from .classify_schemas import ClassifyRequest
from .classifying import Served, classify
from .completion_schemas import CompletionRequest
from .completions import complete
from .editor_schemas import FimRequest, GenerateRequest, InfillRequest
from .editors import fim, generate, infill, ollama_error, tags, version
from .errors import HTTPError
from .http import error_response
from .infilling import choose, fill, find_model, models, score
from .lenient import HEADER
from .openapi import document
from .schemas import ChooseRequest, FillRequest, ScoreRequest
from .service import Call, Service
from .settings import Settings

STATIC = Path(__file__).parent / "static"
PAGES = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/texts.js": ("texts.js", "text/javascript"),
    "/docs": ("docs.html", "text/html"),
    "/docs.css": ("docs.css", "text/css"),
    "/docs.js": ("docs.js", "text/javascript"),
}


def build_app(model: Infiller | Served, settings: Settings | None = None) -> Starlette:
    """The application around a model, with its labels if it has any (`open_served`).

    Its `state.service` is the `Service`; the worker starts and stops with the application's
    lifespan.
    """
    settings = settings or Settings()
    served = Served(model) if isinstance(model, Infiller) else model
    service = Service(served.infiller, settings, classifier=served.classifier, fills=served.fills)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        service.worker.start()
        try:
            yield
        finally:
            await service.worker.stop()

    routes = _routes(service)
    paths = frozenset(route.path for route in routes)
    middleware = []
    if settings.cors_origins:
        middleware.append(
            Middleware(
                CORSMiddleware,
                allow_origins=list(settings.cors_origins),
                allow_methods=["GET", "POST"],
                allow_headers=["*"],
                expose_headers=["Retry-After", HEADER],
            )
        )
    middleware.append(
        Middleware(AccessControl, key=settings.key, hosts=settings.hosts, metrics=service.metrics, routes=paths)
    )
    handlers: dict[Any, Any] = {HTTPException: _as_ours, HTTPError: _refused, Exception: _refused}
    app = Starlette(routes=routes, middleware=middleware, lifespan=lifespan, exception_handlers=handlers)
    app.state.service = service
    return app


def _routes(service: Service) -> list[Route]:
    api = document(service.settings)

    def json_at(path: str, make: Callable[[Request], Any]) -> Route:
        async def answer(request: Request) -> Response:
            return JSONResponse(make(request))

        return Route(path, answer, methods=["GET"])

    return [
        Route("/v1/fill", Call(service, FillRequest, fill), methods=["POST"]),
        Route("/v1/choose", Call(service, ChooseRequest, choose, scores=True), methods=["POST"]),
        Route("/v1/score", Call(service, ScoreRequest, score, scores=True), methods=["POST"]),
        Route("/v1/classify", Call(service, ClassifyRequest, classify, scores=True, writes=False), methods=["POST"]),
        Route("/v1/completions", Call(service, CompletionRequest, complete), methods=["POST"]),
        Route("/v1/fim/completions", Call(service, FimRequest, fim), methods=["POST"]),
        Route("/infill", Call(service, InfillRequest, infill), methods=["POST"]),
        Route("/api/generate", Call(service, GenerateRequest, generate, shape=ollama_error), methods=["POST"]),
        json_at("/api/tags", lambda request: tags(service)),
        json_at("/api/version", lambda request: version()),
        json_at("/v1/models", lambda request: models(service)),
        json_at("/v1/models/{model:path}", lambda request: find_model(service, request.path_params["model"])),
        json_at("/openapi.json", lambda request: api),
        Route("/health", _status(lambda: service.worker.alive), methods=["GET"]),
        Route("/ready", _status(lambda: service.ready), methods=["GET"]),
        Route("/metrics", _metrics(service), methods=["GET"]),
        *(Route(path, _page(name, kind), methods=["GET"]) for path, (name, kind) in PAGES.items()),
    ]


def _status(well: Callable[[], bool]) -> Callable[[Request], Any]:
    async def answer(request: Request) -> Response:
        return JSONResponse({"status": "ok"}) if well() else JSONResponse({"status": "unavailable"}, 503)

    return answer


def _metrics(service: Service) -> Callable[[Request], Any]:
    async def answer(request: Request) -> Response:
        content, media_type = service.metrics.render()
        return Response(content, media_type=media_type)

    return answer


def _page(name: str, media_type: str) -> Callable[[Request], Any]:
    content = (STATIC / name).read_bytes()

    async def answer(request: Request) -> Response:
        return Response(content, media_type=media_type, headers={"Cache-Control": "no-cache"})

    return answer


async def _refused(request: Request, error: Exception) -> Response:
    return error_response(error)


async def _as_ours(request: Request, error: HTTPException) -> Response:
    codes = {404: "not_found", 405: "method_not_allowed"}
    messages = {404: "no such path; GET /docs lists them", 405: "this path takes another method; see the Allow header"}
    message = messages.get(error.status_code, error.detail)
    headers = dict(error.headers or {})
    return error_response(HTTPError(error.status_code, message, code=codes.get(error.status_code), headers=headers))
