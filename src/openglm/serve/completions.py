"""/v1/completions: OpenAI's completions by filling one blank.

    no suffix    prompt [gMASK]           the text goes on
    suffix       prompt [sMASK] suffix    what stands between the two is written

Prompt and suffix are literal text: the wording [MASK] in them is no blank.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from starlette.responses import JSONResponse, Response

from ..blanks import BlankedText, BlankKind
from ..infill.request import Request
from .completion_schemas import CompletionRequest
from .http import EventStream, sse
from .schemas import Json
from .service import Service, updates, usage
from .stops import StopWatch
from .worker import Ticket, Updates

AT_THE_END = (BlankKind.GMASK, BlankKind.SMASK, BlankKind.MASK)  # the first one that the model fills
IN_BETWEEN = (BlankKind.SMASK, BlankKind.MASK, BlankKind.GMASK)


@dataclass(frozen=True)
class Part:
    """A piece of a completion."""

    answer: int
    text: str
    finish_reason: str | None
    logprobs: Json | None


class Completion(Ticket):
    """The completions of one prompt.

    Attributes:
        texts: of each answer, up to its stop string.
        reasons: why each of them ended.
    """

    def __init__(
        self, request: Request, updates: Updates, stops: Sequence[str], *, streams: bool, logprobs: int | None
    ) -> None:
        super().__init__(request, updates, streams=streams)
        answers = request.job.num_answers
        self._watches = [StopWatch(stops) for _ in range(answers)]
        self._logprobs = logprobs
        self._told = [0] * answers  # tokens whose log-probabilities were given out
        self.texts = [""] * answers
        self.reasons: list[str | None] = [None] * answers

    def news(self) -> Sequence[Any]:
        """As `Ticket`: a list of `Part`."""
        parts = []
        for piece in self.request.pieces():
            answer = piece.answer
            if self.reasons[answer] is not None:
                continue  # it reached a stop string
            text, stopped = self._watches[answer].push(piece.text)
            reason = "stop" if stopped else piece.finish_reason
            if stopped:
                self.request.job.stop(answer)
            elif reason is not None:
                text += self._watches[answer].finish()
            self.texts[answer] += text
            self.reasons[answer] = reason
            if self.streams and (text or reason is not None):
                parts.append(Part(answer, text, reason, self._new_logprobs(answer)))
        self.enough = all(reason is not None for reason in self.reasons)
        return parts

    def _new_logprobs(self, answer: int) -> Json | None:
        if self._logprobs is None:
            return None
        first, self._told[answer] = self._told[answer], self.written_by(answer)
        return self.logprobs(answer, first)

    def written_by(self, answer: int) -> int:
        """Tokens of an answer."""
        return len(self.request.job.outputs()[answer].fills[0])

    def logprobs(self, answer: int, first: int = 0) -> Json:
        """`CompletionLogprobs` of the tokens from `first` on that the text holds."""
        output, spelled, offset = self.request.job.outputs()[answer], self.request.spelled[answer][0], 0
        out: Json = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for number, text in enumerate(spelled):
            beyond = offset >= len(self.texts[answer]) and text
            if number >= first and not beyond:
                out["tokens"].append(text[: len(self.texts[answer]) - offset])
                out["token_logprobs"].append(output.logprobs[0][number])
                out["text_offset"].append(offset)
                if self._logprobs:
                    out["top_logprobs"].append(self._named(output.top_logprobs[0][number]))
            offset += len(text)
        if not self._logprobs:
            out["top_logprobs"] = None
        return out

    def _named(self, best: Sequence[tuple[int, float]]) -> dict[str, float]:
        named: dict[str, float] = {}
        for token, logprob in best:
            named.setdefault(self.request.spell(token), logprob)
        return named

    def best(self, count: int) -> list[int]:
        """The answers that are most probable by the mean over their tokens."""
        logprobs = [output.logprobs[0] for output in self.request.job.outputs()]
        if count == len(logprobs):
            return list(range(count))
        means = [sum(each) / max(1, len(each)) for each in logprobs]
        return sorted(range(len(means)), key=lambda answer: -means[answer])[:count]


async def complete(service: Service, body: CompletionRequest) -> Response:
    """Complete one prompt or several."""
    prompts, count, news = body.prompts, body.count, updates()

    def prepared() -> list[Completion]:
        return [
            Completion(
                _request(service, body, prompt), news, body.stops, streams=bool(body.stream), logprobs=body.logprobs
            )
            for prompt in prompts
        ]

    tickets = await service.worker.prepare(prepared, sum(map(len, prompts)) + len(body.suffix or ""))
    frame: Json = {
        "id": f"cmpl-{uuid.uuid4().hex}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": service.settings.name,
    }
    if body.stream:
        return EventStream(
            _chunks(service, body, tickets, prompts, frame),
            seconds=service.settings.limits.seconds,
            failed=lambda error: sse(error.body()),
            left=service.metrics.hung_up.inc,
        )
    await service.whole(tickets)
    choices = [
        {
            "text": (prompt if body.echo else "") + ticket.texts[answer],
            "index": number * count + place,
            "logprobs": None if body.logprobs is None else ticket.logprobs(answer),
            "finish_reason": ticket.reasons[answer],
        }
        for number, (prompt, ticket) in enumerate(zip(prompts, tickets, strict=True))
        for place, answer in enumerate(ticket.best(count))
    ]
    return JSONResponse({**frame, "choices": choices, "usage": _usage(tickets)})


async def _chunks(
    service: Service, body: CompletionRequest, tickets: Sequence[Completion], prompts: Sequence[str], frame: Json
) -> AsyncGenerator[bytes, None]:
    with_usage = bool(body.stream_options and body.stream_options.include_usage)
    extra: Json = {"usage": None} if with_usage else {}
    began, first = time.monotonic(), True
    number_of = {id(ticket): number for number, ticket in enumerate(tickets)}

    def chunk(index: int, text: str, logprobs: Json | None, reason: str | None) -> bytes:
        choice = {"text": text, "index": index, "logprobs": logprobs, "finish_reason": reason}
        return sse({**frame, "choices": [choice], **extra})

    if body.echo:
        for number, prompt in enumerate(prompts):
            for answer in range(body.n or 1):
                yield chunk(number * (body.n or 1) + answer, prompt, None, None)
    async with aclosing(service.run(tickets)) as news:
        async for ticket, parts in news:
            if first:
                service.metrics.first_piece.labels("/v1/completions").observe(time.monotonic() - began)
                first = False
            base = number_of[id(ticket)] * (body.n or 1)
            yield b"".join(chunk(base + p.answer, p.text, p.logprobs, p.finish_reason) for p in parts)
    if with_usage:
        yield sse({**frame, "choices": [], "usage": _usage(tickets)})
    yield sse("[DONE]")


def _usage(tickets: Sequence[Completion]) -> Json:
    return usage(sum(ticket.request.prompt_tokens for ticket in tickets), sum(ticket.written for ticket in tickets))


def _request(service: Service, body: CompletionRequest, prompt: str) -> Request:
    blank = _blank(service, body)
    temperature = 1.0 if body.temperature is None else body.temperature
    return service.request(
        BlankedText((prompt, body.suffix or ""), (blank,)),
        top_logprobs=body.logprobs or 0,
        max_new_tokens=body.most,
        temperature=temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
        num_return_sequences=body.samples,
        seed=body.seed,
    )


def _blank(service: Service, body: CompletionRequest) -> BlankKind:
    if body.blank is not None:
        return BlankKind(body.blank)
    fills = service.infiller.model.config.blanks
    return next(kind for kind in (IN_BETWEEN if body.suffix else AT_THE_END) if kind.value in fills)
