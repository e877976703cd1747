"""Task files: YAML -> `Task`, every mistake with the file, the key and the remedy.

version: 1    title: Sentiment of product reviews    kind: choice | options | pairs
patterns: ["{sentence:shorten}，总的来说[MASK]。"]   or {pattern: ..., verbalizer: ...} each
verbalizer: {Positive: [满意, 很好], Negative: 失望}  for choice
options: candidates                        for options: a field with a list, or a list of texts
label: label                               or several fields, the first that is there counts
group: group    category: phenomenon    fields: {joiner: {from: question, map: {cause: because}}}    prepare: [cmrc2019]
metrics: [accuracy]   scoring: {length_penalty: 1, calibrate: true, ends: false}
files: {train: ..., dev: ..., test: ...}   published: [{system, setting, <metric>: <percent>, source}]
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from ..errors import DataError, OptionError, suggest
from ..scoring.predict import Scoring
from .metrics import METRICS, metric
from .parts import Derived, PromptTemplate, PublishedResult
from .pattern import Pattern, fields_of
from .task import Task
from .transforms import transform
from .verbalizer import Verbalizer, label_name

_PUBLISHED_KEYS = {"system", "setting", "source"}  # and metrics, the first of them by category too
SUFFIXES = (".yaml", ".yml")
KINDS = ("choice", "options", "pairs")
PAIR = ("{bad}", "{good}")  # the good one last: of equals the first is taken, and a tie is no success
_NORMALIZE = {"sum": 0.0, "mean": 1.0}
_KEYS = (
    "name", "version", "title", "language", "source", "kind", "patterns", "verbalizer", "options", "label", "group",
    "category", "fields", "prepare", "metrics", "scoring", "files", "published",
)  # fmt: skip


def task_folder() -> Path:
    """Where the tasks lie that come with openglm."""
    return Path(str(files("openglm.tasks") / "builtin"))


def task_names() -> list[str]:
    """Their names, sorted: `fewclue/eprstmt`."""
    return sorted(path.relative_to(task_folder()).with_suffix("").as_posix() for path in task_folder().rglob("*.yaml"))


def load_task(name_or_path: str | Path) -> Task:
    """A task that comes with openglm, or one of your own (a path that ends in .yaml or .yml).

    Raises:
        DataError: no such task or file (names the nearest), or a mistake in the file.
    """
    path = Path(name_or_path)
    if path.suffix not in SUFFIXES:
        name = str(name_or_path)
        if name not in task_names():
            short = {each.rpartition("/")[2]: each for each in task_names()}
            if name not in short:
                raise DataError(
                    f"no task {name!r}.{suggest(name, [*task_names(), *short])} There are {', '.join(task_names())}; "
                    "one of your own is a file that ends in .yaml"
                )
            name = short[name]
        return read(task_folder() / f"{name}.yaml", name)
    return read(path, path.stem)


def read(path: Path, name: str) -> Task:
    """The task of one file.

    Raises:
        DataError: the file is missing, is not YAML, or has a mistake in it; names the key.
    """
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such task file") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"{path}: not a readable task file ({' '.join(str(error).split())})") from error
    if not isinstance(values, dict):
        raise DataError(f"{path}: a task file holds keys such as kind, patterns and verbalizer")
    try:
        return from_values({"name": name, **values})
    except (DataError, OptionError) as error:
        raise DataError(f"{path}: {error}") from error


def task_from_flags(
    pattern: str | Sequence[str],
    verbalizer: Sequence[str],
    *,
    label: str = "label",
    name: str = "task",
    metrics: Sequence[str] = ("accuracy",),
) -> Task:
    """A task with fixed labels.

    Args:
        pattern: one pattern or several.
        verbalizer: `LABEL=WORD` strings (see `Verbalizer.from_flags`).
        label: the field with the label.

    Raises:
        DataError: a pattern or verbalizer that cannot be used.
    """
    patterns = [pattern] if isinstance(pattern, str) else list(pattern)
    templates = tuple(PromptTemplate(Pattern.parse(each)) for each in patterns)
    words = Verbalizer.from_flags(verbalizer)
    return Task(name, "choice", templates, words, label_fields=(label,), metrics=tuple(metrics))


def from_values(values: Mapping[str, Any]) -> Task:
    """A task from the plain values of a file.

    Raises:
        DataError, OptionError: an unknown, missing or wrong key.
    """
    for key in values:
        if key in ("options", "label") and values.get("kind") == "pairs":
            raise DataError(f"{key}: of no use with kind: pairs; the fields of a pair are called good and bad")
        if key not in _KEYS:
            raise DataError(f"unknown key {key!r}.{suggest(str(key), _KEYS)} There are {', '.join(_KEYS)}")
    kind = values.get("kind", "choice")
    if kind not in KINDS:
        raise DataError(
            f"kind: {kind!r}; use choice (fixed labels), options (every example brings its own answers) or pairs "
            "(every example brings a good and a bad text)"
        )
    words = Verbalizer.of(values["verbalizer"]) if "verbalizer" in values else None
    task = Task(
        name=str(values["name"]),
        kind=kind,
        templates=_templates(values.get("patterns"), words),
        verbalizer=words,
        options=PAIR if kind == "pairs" else _options(values.get("options", ())),
        label_fields=_texts(values.get("label", "label"), "label"),
        group_field=_field_name(values.get("group"), "group"),
        category_field=_field_name(values.get("category"), "category"),
        derived=_derived(values.get("fields", {})),
        prepare=_texts(values.get("prepare", []), "prepare"),
        metrics=_texts(values.get("metrics", ["accuracy"]), "metrics"),
        scoring=_scoring(values.get("scoring", {})),
        files={str(k): str(v) for k, v in _mapping(values.get("files", {}), "files").items()},
        published=_figures(values.get("published", [])),
        version=_version(values.get("version", 1)),
        title=str(values.get("title", "")),
        language=str(values.get("language", "")),
        source=str(values.get("source", "")),
    )
    _check(task)
    return task


def _check(task: Task) -> None:
    for each in task.metrics:
        metric(each)
    for each in task.prepare:
        transform(each)
    if task.kind == "choice":
        _check_words(task)
        return
    if not task.options:
        raise DataError("options: missing; name the field that lists the answers, or write one text for each")
    if task.verbalizer or any(template.verbalizer for template in task.templates):
        raise DataError(f"verbalizer: of no use with kind: {task.kind}; leave one of the two out")


def _check_words(task: Task) -> None:
    if task.options:
        raise DataError("options: of no use with kind: choice; leave one of the two out")
    if task.verbalizer is None:
        raise DataError("verbalizer: missing; give every label its words, such as {Positive: 满意, Negative: 失望}")
    for template in task.templates:
        if template.verbalizer and set(template.verbalizer.labels) != set(task.labels):
            raise DataError(f"patterns: the words for {str(template.pattern)!r} are of other labels than `verbalizer`")
        blanks = len(template.pattern.kinds)
        for label, several in (template.verbalizer or task.verbalizer).words.items():
            wrong = next((word for word in several if len(word) != blanks), None)
            if wrong is not None:
                raise DataError(
                    f"verbalizer: label {label!r}: {len(wrong)} parts for the {blanks} blanks of "
                    f"{str(template.pattern)!r}; a word for several blanks is a list in the list of words"
                )


def _templates(value: Any, shared: Verbalizer | None) -> tuple[PromptTemplate, ...]:
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list) or not listed:
        raise DataError("patterns: missing; give at least one text with [MASK] in it")
    out = []
    for each in listed:
        if isinstance(each, str):
            out.append(PromptTemplate(Pattern.parse(each)))
        elif isinstance(each, dict) and set(each) <= {"pattern", "verbalizer"} and isinstance(each.get("pattern"), str):
            words = Verbalizer.of(each["verbalizer"]) if "verbalizer" in each else None
            if words and shared and set(words.labels) == set(shared.labels):
                words = Verbalizer({label: words.words[label] for label in shared.labels})  # one order for all
            out.append(PromptTemplate(Pattern.parse(each["pattern"]), words))
        else:
            raise DataError(f"patterns: {each!r} is neither text nor {{pattern: ..., verbalizer: ...}}")
    return tuple(out)


def _options(value: Any) -> str | tuple[str, ...]:
    if isinstance(value, str):
        return value
    texts = _texts(value, "options")
    for each in texts:
        fields_of(each)
    return texts


def _texts(value: Any, key: str) -> tuple[str, ...]:
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, (list, tuple)) or not all(isinstance(each, str) for each in listed):
        raise DataError(f"{key}: expected text or a list of texts, not {value!r}")
    return tuple(listed)


def _version(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise DataError(f"version: expected a number from 1, not {value!r}")
    return value


def _field_name(value: Any, key: str) -> str | None:
    if value is not None and not isinstance(value, str):
        raise DataError(f"{key}: expected the name of a field, not {value!r}")
    return value


def _mapping(value: Any, key: str) -> Mapping[Any, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{key}: expected keys with values, not {value!r}")
    return value


def _derived(value: Any) -> dict[str, Derived]:
    out = {}
    for name, each in _mapping(value, "fields").items():
        if not isinstance(each, dict) or set(each) != {"from", "map"} or not isinstance(each["map"], dict):
            raise DataError(f"fields: {name}: expected {{from: field, map: {{value: text}}}}")
        out[str(name)] = Derived(str(each["from"]), {label_name(k): str(v) for k, v in each["map"].items()})
    return out


def _scoring(value: Any) -> Scoring:
    known = [each.name for each in dataclasses.fields(Scoring)]
    values = dict(_mapping(value, "scoring"))
    if "normalize" in values:  # task files written before there was one word for it
        if values["normalize"] not in _NORMALIZE or "length_penalty" in values:
            raise DataError("scoring: normalize is no longer a key; write length_penalty: 0 for sum, 1 for mean")
        values["length_penalty"] = _NORMALIZE[values.pop("normalize")]
    for key in values:
        if key not in known:
            raise DataError(f"scoring: unknown key {key!r}; there are {', '.join(known)}.{suggest(str(key), known)}")
    return Scoring(**values)


def _figures(value: Any) -> tuple[PublishedResult, ...]:
    if not isinstance(value, list):
        raise DataError(f"published: expected a list, not {value!r}")
    out: list[PublishedResult] = []
    for each in value:
        if not isinstance(each, dict) or not set(each) > _PUBLISHED_KEYS:
            raise DataError(f"published: {each!r} lacks system, setting, source or a metric")
        system, setting, source = (str(each[key]) for key in ("system", "setting", "source"))
        values = {name: each[name] for name in each if name not in {*_PUBLISHED_KEYS, "categories"}}
        for name in values:
            if name not in METRICS:
                raise DataError(f"published: no metric {name!r}; there are {', '.join(METRICS)}")
        out += [PublishedResult(system, setting, name, float(number), source) for name, number in values.items()]
        categories = _mapping(each.get("categories", {}), "published: categories")
        for category, number in categories.items():
            out.append(PublishedResult(system, setting, next(iter(values)), float(number), source, str(category)))
    return tuple(out)
