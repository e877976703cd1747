"""What editors and other servers' clients send: llama.cpp's /infill, ollama's /api, Mistral's fill-in-the-middle.

Defaults are those of each interface. A limit that asks for more than the model can write is met as far as it
goes: these clients send one setting to every model.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, field_validator, model_validator

from .completion_schemas import AnySeed, Stop, stop_list
from .errors import refused
from .lenient import Lenient
from .schemas import BlankName, MaxTokens, MinTokens, Usage

Limit = Annotated[int, Field(ge=-2, le=2**31, description="Most tokens; -1: as many as the blank holds.")]
Temperature = Annotated[float, Field(ge=0, le=100)]
TopK = Annotated[int, Field(ge=-1, le=2**31)]
TopP = Annotated[float, Field(ge=0, le=1)]
Penalty = Annotated[float, Field(gt=0, le=100)]


class _Stopping(Lenient):
    @field_validator("stop", check_fields=False)
    @classmethod
    def _stops_are_few_and_short(cls, stop: str | list[str] | None) -> str | list[str] | None:
        stop_list(stop)
        return stop


class InfillRequest(_Stopping):
    """llama.cpp's infill: what stands between prefix and suffix."""

    input_prefix: str = Field("", description="What stands before the cursor.")
    input_suffix: str = Field("", description="What stands behind it.")
    prompt: str = Field("", description="The part of the line before the cursor that the prefix lacks.")
    n_predict: Limit = -1
    temperature: Temperature = 0.8
    top_k: TopK = 40
    top_p: TopP = 0.95
    repeat_penalty: Penalty = 1.0
    seed: AnySeed = -1
    stop: Stop = None
    stream: bool = False


class OllamaOptions(_Stopping):
    """How ollama decodes."""

    num_predict: Limit = -1
    temperature: Temperature = 0.8
    top_k: TopK = 40
    top_p: TopP = 0.9
    repeat_penalty: Penalty = 1.0
    seed: AnySeed = -1
    stop: Stop = None


class GenerateRequest(Lenient):
    """ollama's generate: a prompt goes on, or with a suffix, what stands between the two is written."""

    model: str
    prompt: str = ""
    suffix: str | None = None
    stream: bool | None = Field(True, description="As lines of JSON.")
    options: OllamaOptions | None = None

    @property
    def ignored(self) -> str:
        """As `Lenient`, those of the options too."""
        own = self.options.ignored if self.options else ""
        return ", ".join(filter(None, (super().ignored, own)))


class FimRequest(_Stopping):
    """Mistral's fill-in-the-middle completions."""

    model: str | None = None
    prompt: str
    suffix: str | None = None
    max_tokens: MaxTokens | None = None
    min_tokens: MinTokens | None = None
    temperature: Temperature | None = 0.7
    top_p: Annotated[float, Field(gt=0, le=1)] | None = 1.0
    stop: Stop = None
    stream: bool | None = False
    random_seed: AnySeed | None = None
    blank: BlankName | None = None

    @model_validator(mode="after")
    def _limits_agree(self) -> FimRequest:
        if self.max_tokens is not None and (self.min_tokens or 0) > self.max_tokens:
            raise refused("min_tokens", f"min_tokens {self.min_tokens} is above max_tokens {self.max_tokens}")
        return self


class InfillResponse(BaseModel):
    """llama.cpp's answer."""

    content: str
    stop: bool
    index: int
    model: str
    tokens_predicted: int
    tokens_evaluated: int
    stop_type: Literal["eos", "limit", "word"]
    stopping_word: str
    truncated: bool
    timings: dict[str, float]


class GenerateResponse(BaseModel):
    """ollama's answer."""

    model: str
    created_at: str
    response: str
    done: bool
    done_reason: Literal["stop", "length", "load"]
    total_duration: int = Field(description="Nanoseconds.")
    load_duration: int
    prompt_eval_count: int
    prompt_eval_duration: int
    eval_count: int
    eval_duration: int


class OllamaModel(BaseModel):
    """One model, as ollama lists it."""

    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    details: dict[str, Any]


class Tags(BaseModel):
    """Every model that is served, as ollama lists them."""

    models: list[OllamaModel]


class Version(BaseModel):
    """Of this server."""

    version: str


class FimMessage(BaseModel):
    """What was written."""

    role: Literal["assistant"]
    content: str
    tool_calls: None


class FimChoice(BaseModel):
    """One completion."""

    index: int
    message: FimMessage
    finish_reason: Literal["stop", "length"]


class FimResponse(BaseModel):
    """Mistral's answer."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[FimChoice]
    usage: Usage


class OllamaError(BaseModel):
    """How ollama says what went wrong."""

    error: str
