"""What the routes share: the model, its worker, the limits, and how a call is carried out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import ExitStack, aclosing, suppress
from typing import Any, Generic, TypeVar

from pydantic import BaseModel
from starlette.requests import Request as HTTPRequest
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ..blanks import BlankedText, BlankKind
from ..finetuning.classifier import Classifier
from ..infill.infiller import Infiller
from ..infill.request import Request
from .admission import Admission
from .errors import HTTPError, bad_request, closing
from .http import EventStream, HungUp, error_response, or_hung_up, read_body
from .lenient import HEADER, Lenient
from .metrics import Metrics
from .schemas import Blank, Json
from .settings import Settings
from .worker import Ticket, Updates, Worker

READING_SECONDS = 10  # that a client has for what is left when the time of its request is up
M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")


class Service:
    """A model that is served.

    Attributes:
        infiller: the model.
        classifier: says its labels, if it has any.
        fills: whether the model writes; below a classification head it does not.
        worker: runs its engine.
        admission: counts its requests.
        metrics: what was done.
        started: Unix time.
    """

    def __init__(
        self, infiller: Infiller, settings: Settings, *, classifier: Classifier | None = None, fills: bool = True
    ) -> None:
        self.classifier, self.fills = classifier, fills
        self.infiller, self.settings, self.started = infiller, settings, int(time.time())
        on_cpu = infiller.engine.runner.device.type == "cpu"
        self.worker, self.metrics = Worker(infiller.engine, between_steps=not on_cpu), Metrics()
        self.admission = Admission(settings.limits.requests)
        self.scoring = Admission(settings.limits.scorings)
        engine, watch = infiller.engine, self.metrics.watch
        watch("openglm_requests_in_flight", "Requests running or waiting", lambda: self.admission.count)
        watch("openglm_jobs_running", "Texts the engine is filling", lambda: engine.running)
        watch("openglm_jobs_queued", "Texts waiting for the engine", lambda: self.worker.waiting)
        watch("openglm_steps", "Passes of the model", lambda: self.worker.steps)

    @property
    def ready(self) -> bool:
        """Whether requests are taken."""
        return self.worker.alive and not self.admission.draining

    @property
    def weight_bytes(self) -> int:
        """Of the weights in memory."""
        model = self.infiller.model
        return sum(each.numel() * each.element_size() for each in (*model.parameters(), *model.buffers()))

    def check_model(self, name: str | None) -> None:
        """Raises HTTPError 404: another model than the one that is served."""
        names = (self.settings.name, *self.settings.aliases)
        if name is not None and name.removesuffix(":latest") not in names:  # which ollama's clients add
            raise HTTPError(
                404,
                f"no model of that name is served here; this server has {self.settings.name!r} (GET /v1/models)",
                param="model",
                code="model_not_found",
            )

    def text(self, given: str | list[str | Blank]) -> BlankedText:
        """A text of a request, with no more blanks than a request may have."""
        blanked = BlankedText.parse(given) if isinstance(given, str) else _from_parts(given)
        most = self.settings.limits.blanks
        if len(blanked.kinds) > most:
            raise bad_request(f"{len(blanked.kinds)} blanks; this server takes at most {most} in a text", "text")
        return blanked

    def request(self, text: BlankedText, *, top_logprobs: int = 0, **options: Any) -> Request:
        """A text made ready for the engine, within the limits of a request.

        Raises:
            HTTPError: 400 beyond a limit; and as `Infiller.fill`.
        """
        limits = self.settings.limits
        for name in ("num_beams", "num_return_sequences"):
            if options.get(name, 1) > limits.answers:
                raise bad_request(f"{name} is {options[name]}; this server allows at most {limits.answers}", name)
        request = self.infiller.request(text, top_logprobs=top_logprobs, **options)
        self.check_tokens([request])
        return request

    def check_tokens(self, requests: Sequence[Request]) -> None:
        """Raises HTTPError 400: more tokens than one request may have written."""
        limits = self.settings.limits
        wanted = sum((each.job.max_tokens - len(each.prompt.blanked.kinds)) * each.job.num_seqs for each in requests)
        if wanted > limits.tokens:
            raise bad_request(
                f"up to {wanted} tokens would be written (texts x blanks x answers or beams); this server allows "
                f"{limits.tokens} in a request: lower the limit of tokens, the texts, the blanks or the answers",
                code="too_many_tokens",
            )

    async def run(self, tickets: Sequence[Ticket]) -> AsyncGenerator[tuple[Ticket, Sequence[Any]], None]:
        """What is written for tickets that share their `updates`, until all of them are over.

        Leaving early gives up what is not done.

        Raises:
            whatever kept one of them from being done.
        """
        if not tickets:
            return
        updates, open_ = tickets[0].updates, len(tickets)
        try:
            for ticket in tickets:
                self.metrics.prompt_tokens.inc(ticket.request.prompt_tokens)
                self.worker.submit(ticket)
            while open_:
                ticket, news = await updates.get()
                if news is not None:
                    yield ticket, news
                    continue
                open_ -= 1
                if ticket.error is not None:
                    raise ticket.error
        finally:
            for ticket in tickets:
                self.worker.cancel(ticket)
                self.metrics.written_tokens.inc(ticket.written)

    def stream(
        self,
        events: AsyncGenerator[bytes, None],
        failed: Callable[[HTTPError], bytes],
        media_type: str = "text/event-stream",
    ) -> EventStream:
        """An answer that is sent as it is written; `failed` is its last event if it cannot be finished."""
        seconds, left = self.settings.limits.seconds, self.metrics.hung_up.inc
        return EventStream(events, seconds=seconds, failed=failed, left=left, media_type=media_type)

    async def whole(self, tickets: Sequence[Ticket]) -> None:
        """Wait until all of them are done. Raises as `run`."""
        async with aclosing(self.run(tickets)) as news:
            async for _ in news:
                pass


def updates() -> Updates:
    """A queue for the news of tickets."""
    return asyncio.Queue()


def usage(prompt_tokens: int, completion_tokens: int) -> Json:
    """Token counts as OpenAI gives them."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


class Call(Generic[M]):
    """A route that takes a body: reads it, holds a place, answers; an ASGI application.

    Args:
        kind: of the body.
        answer: makes the response.
        scores: whether it takes a place among those that score.
        writes: whether it needs a model that writes.
        shape: the body of an error, where it is not OpenAI's.
    """

    def __init__(
        self,
        service: Service,
        kind: type[M],
        answer: Callable[[Service, M], Awaitable[Response]],
        *,
        scores: bool = False,
        writes: bool = True,
        shape: Callable[[HTTPError], Json] = HTTPError.body,
    ) -> None:
        self._service, self._kind, self._answer, self._shape = service, kind, answer, shape
        self._refused = writes and not service.fills
        self._admissions = [service.admission, *([service.scoring] if scores else [])]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        service, limits = self._service, self._service.settings.limits
        request = HTTPRequest(scope, receive)
        try:
            if self._refused:
                raise bad_request("this model says labels only: POST /v1/classify", code="not_supported")
            for admission in self._admissions:
                admission.check()  # before the body is read: a full server reads nothing
            body = await read_body(request, self._kind, limits)
            service.check_model(getattr(body, "model", None))
            with ExitStack() as places:
                for admission in self._admissions:
                    places.enter_context(admission.place())
                response = await or_hung_up(self._answer(service, body), receive, limits.seconds)
                if isinstance(body, Lenient) and body.ignored:
                    response.headers[HEADER] = body.ignored
                try:
                    await asyncio.wait_for(response(scope, receive, send), limits.seconds + READING_SECONDS)
                except asyncio.TimeoutError:
                    raise HungUp from None  # it does not read its answer
        except HungUp:
            service.metrics.hung_up.inc()
        except asyncio.CancelledError:  # the server ends now
            with suppress(Exception):  # an answer that has begun cannot be another one
                await error_response(closing(), self._shape)(scope, receive, send)
            raise
        except Exception as error:
            await error_response(error, self._shape)(scope, receive, send)


def _from_parts(parts: list[str | Blank]) -> BlankedText:
    literals, kinds = [""], []
    for part in parts:
        if isinstance(part, str):
            literals[-1] += part
        else:
            kinds.append(BlankKind(part.blank))
            literals.append("")
    return BlankedText(tuple(literals), tuple(kinds))
