"""OpenAI's completions: what a request may hold, what its fields may not be together, and the answer."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, cast

from pydantic import BaseModel, Field, ValidationInfo, field_validator, model_validator

from .errors import refused
from .lenient import CONSTRAINTS, SHAPING, Lenient
from .schemas import BlankName, MinTokens, ModelField, Strict, Truncate, Usage
from .settings import Limits

MOST_STOPS, LONGEST_STOP = 16, 128
TokenIds = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
AnySeed = Annotated[int, Field(ge=-1, le=2**63 - 1, description="Makes sampling repeat; -1: does not.")]
Stop = Annotated[
    str | list[str] | None,
    Field(description=f"Up to {MOST_STOPS} strings at which to stop; not part of the text."),
]


def stop_list(stop: str | list[str] | None) -> list[str]:
    """Stop strings as a list. Raises what a validator raises: too many, empty or too long."""
    stops = [] if stop is None else [stop] if isinstance(stop, str) else stop
    if len(stops) > MOST_STOPS or not all(0 < len(each) <= LONGEST_STOP for each in stops):
        raise refused("stop", f"stop takes up to {MOST_STOPS} strings of 1 to {LONGEST_STOP} characters")
    return stops


class StreamOptions(Strict):
    """How to stream a completion."""

    include_usage: bool | None = Field(None, description="A last chunk with the usage.")
    include_obfuscation: bool | None = Field(None, description="Accepted; nothing is padded.")
    continuous_usage_stats: bool | None = Field(None, description="Accepted; the usage comes once.")


class CompletionRequest(Lenient):
    """OpenAI's completions. The prompt goes on, or with `suffix`, what stands between the two is written."""

    unsupported: ClassVar = {**CONSTRAINTS, **SHAPING}

    model: ModelField = None
    prompt: (
        str | Annotated[list[str], Field(min_length=1)] | TokenIds | Annotated[list[TokenIds], Field(min_length=1)]
    ) = Field(description="One text, or several; as strings or as token ids.")
    suffix: str | None = Field(None, description="What follows the text to be written.")
    max_tokens: Annotated[int, Field(ge=0, le=2**31)] | None = Field(
        16, description="Most tokens of a completion; 0, with echo, for the prompt alone."
    )
    min_tokens: MinTokens | None = Field(None, description="Fewest tokens of a completion.")
    temperature: float | None = Field(1.0, ge=0, le=2)
    top_k: Annotated[int, Field(ge=-1, le=2**31)] | None = Field(None, description="-1 or 0: all tokens.")
    top_p: float | None = Field(1.0, gt=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0, le=100, description="Above 1: fewer repetitions.")
    n: int | None = Field(1, ge=1, le=128, description="Completions per prompt.")
    best_of: int | None = Field(None, ge=1, le=128, description="Sample so many and give the n most probable.")
    logprobs: int | None = Field(
        None, ge=0, le=20, description="Log-probabilities, and of so many of the most probable tokens."
    )
    echo: bool | None = Field(False, description="Put the prompt in front of the completion.")
    stop: Stop = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    seed: AnySeed | None = None
    truncate: Truncate | None = Field(
        None, description="What to drop of a text longer than the context. Default: around, if there is a suffix."
    )
    truncate_prompt_tokens: Literal[-1] | None = Field(None, description="-1: as truncate start.")
    user: str | None = Field(None, description="Accepted and not looked at.")
    blank: BlankName | None = Field(
        None, description="The blank to use. Default: [gMASK] at the end, [sMASK] in front of a suffix, or the nearest."
    )

    @property
    def prompts(self) -> list[str | list[int]]:
        """The texts to complete, as strings or token ids."""
        one = isinstance(self.prompt, str) or isinstance(self.prompt[0], int)
        return cast("list[str | list[int]]", [self.prompt] if one else self.prompt)

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
        return 16 if self.max_tokens is None else self.max_tokens

    @property
    def stops(self) -> list[str]:
        """The stop strings."""
        return stop_list(self.stop)

    @property
    def cutting(self) -> str | None:
        """What is dropped of a text that is too long."""
        if self.truncate is None and self.truncate_prompt_tokens is not None:
            return "start"
        return self.truncate or ("around" if self.suffix else None)

    @field_validator("stop")
    @classmethod
    def _stops_are_few_and_short(cls, stop: str | list[str] | None) -> str | list[str] | None:
        stop_list(stop)
        return stop

    @model_validator(mode="after")
    def _options_agree(self) -> CompletionRequest:
        if self.stream_options is not None and not self.stream:
            raise refused("stream_options", "stream_options go with stream")
        if not self.most and not self.echo:
            raise refused("max_tokens", "with max_tokens 0 nothing is written; raise it, or set echo")
        if (self.min_tokens or 0) > self.most:
            raise refused("min_tokens", f"min_tokens {self.min_tokens} is above max_tokens {self.most}")
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
            message = f"max_tokens {self.most}; this server allows {limits.tokens // answers} of each"
            raise refused("max_tokens", message)
        return self


class CompletionLogprobs(BaseModel):
    """Of each token of a completion."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]] | None = Field(
        description="The most probable tokens at each place, the written one always among them."
    )
    text_offset: list[int] = Field(description="Where each token begins in `text`, in Unicode characters.")


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
