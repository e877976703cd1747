"""Requests and answers, as pydantic checks them and the OpenAPI document shows them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, model_validator

from .errors import refused
from .settings import Limits

BlankName = Literal["[MASK]", "[sMASK]", "[gMASK]"]
Truncate = Literal["start", "end", "around"]
Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]
Json = dict[str, Any]


class Strict(BaseModel):
    """A body of which nothing is guessed: "5" is no number, and a misspelt name is not passed over."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class Blank(Strict):
    """A blank, in a text given in parts."""

    blank: BlankName


TextValue = str | list[str | Blank]
TextField = Annotated[
    TextValue,
    Field(
        description="A text with [MASK], [sMASK] or [gMASK] where something is wanted; or its parts, strings and "
        'blanks ({"blank": "[MASK]"}): the wording [MASK] inside a part is then ordinary text.'
    ),
]
ModelField = Annotated[str | None, Field(description="A name from GET /v1/models. Default: the model that is served.")]
TruncateField = Annotated[
    Truncate | None,
    Field(description="What to drop of a text longer than the context. Default: such a text is refused."),
]
MaxTokens = Annotated[int, Field(ge=1, le=2**31)]
Characters = Annotated[int, Field(ge=0, le=10_000)]
WordsField = str | list[str] | list[list[str] | None] | None
MinTokens = Annotated[int, Field(ge=0, le=2**31)]


class WithTexts(Strict):
    """A body about one text or several."""

    model: ModelField = None
    text: TextValue | None = Field(
        None,
        description="A text with [MASK], [sMASK] or [gMASK] where something is wanted; or its parts, strings and "
        'blanks ({"blank": "[MASK]"}): the wording [MASK] inside a part is then ordinary text. A list of strings alone '
        "is a list of texts, as `texts`.",
    )
    texts: list[TextField] | None = Field(
        None, min_length=1, description="Several texts instead of one; the answer holds `results` in their order."
    )

    @model_validator(mode="after")
    def _one_of_the_two(self, info: ValidationInfo) -> WithTexts:
        if (self.text is None) == (self.texts is None) or self.text == []:
            raise refused("text", "give text, or texts for several")
        limits: Limits = info.context or Limits()
        if self.several is not None and len(self.several) > limits.texts:
            raise refused("texts", f"{len(self.several)} texts; this server takes at most {limits.texts}")
        return self

    @property
    def several(self) -> Sequence[TextValue] | None:
        """The texts, if a list of them was given."""
        if isinstance(self.text, list) and all(isinstance(part, str) for part in self.text):
            return [part for part in self.text if isinstance(part, str)]
        return self.texts


class FillRequest(WithTexts):
    """Fill every blank of a text."""

    max_new_tokens: MaxTokens | list[MaxTokens] | None = Field(
        None, description="Most tokens of a fill, one number or one per blank. Default by kind: 32, 128, 256."
    )
    min_new_tokens: MinTokens | list[MinTokens] = Field(0, description="Fewest tokens of a fill.")
    temperature: float = Field(0.0, ge=0, le=100, description="0: the most probable token; above 0: sample.")
    top_k: int = Field(0, ge=0, le=2**31, description="Sample among the k most probable tokens; 0: all.")
    top_p: float = Field(1.0, gt=0, le=1, description="Sample among the most probable tokens that reach p.")
    min_p: float = Field(0.0, ge=0, le=1, description="Sample among tokens this share as probable as the first.")
    typical_p: float = Field(1.0, gt=0, le=1, description="Sample among the most typical tokens that reach p.")
    repetition_penalty: float = Field(1.0, gt=0, le=100, description="Above 1: fewer repetitions.")
    no_repeat_ngram_size: int = Field(0, ge=0, le=2**31, description="No run of so many tokens stands twice.")
    num_beams: int = Field(1, ge=1, le=2**31, description="Beam search over so many hypotheses.")
    length_penalty: float = Field(0.0, ge=-100, le=100, description="Beams rank by log-probability / length ** this.")
    num_return_sequences: int = Field(1, ge=1, le=2**31, description="Answers: samples, or the best beams.")
    seed: Seed | None = Field(None, description="Makes sampling repeat.")
    truncate: TruncateField = None
    choices: list[str] | list[list[str] | None] | None = Field(
        None,
        description="A fill is one of these texts. This and what follows: for all blanks, or one per blank.",
    )
    regex: str | list[str | None] | None = Field(None, description="A fill matches this regular expression.")
    json_schema: dict[str, Any] | str | list[dict[str, Any] | str | None] | None = Field(
        None, description="A fill is JSON of this schema."
    )
    grammar: str | list[str | None] | None = Field(None, description="A fill is of this grammar (llguidance's Lark).")
    whole_words: bool | list[bool | None] = Field(False, description="A fill is words and nothing else.")
    min_chars: Characters | list[Characters | None] | None = Field(None, description="Fewest characters of a fill.")
    max_chars: Characters | list[Characters | None] | None = Field(None, description="Most characters of a fill.")
    bad_words: WordsField = Field(None, description="What a fill does not contain.")
    required: WordsField = Field(None, description="What a fill contains.")
    stop: WordsField = Field(None, description="A fill ends behind the first of these, which belongs to it.")
    stream: bool = Field(False, description="Send pieces as they are written, as server-sent events.")
    on_error: Literal["raise", "return"] = Field(
        "raise",
        description="What a text that cannot be filled does to the others: all are refused, or it has an "
        "`error` in place of its result.",
    )


class ChooseRequest(WithTexts):
    """Rank answers to a text."""

    choices: list[str | list[str]] = Field(
        min_length=1, description="Each a string for a single blank, or one string per blank."
    )
    length_penalty: float = Field(0.0, ge=-100, le=100, description="Rank by log-probability / tokens ** this.")
    calibrate: bool = Field(
        False, description="Rank by how much more probable an answer is here than in an empty context."
    )
    context: str | None = Field(
        None, description="That empty context, a text with as many blanks. Default: the blanks alone."
    )
    ends: bool = Field(True, description="Count the end of every fill; without it an answer may go on.")
    truncate: TruncateField = None


class ScoreRequest(Strict):
    """Log-probability of given fills."""

    model: ModelField = None
    text: TextField
    fills: str | list[str] = Field(description="One string per blank; a single string for a single blank.")
    truncate: TruncateField = None


# --- answers -------------------------------------------------------------------------------


class Usage(BaseModel):
    """Tokens read and written."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class FillAnswer(BaseModel):
    """What was written into one blank."""

    text: str = Field(description="As it stands in the filled text.")
    logprob: float = Field(description="Log-probability in nats, its end included.")
    token_ids: list[int]
    token_logprobs: list[float] = Field(description="Of each token, then of the end.")
    start: int = Field(description="Where it begins in the filled text, in Unicode characters.")
    end: int
    finish_reason: Literal["stop", "length"]


class FilledAnswer(BaseModel):
    """One way to fill the text."""

    text: str
    logprob: float
    blanks: list[FillAnswer]


class FillResponse(FilledAnswer):
    """The text filled. `alternatives` holds the other answers."""

    model: str
    alternatives: list[FilledAnswer]
    truncated: int = Field(description="Tokens of the text that the model did not see.")
    usage: Usage


class FilledText(FilledAnswer):
    """One text of several, filled."""

    alternatives: list[FilledAnswer]
    truncated: int


class FillBatchResponse(BaseModel):
    """Several texts filled, in their order; with `on_error` return, an error in place of a text that cannot be."""

    model: str
    results: list[FilledText | ErrorResponse]
    usage: Usage


class ScoreResponse(BaseModel):
    """Given fills and how probable they are."""

    model: str
    text: str
    fills: list[str]
    logprob: float
    blank_logprobs: list[float]
    token_logprobs: list[list[float]]
    token_ids: list[list[int]]
    truncated: int = Field(description="Tokens of the text that the model did not see.")


class Ranked(BaseModel):
    """One of the choices."""

    text: str
    fills: list[str]
    logprob: float
    blank_logprobs: list[float]
    token_logprobs: list[list[float]]
    token_ids: list[list[int]]
    probability: float = Field(description="Among the choices; they sum to 1.")
    index: int = Field(description="Its place in the list of choices that was sent.")
    truncated: int = Field(description="Tokens of the text that the model did not see.")


class ChooseResponse(BaseModel):
    """The choices, the best first."""

    model: str
    choices: list[Ranked]


class Ranking(BaseModel):
    """The choices for one text of several."""

    choices: list[Ranked]


class ChooseBatchResponse(BaseModel):
    """The choices for several texts, in their order."""

    model: str
    results: list[Ranking]


class Capabilities(BaseModel):
    """What a model can do."""

    fill: bool
    choose: bool
    score: bool
    completions: bool
    suffix: bool
    classify: bool


class ModelCard(BaseModel):
    """One model."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    aliases: list[str]
    blanks: list[BlankName] = Field(description="Kinds of blank it was trained to fill.")
    context: int = Field(description="Most tokens of a text, blanks included.")
    parameters: int
    capabilities: Capabilities
    fields: list[str] = Field(description="Of an example, that /v1/classify reads.")
    labels: list[str] = Field(description="That /v1/classify says; none where each example brings its own.")
    limits: dict[str, float]


class ModelList(BaseModel):
    """Every model that is served."""

    object: Literal["list"]
    data: list[ModelCard]


class Status(BaseModel):
    """Whether the server is well."""

    status: str


class ErrorBody(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(BaseModel):
    """Every answer that is not a success."""

    error: ErrorBody
