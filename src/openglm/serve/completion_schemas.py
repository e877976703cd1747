"""OpenAI's completions: what a request may hold, what its fields may not be together, and the answer."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field, ValidationInfo, field_validator, model_validator

from .errors import refused
from .schemas import BlankName, MaxTokens, ModelField, Seed, Strict, Usage
from .settings import Limits

MOST_STOPS, LONGEST_STOP = 4, 128
UNSUPPORTED = ("presence_penalty", "frequency_penalty", "logit_bias")


class StreamOptions(Strict):
    """How to stream a completion."""

    include_usage: bool | None = Field(None, description="A last chunk with the usage.")
    include_obfuscation: bool | None = Field(None, description="Accepted; nothing is padded.")


class CompletionRequest(Strict):
    """OpenAI's completions. The prompt goes on, or with `suffix`, what stands between the two is written."""

    model: ModelField = None
    prompt: str | Annotated[list[str], Field(min_length=1)] = Field(description="One text, or several.")
    suffix: str | None = Field(None, description="What follows the text to be written.")
    max_tokens: MaxTokens | None = Field(16, description="Most tokens of a completion.")
    temperature: float | None = Field(1.0, ge=0, le=2)
    top_p: float | None = Field(1.0, gt=0, le=1)
    n: int | None = Field(1, ge=1, le=128, description="Completions per prompt.")
    best_of: int | None = Field(None, ge=1, le=128, description="Sample so many and give the n most probable.")
    logprobs: int | None = Field(None, ge=0, le=5, description="Log-probabilities, and of so many other tokens.")
    echo: bool | None = Field(False, description="Put the prompt in front of the completion.")
    stop: str | list[str] | None = Field(None, description="Up to 4 strings at which to stop; not part of the text.")
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    seed: Seed | None = None
    presence_penalty: float | None = Field(None, ge=-2, le=2, description="Only 0.")
    frequency_penalty: float | None = Field(None, ge=-2, le=2, description="Only 0.")
    logit_bias: dict[str, float] | None = Field(None, description="Only empty.")
    user: str | None = Field(None, description="Accepted and not looked at.")
    blank: BlankName | None = Field(
        None, description="The blank to use. Default: [gMASK] at the end, [sMASK] in front of a suffix, or the nearest."
    )

    @property
    def prompts(self) -> list[str]:
        """The texts to complete."""
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt

    @property
    def count(self) -> int:
        """Completions per prompt that are given back."""
        return self.n or 1

    @property
    def samples(self) -> int:
        """Completions per prompt that are written."""
        return max(self.count, self.best_of or 1)

    @property
    def most(self) -> int:
        """Most tokens of a completion."""
        return self.max_tokens or 16

    @property
    def stops(self) -> list[str]:
        """The stop strings."""
        return [] if self.stop is None else [self.stop] if isinstance(self.stop, str) else self.stop

    @field_validator("stop")
    @classmethod
    def _stops_are_few_and_short(cls, stop: str | list[str] | None) -> str | list[str] | None:
        stops = [] if stop is None else [stop] if isinstance(stop, str) else stop
        if len(stops) > MOST_STOPS or not all(0 < len(each) <= LONGEST_STOP for each in stops):
            raise refused("stop", f"stop takes up to {MOST_STOPS} strings of 1 to {LONGEST_STOP} characters")
        return stop

    @model_validator(mode="after")
    def _only_what_can_be_done(self) -> CompletionRequest:
        for name in UNSUPPORTED:
            if getattr(self, name):
                raise refused(name, f"{name} is not supported; leave it out", "unsupported_parameter")
        if self.echo and self.logprobs is not None:
            raise refused("echo", "the prompt has no log-probabilities; leave echo or logprobs out")
        if self.stream_options is not None and not self.stream:
            raise refused("stream_options", "stream_options go with stream")
        return self

    @model_validator(mode="after")
    def _samples_agree(self) -> CompletionRequest:
        if self.best_of is not None and self.best_of < self.count:
            raise refused("best_of", f"best_of {self.best_of} is below n {self.count}")
        if self.stream and self.samples > self.count:
            raise refused("best_of", "with best_of above n nothing can be streamed; set stream to false")
        if self.temperature == 0 and self.samples > 1:
            raise refused("n", "temperature 0 has one answer; raise it, or set n and best_of to 1")
        return self

    @model_validator(mode="after")
    def _within_limits(self, info: ValidationInfo) -> CompletionRequest:
        """`info.context` is the server's `Limits`."""
        limits: Limits = info.context or Limits()
        answers = len(self.prompts) * self.samples
        if answers > limits.answers:
            raise refused("n", f"{answers} completions; this server allows at most {limits.answers} in a request")
        if answers * self.most > limits.tokens:
            message = f"max_tokens {self.max_tokens}; this server allows {limits.tokens // answers} of each"
            raise refused("max_tokens", message)
        return self


class CompletionLogprobs(BaseModel):
    """Of each token of a completion."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]] | None
    text_offset: list[int]


class CompletionChoice(BaseModel):
    """One completion."""

    text: str
    index: int
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length"]


class CompletionResponse(BaseModel):
    """OpenAI's completion object."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage
