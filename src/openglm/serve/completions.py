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
from ..errors import ContextLengthError
from ..infill.request import Request
from .completion_schemas import CompletionRequest
from .echo import echoed
from .errors import bad_request
from .http import sse
from .logprobs import joined, named
from .schemas import Json
from .service import Service, updates, usage
from .stops import StopWatch
from .worker import Ticket, Updates

AT_THE_END = (BlankKind.GMASK, BlankKind.SMASK, BlankKind.MASK)  # the first one that the model fills
IN_BETWEEN = (BlankKind.SMASK, BlankKind.MASK, BlankKind.GMASK)


@dataclass(frozen=True)
class CompletionPiece:
    """A piece of a completion."""

    answer: int
    text: str
    finish_reason: str | None
    logprobs: Json | None


@dataclass(frozen=True)
class CompletionPrompt:
    """What is completed.

    Attributes:
        text: as it is given back with `echo`.
        ids: its tokens.
        logprobs: `CompletionLogprobs` of it, if they are wanted.
    """

    text: str
    ids: Sequence[int]
    logprobs: Json | None = None


class Completion(Ticket):
    """The completions of one prompt.

    Attributes:
        texts: of each answer, up to its stop string.
        reasons: why each of them ended.
        stopped_by: the stop string that ended it, if one did.
    """

    def __init__(
        self,
        request: Request,
        updates: Updates,
        stops: Sequence[str],
        *,
        streams: bool,
        asked: int,
        logprobs: int | None = None,
    ) -> None:
        super().__init__(request, updates, streams=streams, asked=asked)
        answers = request.job.num_answers
        self._watches = [StopWatch(stops) for _ in range(answers)]
        self._logprobs = logprobs
        self._told = [0] * answers  # tokens whose log-probabilities were given out
        self.texts = [""] * answers
        self.reasons: list[str | None] = [None] * answers
        self.stopped_by: list[str | None] = [None] * answers

    def news(self) -> Sequence[Any]:
        """As `Ticket`: a list of `CompletionPiece`."""
        parts = []
        for piece in self.request.pieces():
            answer = piece.answer
            if self.reasons[answer] is not None:
                continue  # it reached a stop string
            text, stop = self._watches[answer].push(piece.text)
            reason = "stop" if stop else piece.finish_reason
            if stop:
                self.request.job.stop(answer)
            elif reason is not None:
                text += self._watches[answer].finish()
            self.texts[answer] += text
            self.reasons[answer], self.stopped_by[answer] = reason, stop
            if self.streams and (text or reason is not None):
                parts.append(CompletionPiece(answer, text, reason, self._new_logprobs(answer)))
        self.enough = all(reason is not None for reason in self.reasons)
        return parts

    def _new_logprobs(self, answer: int) -> Json | None:
        if self._logprobs is None:
            return None
        out = self.logprobs(answer, self._told[answer], whole=self.reasons[answer] is None)
        self._told[answer] += len(out["tokens"])
        return out

    def logprobs(self, answer: int, first: int = 0, *, whole: bool = False) -> Json:
        """`CompletionLogprobs` of the tokens from `first` on that the text holds.

        Args:
            whole: only those that it holds to their last character.
        """
        output, spelled = self.request.job.outputs()[answer], self.request.spelled[answer][0]
        length, offset = len(self.texts[answer]), sum(map(len, spelled[:first]))
        out: Json = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for number, text in enumerate(spelled[first:], first):
            if text and (offset >= length or (whole and offset + len(text) > length)):
                break
            text, logprob = text[: length - offset], output.logprobs[0][number]
            out["tokens"].append(text)
            out["token_logprobs"].append(logprob)
            out["text_offset"].append(offset)
            if self._logprobs:
                written = output.fills[0][number], text, logprob
                out["top_logprobs"].append(named(self.request.tokenizer, output.top_logprobs[0][number], written))
            offset += len(text)
        if not self._logprobs:
            out["top_logprobs"] = None
        return out

    def best(self, count: int) -> list[int]:
        """The answers that are most probable by the mean over their tokens."""
        logprobs = [output.logprobs[0] for output in self.request.job.outputs()]
        if count == len(logprobs):
            return list(range(count))
        means = [sum(each) / max(1, len(each)) for each in logprobs]
        return sorted(range(len(means)), key=lambda answer: -means[answer])[:count]


async def complete(service: Service, body: CompletionRequest) -> Response:
    """Complete one prompt or several."""
    prompts = [await _prompt(service, body, each) for each in body.prompts]
    tickets = await completions(service, body, [prompt.text for prompt in prompts]) if body.most else []
    frame: Json = {
        "id": f"cmpl-{uuid.uuid4().hex}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": service.settings.name,
    }
    if body.stream:
        return service.stream(_chunks(service, body, tickets, prompts, frame), lambda error: sse(error.body()))
    await service.whole(tickets)
    if tickets:
        choices = [
            _choice(body, prompt, ticket, answer)
            for prompt, ticket in zip(prompts, tickets, strict=True)
            for answer in ticket.best(body.count)
        ]
    else:
        choices = [
            {"text": prompt.text, "logprobs": prompt.logprobs, "finish_reason": "length"}
            for prompt in prompts
            for _ in range(body.count)
        ]
    choices = [{"index": index, **choice} for index, choice in enumerate(choices)]
    return JSONResponse({**frame, "choices": choices, "usage": _usage(tickets, prompts)})


async def completions(service: Service, body: CompletionRequest, prompts: Sequence[str]) -> list[Completion]:
    """Tickets for the completions of some texts, ready to be run. Raises HTTPError 400."""
    news, longest = updates(), service.infiller.model.config.max_sequence_length - 1
    if body.most > longest:
        message = f"max_tokens {body.most}; this model writes at most {longest} tokens into a blank"
        raise bad_request(message, "max_tokens", "context_length_exceeded")

    def prepared() -> list[Completion]:
        requests = [_request(service, body, prompt) for prompt in prompts]
        streams, asked = bool(body.stream), len(prompts) * body.samples * body.most
        return [
            Completion(each, news, body.stops, streams=streams, asked=asked, logprobs=body.logprobs)
            for each in requests
        ]

    return await service.worker.prepare(prepared, sum(map(len, prompts)) + len(body.suffix or ""))


def _choice(body: CompletionRequest, prompt: CompletionPrompt, ticket: Completion, answer: int) -> Json:
    logprobs = None if body.logprobs is None else ticket.logprobs(answer)
    if logprobs is not None and prompt.logprobs is not None:
        logprobs = joined(prompt.logprobs, logprobs)
    return {
        "text": (prompt.text if body.echo else "") + ticket.texts[answer],
        "logprobs": logprobs,
        "finish_reason": ticket.reasons[answer],
    }


async def _prompt(service: Service, body: CompletionRequest, given: str | list[int]) -> CompletionPrompt:
    infiller = service.infiller
    if isinstance(given, str):
        text, ids = given, None
    elif max(given) >= infiller.tokenizer.num_tokens:
        raise bad_request(f"token {max(given)}; this model has {infiller.tokenizer.num_tokens}", "prompt")
    else:
        text, ids = infiller.tokenizer.decode(given, skip_special=True), given
    if not body.echo or body.logprobs is None:
        return CompletionPrompt(text, ids or [])
    top, blank = body.logprobs, blank_of(service, body)

    def scored() -> CompletionPrompt:
        tokens = infiller.tokenizer.encode(text) if ids is None else ids
        return CompletionPrompt(text, tokens, echoed(infiller, tokens, blank, top))

    return await service.worker.score(scored, len(text))


async def _chunks(
    service: Service,
    body: CompletionRequest,
    tickets: Sequence[Completion],
    prompts: Sequence[CompletionPrompt],
    frame: Json,
) -> AsyncGenerator[bytes, None]:
    with_usage = bool(body.stream_options and body.stream_options.include_usage)
    extra: Json = {"usage": None} if with_usage else {}
    began, first = time.monotonic(), True
    number_of = {id(ticket): number for number, ticket in enumerate(tickets)}

    def chunk(index: int, text: str, logprobs: Json | None, reason: str | None) -> bytes:
        choice = {"text": text, "index": index, "logprobs": logprobs, "finish_reason": reason}
        return sse({**frame, "choices": [choice], **extra})

    if body.echo:
        for index in range(len(prompts) * body.count):
            prompt = prompts[index // body.count]
            yield chunk(index, prompt.text, prompt.logprobs, None if tickets else "length")
    async with aclosing(service.run(tickets)) as news:
        async for ticket, parts in news:
            if first:
                service.metrics.first_piece.labels("/v1/completions").observe(time.monotonic() - began)
                first = False
            number = number_of[id(ticket)]
            yield b"".join(
                chunk(number * body.count + part.answer, part.text, _behind(prompts[number], part), part.finish_reason)
                for part in parts
            )
    if with_usage:
        yield sse({**frame, "choices": [], "usage": _usage(tickets, prompts)})
    yield sse("[DONE]")


def _behind(prompt: CompletionPrompt, part: CompletionPiece) -> Json | None:
    """Log-probabilities of a part, with offsets that count the prompt where that was given back with its own."""
    if part.logprobs is None or prompt.logprobs is None:
        return part.logprobs
    return {**part.logprobs, "text_offset": [len(prompt.text) + offset for offset in part.logprobs["text_offset"]]}


def _usage(tickets: Sequence[Completion], prompts: Sequence[CompletionPrompt]) -> Json:
    if not tickets:
        return usage(sum(len(prompt.ids) for prompt in prompts), 0)
    return usage(sum(ticket.request.prompt_tokens for ticket in tickets), sum(ticket.written for ticket in tickets))


def _request(service: Service, body: CompletionRequest, prompt: str) -> Request:
    temperature = 1.0 if body.temperature is None else body.temperature
    sampling: dict[str, Any] = {
        "top_k": max(0, body.top_k or 0),
        "top_p": 1.0 if body.top_p is None else body.top_p,
        "seed": None if body.seed == -1 else body.seed,
    }
    try:
        return service.request(
            BlankedText((prompt, body.suffix or ""), (blank_of(service, body),)),
            top_logprobs=body.logprobs or 0,
            max_new_tokens=body.most,
            min_new_tokens=body.min_tokens or 0,
            temperature=temperature,
            **(sampling if temperature else {}),  # clients send all of them, whatever the temperature
            repetition_penalty=body.repetition_penalty or 1.0,
            num_return_sequences=body.samples,
            truncate=body.cutting,
        )
    except ContextLengthError as error:
        raise bad_request(str(error), "prompt", "context_length_exceeded") from error


def blank_of(service: Service, body: CompletionRequest) -> BlankKind:
    """The kind of blank that a completion is written into."""
    if body.blank is not None:
        return BlankKind(body.blank)
    fills = service.infiller.model.config.blanks
    return next(kind for kind in (IN_BETWEEN if body.suffix else AT_THE_END) if kind.value in fills)
