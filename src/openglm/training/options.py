"""Options as plain values: sections of a recipe into checked dataclasses, and those of the loop.

Every part of a run owns its options as a frozen dataclass; `section` fills one from what a
YAML file or the command line gave, and names what is wrong.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ..data.tokenize import MOST_WORKERS
from ..errors import TrainingError, suggest

T = TypeVar("T")

PRECISIONS = ("bf16", "fp32")


@dataclass(frozen=True)
class LoopOptions:
    """What the training loop needs to know, whatever is trained.

    Attributes:
        steps: updates in all.
        accumulate: batches per update, shared out among the processes of the run, which
            must divide it: the update is the same for any number of processes.
        precision: "bf16" (autocast; weights and their updates stay float32) or "fp32".
        compile: compile the layers with torch.compile. Faster on a GPU, after a minute
            or two; needs a C++ compiler on a CPU.
        activation_checkpointing: compute activations a second time instead of keeping
            them: less memory, about a third more work, the same update.
        workers: processes that prepare batches; 0: the training process does it itself.
            The batches are the same.
        spike: an update whose loss is so many nats above the recent mean is left out
            (see `training.guard`); 0: none is for that reason.
        seed: of weights, dropout and data.
        log_every, evaluate_every, save_every: in updates.
    """

    steps: int = 1000
    accumulate: int = 1
    precision: str = "bf16"
    compile: bool = False
    activation_checkpointing: bool = False
    workers: int = 0
    spike: float = 2.0
    seed: int = 1
    log_every: int = 20
    evaluate_every: int = 500
    save_every: int = 250

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise TrainingError(f"run.precision must be one of {', '.join(PRECISIONS)}, not {self.precision!r}")
        for name in ("steps", "accumulate", "log_every", "evaluate_every", "save_every"):
            if getattr(self, name) < 1:
                raise TrainingError(f"run.{name} must be at least 1, not {getattr(self, name)}")
        if self.workers > MOST_WORKERS:
            raise TrainingError(f"run.workers must be at most {MOST_WORKERS}, not {self.workers}")
        for name in ("workers", "spike", "seed"):
            if getattr(self, name) < 0:
                raise TrainingError(f"run.{name} must be at least 0, not {getattr(self, name)}")


def section(kind: type[T], values: Any, name: str) -> T:
    """A dataclass of options from plain values.

    Args:
        kind: the dataclass.
        values: a mapping from its fields.
        name: of the section, for messages.

    Raises:
        TrainingError: not a mapping, an unknown key (the nearest known ones are named), a
            value of the wrong type, or one that is missing.
        OpenGLMError: a value out of its range.
    """
    if not isinstance(values, Mapping):
        raise TrainingError(f"the section {name} must be a mapping, not {values!r}")
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for key in values:
        if key not in fields:
            raise TrainingError(f"unknown key {key!r} in {name}.{suggest(str(key), fields)} Known: {', '.join(fields)}")
    missing = [
        key
        for key, field in fields.items()
        if field.default is field.default_factory is dataclasses.MISSING and key not in values
    ]
    if missing:
        raise TrainingError(f"section {name} lacks {', '.join(missing)}")
    types = typing.get_type_hints(kind)
    return kind(**{key: _checked(value, types[key], f"{name}.{key}") for key, value in values.items()})


def _checked(value: Any, wanted: Any, name: str) -> Any:
    """A plain value as the type of its field; containers are left to the dataclass."""
    if wanted in (str | None, int | None, float | None):
        if value is None:
            return None
        wanted = next(kind for kind in typing.get_args(wanted) if kind is not type(None))
    if wanted is float and not isinstance(value, bool):
        try:
            return float(value)  # YAML reads 4e-4, without a point, as text
        except (TypeError, ValueError):
            raise TrainingError(f"{name} must be a number, not {value!r}") from None
    if wanted is int and (not isinstance(value, int) or isinstance(value, bool)):
        raise TrainingError(f"{name} must be a whole number, not {value!r}")
    if wanted is bool and not isinstance(value, bool):
        raise TrainingError(f"{name} must be true or false, not {value!r}")
    if wanted is str and not isinstance(value, str):
        raise TrainingError(f"{name} must be text, not {value!r}")
    return value


def parse_settings(settings: Sequence[str]) -> dict[str, Any]:
    """`["run.compile=true"]` as `{"run.compile": True}`; what stands later wins.

    Raises:
        TrainingError: not of the form SECTION.KEY=VALUE, or a value that is not YAML.
    """
    import yaml

    out: dict[str, Any] = {}
    for setting in settings:
        name, separator, text = setting.partition("=")
        if not separator:
            raise TrainingError(f"{setting!r}: write SECTION.KEY=VALUE, for example run.compile=true")
        try:
            out[name] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise TrainingError(f"{setting!r}: {text!r} is not a YAML value ({error})") from error
    return out


def override(values: dict[str, Any], name: str, value: Any) -> None:
    """Change one value of a nested mapping in place: `run.compile` sets values["run"]["compile"].

    Raises:
        TrainingError: not of the form SECTION.KEY, or a section that is not a mapping. Keys are
            checked where the sections are read.
    """
    *sections, key = (part.strip() for part in name.split("."))
    if not key or not all(sections) or not sections:
        raise TrainingError(f"{name!r}: write SECTION.KEY=VALUE, for example run.compile=true")
    for section_name in sections:
        inner = values.setdefault(section_name, {})
        if inner is None:
            inner = values[section_name] = {}
        if not isinstance(inner, dict):
            raise TrainingError(f"{name!r}: {section_name} is not a section but {inner!r}")
        values = inner
    values[key] = value


def read_values(
    path: Path, sections: str, settings: Sequence[str] | Mapping[str, Any] = (), **changes: Any
) -> dict[str, Any]:
    """The nested values of a recipe's file.

    Args:
        sections: what a recipe consists of, in words, for the message.
        settings: values that win over those of the file, as `run.compile=true`, or by name.
        changes: whole top-level values that win.

    Raises:
        TrainingError: not readable or not a YAML mapping; the message names the file. Or as `override`.
    """
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise TrainingError(f"{path}: not a readable recipe ({error})") from error
    if not isinstance(values, dict):
        raise TrainingError(f"{path}: a recipe is a YAML mapping with {sections}")
    values |= changes
    for name, value in (settings if isinstance(settings, Mapping) else parse_settings(settings)).items():
        override(values, name, value)
    return values
