"""What /v1/classify takes and gives."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field, ValidationInfo, model_validator

from .errors import refused
from .schemas import ModelField, Strict
from .settings import Limits

Value = str | int | float | bool | list[str]
Example = Annotated[
    str | dict[str, Value],
    Field(description="A text, or an object with the fields that the run or task reads (see GET /v1/models)."),
]


class ClassifyRequest(Strict):
    """Say the label of an example, or of each of several."""

    model: ModelField = None
    text: str | dict[str, Value] | None = Field(
        None, description="A text, or an object with the fields that the run or task reads (see GET /v1/models)."
    )
    texts: list[Example] | None = Field(
        None, min_length=1, description="Several of them instead; the answer holds `results` in their order."
    )

    @model_validator(mode="after")
    def _one_of_the_two(self, info: ValidationInfo) -> ClassifyRequest:
        if (self.text is None) == (self.texts is None):
            raise refused("text", "give text, or texts for several")
        limits: Limits = info.context or Limits()
        if len(self.texts or ()) > limits.texts:
            raise refused("texts", f"{len(self.texts or ())} texts; this server takes at most {limits.texts}")
        return self


class Label(BaseModel):
    """What one example is."""

    label: str = Field(description="The most probable label.")
    probabilities: dict[str, float] = Field(description="Of every label; they sum to 1.")


class ClassifyResponse(Label):
    """The label of an example."""

    model: str


class ClassifyBatchResponse(BaseModel):
    """The labels of several examples, in their order."""

    model: str
    results: list[Label]
