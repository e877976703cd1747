"""/infill, /api/generate and /v1/fim/completions: one blank, asked for and answered as editors expect it."""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from datetime import datetime, timezone
from typing import Any

from starlette.responses import JSONResponse, Response

from .. import __version__
from ..blanks import BlankKind
from ..engine.options import DEFAULT_MAX_NEW_TOKENS
from .completion_schemas import CompletionRequest
from .completions import Completion, blank_of, completions
from .editor_schemas import FimRequest, GenerateRequest, InfillRequest, OllamaOptions
from .errors import HTTPError
from .http import sse
from .schemas import Json
from .service import Service, usage

NANOSECONDS = 1_000_000_000


def _asked(service: Service, prompt: str, suffix: str | None, most: int | None, **options: Any) -> CompletionRequest:
    """A request as /v1/completions takes it, with a limit that the model can keep."""
    body = CompletionRequest.model_validate({"prompt": prompt, "suffix": suffix or None, "truncate": "around"})
    limits, context = service.settings.limits, service.infiller.model.config.max_sequence_length
    kind = BlankKind(options["blank"]) if options.get("blank") else blank_of(service, body)
    if most is None or most < 0:
        most = DEFAULT_MAX_NEW_TOKENS[kind]
    most = max(1, min(most, context - 1, limits.tokens))
    options["min_tokens"] = min(options.get("min_tokens") or 0, most)
    return body.model_copy(update={"max_tokens": most, **options})


class _Run:
    """One completion on its way, with what every interface says about it.

    Attributes:
        reading: seconds until the first piece, as far as they are known.
    """

    def __init__(self, service: Service, ticket: Completion, route: str) -> None:
        self._service, self._route, self.ticket = service, route, ticket
        self._began = time.monotonic()
        self.reading = 0.0

    async def texts(self) -> AsyncGenerator[str, None]:
        """What is written, as it is written."""
        first = True
        async with aclosing(self._service.run([self.ticket])) as news:
            async for _, parts in news:
                if first:
                    self.reading, first = self.seconds, False
                    self._service.metrics.first_piece.labels(self._route).observe(self.reading)
                if text := "".join(part.text for part in parts):
                    yield text

    async def finish(self) -> None:
        """Wait until it is done."""
        await self._service.whole([self.ticket])

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self._began

    def streamed(
        self, event: Callable[[str], bytes], last: Callable[[], Iterator[bytes]]
    ) -> AsyncGenerator[bytes, None]:
        """Events of an interface: one per text, then the last ones."""

        async def events() -> AsyncGenerator[bytes, None]:
            async with aclosing(self.texts()) as texts:
                async for text in texts:
                    yield event(text)
            for each in last():
                yield each

        return events()


async def _run(service: Service, body: CompletionRequest, route: str) -> _Run:
    [ticket] = await completions(service, body, [str(body.prompt)])
    return _Run(service, ticket, route)


# --- llama.cpp ------------------------------------------------------------------------------------


async def infill(service: Service, body: InfillRequest) -> Response:
    """llama.cpp's /infill."""
    asked = _asked(
        service, body.input_prefix + body.prompt, body.input_suffix, body.n_predict, temperature=body.temperature,
        top_k=body.top_k, top_p=body.top_p or 1e-6, repetition_penalty=body.repeat_penalty, seed=body.seed,
        stop=body.stop, stream=body.stream,
    )  # fmt: skip
    if body.n_predict == 0:  # only to warm a cache that there is none of
        return JSONResponse(_infilled(service, "", 0, 0, "limit", "", truncated=False, seconds=0.0, reading=0.0))
    run = await _run(service, asked, "/infill")
    ticket = run.ticket

    def done(content: str) -> Json:
        stop = ticket.stopped_by[0]
        kind = "word" if stop else "limit" if ticket.reasons[0] == "length" else "eos"
        return _infilled(
            service, content, ticket.written, ticket.request.prompt_tokens, kind, stop or "",
            truncated=bool(ticket.request.prompt.dropped), seconds=run.seconds, reading=run.reading,
        )  # fmt: skip

    if body.stream:
        events = run.streamed(
            lambda text: sse({"index": 0, "content": text, "stop": False}), lambda: iter([sse(done(""))])
        )
        return service.stream(events, lambda error: sse(error.body(), "error"))
    await run.finish()
    return JSONResponse(done(ticket.texts[0]))


def _infilled(
    service: Service, content: str, written: int, read: int, kind: str, word: str, *,
    truncated: bool, seconds: float, reading: float,
) -> Json:  # fmt: skip
    writing = max(seconds - reading, 1e-6)
    return {
        "index": 0,
        "content": content,
        "stop": True,
        "model": service.settings.name,
        "tokens_predicted": written,
        "tokens_evaluated": read,
        "tokens_cached": 0,
        "stop_type": kind,
        "stopping_word": word,
        "truncated": truncated,
        "timings": {
            "prompt_n": read,
            "prompt_ms": 1000 * reading,
            "prompt_per_second": read / max(reading, 1e-6),
            "predicted_n": written,
            "predicted_ms": 1000 * writing,
            "predicted_per_second": written / writing,
        },
    }


# --- ollama ---------------------------------------------------------------------------------------


def ollama_error(error: HTTPError) -> Json:
    """`OllamaError`."""
    return {"error": error.message}


async def generate(service: Service, body: GenerateRequest) -> Response:
    """ollama's /api/generate."""
    options = body.options or OllamaOptions()
    asked = _asked(
        service, body.prompt, body.suffix, options.num_predict, temperature=options.temperature, top_k=options.top_k,
        top_p=options.top_p or 1e-6, repetition_penalty=options.repeat_penalty, seed=options.seed,
        stop=options.stop, stream=body.stream is not False,
    )  # fmt: skip
    if (not body.prompt and not body.suffix) or options.num_predict == 0:  # ollama's way of loading a model
        done = {"done": True, "done_reason": "load" if options.num_predict else "length"}
        return JSONResponse({**_frame(service), "response": "", **done, **_durations(0, 0.0, 0, 0.0)})
    run = await _run(service, asked, "/api/generate")
    ticket = run.ticket

    def done_with(text: str) -> Json:
        durations = _durations(ticket.request.prompt_tokens, run.reading, ticket.written, run.seconds)
        return {**_frame(service), "response": text, "done": True, "done_reason": ticket.reasons[0], **durations}

    if body.stream is False:
        await run.finish()
        return JSONResponse(done_with(ticket.texts[0]))
    events = run.streamed(
        lambda text: _line({**_frame(service), "response": text, "done": False}), lambda: iter([_line(done_with(""))])
    )
    return service.stream(events, lambda error: _line(ollama_error(error)), "application/x-ndjson")


def _line(data: Json) -> bytes:
    return json.dumps(data, ensure_ascii=False).encode() + b"\n"


def _frame(service: Service) -> Json:
    return {"model": service.settings.name, "created_at": datetime.now(timezone.utc).isoformat()}


def _durations(read: int, reading: float, written: int, seconds: float) -> Json:
    return {
        "total_duration": int(seconds * NANOSECONDS),
        "load_duration": 0,
        "prompt_eval_count": read,
        "prompt_eval_duration": int(reading * NANOSECONDS),
        "eval_count": written,
        "eval_duration": int((seconds - reading) * NANOSECONDS),
    }


def tags(service: Service) -> Json:
    """`Tags`."""
    config, name = service.infiller.model.config, service.settings.name
    digest = hashlib.sha256(repr(config).encode()).hexdigest()  # of its shape: what it is called changes nothing
    details = {
        "parent_model": "",
        "format": "openglm",
        "family": "glm",
        "families": ["glm"],
        "parameter_size": f"{config.num_parameters / 1e6:.0f}M",
        "quantization_level": "",
    }
    started = datetime.fromtimestamp(service.started, timezone.utc).isoformat()
    return {
        "models": [
            {
                "name": name,
                "model": name,
                "modified_at": started,
                "size": service.weight_bytes,
                "digest": digest,
                "details": details,
            }
        ]
    }


def version() -> Json:
    """`Version`."""
    return {"version": __version__}


# --- Mistral --------------------------------------------------------------------------------------


async def fim(service: Service, body: FimRequest) -> Response:
    """Mistral's /v1/fim/completions."""
    asked = _asked(
        service, body.prompt, body.suffix, body.max_tokens, min_tokens=body.min_tokens,
        temperature=0.7 if body.temperature is None else body.temperature, top_p=body.top_p, seed=body.random_seed,
        stop=body.stop, stream=body.stream, blank=body.blank,
    )  # fmt: skip
    run = await _run(service, asked, "/v1/fim/completions")
    ticket = run.ticket
    frame = {"id": uuid.uuid4().hex, "created": int(time.time()), "model": service.settings.name}

    def counted() -> Json:
        return usage(ticket.request.prompt_tokens, ticket.written)

    def chunk(text: str, reason: str | None = None, **extra: Any) -> bytes:
        choice = {"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": reason}
        return sse({**frame, "object": "chat.completion.chunk", "choices": [choice], **extra})

    if body.stream:
        last = run.streamed(chunk, lambda: iter([chunk("", ticket.reasons[0], usage=counted()), sse("[DONE]")]))
        return service.stream(last, lambda error: sse(error.body()))
    await run.finish()
    message = {"role": "assistant", "content": ticket.texts[0], "tool_calls": None}
    choice = {"index": 0, "message": message, "finish_reason": ticket.reasons[0]}
    return JSONResponse({**frame, "object": "chat.completion", "choices": [choice], "usage": counted()})
