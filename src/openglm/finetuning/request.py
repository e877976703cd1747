"""What someone asks fine-tuning for, as a recipe: files, task, method and single settings over a recipe's file.

The command line and `openglm.finetune` come here with the same plain values. Knows nothing
about how anything is trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import OptionError, TrainingError
from ..tasks.pattern_indices import ALL, PatternIndices, parse_indices
from ..tasks.verbalizer import Verbalizer
from ..training.options import override, parse_settings
from .recipe import SECTIONS, FinetuneRecipe

# Settings that belong to one method: who names the setting means the method.
METHOD_OF = {
    "method.rank": "lora",
    "method.alpha": "lora",
    "method.tokens": "prompt",
    "method.encoder": "prompt",
}


@dataclass(frozen=True)
class FinetuneRequest:
    """What is asked for; whatever is left out is as the recipe's file says, or as the recipe's defaults.

    Attributes:
        kind: of fine-tuning.
        train, dev, test: files.
        recipe: a file, or its values.
        task: name or file of a task, or a `Task`.
        patterns: texts with fields and a blank; with a named task numbers of its patterns, or "all".
        words: label -> the words that stand for it, each a word or one per blank.
        label: the field with the right answer; text_fields: those that `classify` reads.
        model, output, method: as in `FinetuneRecipe`.
        settings: values by their place in the recipe, such as `{"run.epochs": 5}`.
        overrides: the same as text, such as `run.epochs=5`; they win.
    """

    kind: str
    train: Sequence[str] = ()
    dev: Sequence[str] = ()
    test: Sequence[str] = ()
    recipe: Path | Mapping[str, Any] | None = None
    task: Any = None
    patterns: Sequence[str] = ()
    words: Mapping[str, Any] = field(default_factory=dict)
    label: str | None = None
    text_fields: Sequence[str] = ()
    model: str | None = None
    output: str | None = None
    method: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    overrides: Sequence[str] = ()

    def to_recipe(self) -> FinetuneRecipe:
        """The recipe that this comes to.

        Raises:
            TrainingError, DataError, OptionError: as `FinetuneRecipe`, or values that exclude each other.
        """
        values = self._of_file()
        values["kind"] = self.kind
        for name in (*SECTIONS, "optimizer"):
            values[name] = dict(values.get(name) or {})
        given = {name: [str(path) for path in getattr(self, name)] for name in ("train", "dev", "test")}
        values["data"] |= {name: paths for name, paths in given.items() if paths}
        values |= {name: str(getattr(self, name)) for name in ("model", "output") if getattr(self, name) is not None}
        if self.task is not None:
            self._name_task(values)
        elif self.patterns or self.words or self.label or self.text_fields:
            self._write_task(values)
        self._choose_method(values)
        for path, value in self.settings.items():
            section, _, key = path.partition(".")
            if not key:
                raise OptionError(f"settings go by section and key, such as run.epochs, not {path!r}")
            values.setdefault(section, {})[key] = value
        for name, value in parse_settings(self.overrides).items():
            override(values, name, value)
        values.setdefault("output", self._default_output(values))
        return FinetuneRecipe.from_dict(values)

    def _of_file(self) -> dict[str, Any]:
        import yaml

        if self.recipe is None or isinstance(self.recipe, Mapping):
            return dict(self.recipe or {})
        try:
            values = yaml.safe_load(self.recipe.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise TrainingError(f"{self.recipe}: not a readable recipe ({' '.join(str(error).split())})") from error
        if not isinstance(values, dict):
            raise TrainingError(f"{self.recipe}: a recipe is a YAML mapping, with kind, data, task and others")
        return values

    def _name_task(self, values: dict[str, Any]) -> None:
        """A task that is there already: its patterns go by number."""
        if self.words or self.label or self.text_fields:
            raise OptionError(
                "--task brings its own words and fields; leave out --verbalizer, --label and --text-field"
            )
        values["task"] = self.task
        if self.patterns:
            values["pattern"] = _indices(self.patterns)

    def _write_task(self, values: dict[str, Any]) -> None:
        """A task made of patterns and words, over what the recipe's file says of one."""
        if self.patterns and values.get("task") and not any("[" in each for each in self.patterns):
            values["pattern"] = _indices(self.patterns)
            if not (self.words or self.label or self.text_fields):
                return
            patterns: Sequence[str] = ()
        else:
            patterns = self.patterns
        task = dict(values["task"]) if isinstance(values.get("task"), Mapping) else {}
        if patterns:
            if len(set(patterns)) < len(patterns):
                raise OptionError("--pattern: the same text twice; every pattern counts once")
            task.pop("patterns", None)
            task["pattern"] = patterns[0] if len(patterns) == 1 else list(patterns)
            values["pattern"] = 0 if len(patterns) == 1 else ALL
        if self.words:
            task["verbalizer"] = dict(self.words)
        if self.label:
            task["label"] = self.label
        if self.text_fields:
            task["text_fields"] = list(self.text_fields)
        values["task"] = task

    def _choose_method(self, values: dict[str, Any]) -> None:
        """The method named, or the one that a setting belongs to."""
        named = self.method or values["method"].get("name")
        meant = sorted({METHOD_OF[path] for path in self.settings if path in METHOD_OF})
        if named is None and not meant and "method.layers" in self.settings:
            meant = ["layers"]
        if len(meant) > 1 or (named and meant and named != meant[0]):
            raise OptionError(
                f"these options belong to the method {' and '.join(meant)}, not to {named or 'one'}; give one method's"
            )
        if named or meant:
            values["method"]["name"] = named or meant[0]

    def _default_output(self, values: Mapping[str, Any]) -> str:
        if isinstance(values.get("task"), str):
            return f"runs/{Path(values['task']).stem}"
        if isinstance(self.recipe, Path):
            return f"runs/{self.recipe.stem}"
        return f"runs/{Path(self.train[0]).name.partition('.')[0]}" if self.train else f"runs/{self.kind}"


def words_of_flags(flags: Sequence[str]) -> dict[str, Any]:
    """`LABEL=WORD` texts as a verbalizer's values.

    Raises:
        DataError, OptionError: as `Verbalizer.from_flags`.
    """
    if not flags:
        return {}
    words = Verbalizer.from_flags(flags).words
    return {label: [word[0] if len(word) == 1 else list(word) for word in each] for label, each in words.items()}


def _indices(patterns: Sequence[str]) -> PatternIndices:
    return parse_indices(",".join(patterns))
