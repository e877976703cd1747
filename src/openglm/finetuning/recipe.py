"""A fine-tuning run as data: what is trained, on what, how; from Python, YAML or the command line.

    kind: cloze
    data: {train: train.jsonl, dev: dev.jsonl}
    task: {pattern: "{sentence} 总的来说[MASK]。", verbalizer: {Positive: 满意, Negative: 失望}}
    method: {name: lora, rank: 8}

Everything has a default but `kind`, the training data and, where it needs one, the task. What
is left open (learning rate, epochs) is decided when the run begins, from the size of the model
and of the data; `resolve` says how. Knows nothing about files other than recipes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..data.spans import Objectives
from ..errors import OpenGLMError, TrainingError, suggest
from ..network.prompt import PromptOptions
from ..tasks.pattern_indices import PatternIndices, as_plain, parse_indices
from ..training.optim import OptimizerOptions
from ..training.options import PRECISIONS, LoopOptions, read_values, section
from .adapters import TARGETS, LoraOptions

KINDS = ("cloze", "seq2seq", "infilling", "lm", "classify")
METHODS = ("full", "lora", "prompt", "layers", "bias")
LOSSES = ("cross_entropy", "generative", "mix", "hinge")
CLASS_WEIGHTS = ("none", "balanced")
CALIBRATE = ("task", "yes", "no")
# Continuing documents: [gMASK] at the end of a text, the rest of the document behind it.
CONTINUE = Objectives(token=0.0, sentence=0.0, document=1.0, document_infill=0.0)


@dataclass(frozen=True)
class ExampleFiles:
    """Where the examples are. Paths are relative to the working directory.

    Attributes:
        train, dev, test: files; the dev file decides which weights are kept.
        field: of JSON Lines that holds the text, for infilling and lm.
        source, target: fields of sequence-to-sequence examples.
        folder: where the files of a named task lie (default: what OPENGLM_EVAL says).
    """

    train: tuple[str, ...] = ()
    dev: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    field: str = "text"
    source: str = "source"
    target: str = "target"
    folder: str = ""

    def __post_init__(self) -> None:
        for name in ("train", "dev", "test"):
            given = getattr(self, name) or ()
            paths = (given,) if isinstance(given, (str, Path)) else given
            if not isinstance(paths, (list, tuple)) or not all(isinstance(p, (str, Path)) and str(p) for p in paths):
                raise TrainingError(f"data.{name} must be a path or a list of paths, not {given!r}")
            object.__setattr__(self, name, tuple(str(path) for path in paths))


@dataclass(frozen=True)
class MethodOptions:
    """Which parameters are trained.

    Attributes:
        name: "full": all; "lora": a small difference beside each matrix (`adapters`);
            "prompt": vectors in front of the text (`network/prompt.py`); "layers": the last ones and the
            last LayerNorm; "bias": biases and LayerNorms.
        rank, alpha, lora_dropout, targets: of LoRA.
        tokens, encoder: of a prompt.
        layers: how many of the last layers are trained; with "prompt", beside it.
    """

    name: str = "full"
    rank: int = 8
    alpha: float = 16.0
    lora_dropout: float = 0.0
    targets: tuple[str, ...] = tuple(TARGETS)
    tokens: int = 16
    encoder: str = "lstm"
    layers: int = 0

    def __post_init__(self) -> None:
        if self.name not in METHODS:
            raise TrainingError(f"method {self.name!r} is unknown.{suggest(self.name, METHODS)} Known: {METHODS}")
        if self.layers < 0 or (self.name == "layers" and self.layers < 1):
            raise TrainingError(f"method.layers must be at least 1, not {self.layers}")
        if self.layers and self.name not in ("layers", "prompt"):
            raise TrainingError(f"method.layers goes with the methods layers and prompt, not with {self.name}")
        _ = self.lora, self.prompt  # which check themselves

    @property
    def lora(self) -> LoraOptions:
        """The size of the adapter."""
        return LoraOptions(self.rank, self.alpha, self.lora_dropout, tuple(self.targets))

    @property
    def prompt(self) -> PromptOptions:
        """The size of the prompt."""
        return PromptOptions(self.tokens, self.encoder)


@dataclass(frozen=True)
class ObjectiveOptions:
    """What the loss is (section 7.2 and 7.5 of the published code's description).

    Attributes:
        loss: of cloze. "cross_entropy": over the scores of the labels; "generative": minus the
            log-probability of the right answer; "mix": both added; "hinge": how much the best
            wrong score comes too close to the right one.
        margin: of hinge, in nats.
        length_penalty: a; the score of an answer is divided by its number of tokens ** a.
            Below 0: what the task says.
        calibrate: subtract the log-probability of an answer in an empty context from its score,
            in training as in use: "yes", "no" (as published: training makes up for it), or
            "task": what the task says of zero-shot use.
        class_weights: "balanced": labels count alike, however many examples they have.
        label_smoothing: of seq2seq.
    """

    loss: str = "cross_entropy"
    margin: float = 1.0
    length_penalty: float = -1.0
    calibrate: str = "no"
    class_weights: str = "none"
    label_smoothing: float = 0.1

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise TrainingError(f"objective.loss must be one of {', '.join(LOSSES)}, not {self.loss!r}")
        if self.class_weights not in CLASS_WEIGHTS:
            raise TrainingError(f"objective.class_weights must be none or balanced, not {self.class_weights!r}")
        if self.calibrate not in CALIBRATE:
            raise TrainingError(f"objective.calibrate must be one of {', '.join(CALIBRATE)}, not {self.calibrate!r}")
        if not 0 <= self.label_smoothing < 1:
            raise TrainingError(f"objective.label_smoothing must be at least 0 and below 1, not {self.label_smoothing}")
        if self.margin <= 0:
            raise TrainingError(f"objective.margin must be above 0, not {self.margin}")


def _is_seed(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


@dataclass(frozen=True)
class TuningOptions:
    """Length and bookkeeping.

    Attributes:
        epochs: passes over the examples; 0: enough for about `UPDATES` updates, within `EPOCHS`.
        steps: updates in all; 0: as many as the epochs take.
        batch_size: examples per update (rows of a batch for infilling and lm).
        accumulate: parts into which a batch is cut to save memory; the update is the same.
        length: tokens of a row, for infilling and lm; 0: the model's context.
        evaluations: looks at the dev file, spread evenly over the run.
        patience: evaluations without a better result before the run ends; 0: it never does.
        metric: by which weights are chosen; "" the first of the task, or the loss.
        seeds: one run each; the best of them becomes the model.
        dropout: of the network, in training.
        precision: "bf16" (autocast), "fp32", or "auto": bf16 on a GPU.
        save_every: updates between states; log_every: between lines of the log.
        keep_states: leave the last states of finished runs in their folders.
        untuned: measure the model before it is trained too.
    """

    epochs: float = 0.0
    steps: int = 0
    batch_size: int = 16
    accumulate: int = 1
    length: int = 0
    evaluations: int = 20
    patience: int = 8
    metric: str = ""
    seeds: tuple[int, ...] = (0,)
    dropout: float = 0.1
    precision: str = "auto"
    compile: bool = False
    activation_checkpointing: bool = False
    workers: int = 0
    log_every: int = 10
    save_every: int = 50
    keep_states: bool = False
    untuned: bool = True

    def __post_init__(self) -> None:
        seeds = (self.seeds,) if isinstance(self.seeds, int) else self.seeds
        if not isinstance(seeds, (list, tuple)) or not seeds or not all(_is_seed(seed) for seed in seeds):
            raise TrainingError(f"run.seeds must list whole numbers, at least 0, not {self.seeds!r}")
        if len(set(seeds)) < len(seeds):
            raise TrainingError(f"run.seeds names a seed twice: {list(seeds)}")
        object.__setattr__(self, "seeds", tuple(seeds))
        for name in ("batch_size", "accumulate", "evaluations", "log_every", "save_every"):
            if getattr(self, name) < 1:
                raise TrainingError(f"run.{name} must be at least 1, not {getattr(self, name)}")
        for name in ("epochs", "steps", "patience", "workers", "length"):
            if getattr(self, name) < 0:
                raise TrainingError(f"run.{name} must be at least 0, not {getattr(self, name)}")
        if self.batch_size % self.accumulate:
            raise TrainingError(f"run.accumulate {self.accumulate} does not divide run.batch_size {self.batch_size}")
        if not 0 <= self.dropout < 1:
            raise TrainingError(f"run.dropout must be at least 0 and below 1, not {self.dropout}")
        if self.precision not in ("auto", *PRECISIONS):
            raise TrainingError(f"run.precision must be auto, {' or '.join(PRECISIONS)}, not {self.precision!r}")


SECTIONS: Mapping[str, Any] = {
    "data": ExampleFiles,
    "method": MethodOptions,
    "objective": ObjectiveOptions,
    "run": TuningOptions,
}
PLAIN = ("kind", "model", "output", "task", "pattern", "optimizer", "spans")


@dataclass(frozen=True)
class FinetuneRecipe:
    """Everything that defines a fine-tuning run.

    Attributes:
        kind: one of `KINDS`.
        model: what to start from: the embedded model, a published name or a folder.
        output: folder of the run.
        task: for cloze and classify: name or path of a task, its values as a mapping (with the
            short forms `pattern` and `label`), or a `cloze.task.Task`.
        pattern: which of the task's patterns: a number, several numbers, or "all" (`tasks.pattern_indices`). With
            several, each example of each epoch asks by one of them, drawn at random, and what the
            network says by all of them is averaged.
        optimizer: values of `OptimizerOptions` that win over the defaults (`DEFAULTS`).
        spans: values of `Objectives` for infilling and lm.
    """

    kind: str
    data: ExampleFiles
    model: str = "default"
    output: str = ""
    task: Any = None
    pattern: PatternIndices = 0
    method: MethodOptions = MethodOptions()
    objective: ObjectiveOptions = ObjectiveOptions()
    run: TuningOptions = TuningOptions()
    optimizer: Mapping[str, Any] = field(default_factory=dict)
    spans: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise TrainingError(f"kind {self.kind!r} is unknown; fine-tuning knows {', '.join(KINDS)}")
        object.__setattr__(self, "pattern", parse_indices(self.pattern))
        if not self.data.train and (self.task is None or isinstance(self.task, Mapping)):
            raise TrainingError("no training data: name a file of examples")
        if self.kind in ("infilling", "lm", "classify") and self.method.name == "prompt":
            raise TrainingError(f"a trained prompt goes with cloze and seq2seq, not with {self.kind}")
        _ = self.objectives, section(OptimizerOptions, self.optimizer, "optimizer")

    @property
    def objectives(self) -> Objectives:
        """What infilling and lm blank out."""
        base = dataclasses.asdict(CONTINUE if self.kind == "lm" else Objectives())
        return section(Objectives, {**base, **self.spans}, "spans")

    @property
    def folder(self) -> Path:
        """Where the run leaves its files."""
        return Path(self.output or f"runs/{self.kind}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FinetuneRecipe:
        """Build from plain nested values.

        Raises:
            TrainingError: an unknown section or key (the message names the nearest known one),
                or a value of the wrong type. OpenGLMError: a value out of range.
        """
        for key in values:
            if key not in SECTIONS and key not in PLAIN:
                known = [*PLAIN, *SECTIONS]
                raise TrainingError(f"unknown section {key!r} in the recipe.{suggest(str(key), known)}")
        if "kind" not in values:
            raise TrainingError(f"the recipe lacks `kind`: one of {', '.join(KINDS)}")
        given = {name: values[name] for name in PLAIN if values.get(name) is not None}
        for name in ("kind", "model", "output"):
            if name in given:
                given[name] = str(given[name])
        parts = {name: section(kind, values.get(name) or {}, name) for name, kind in SECTIONS.items()}
        return cls(**given, **parts)

    @classmethod
    def read(cls, path: Path, settings: Sequence[str] = (), **changes: Any) -> FinetuneRecipe:
        """Read a YAML file.

        Args:
            settings: values that win over those of the file, as `run.epochs=5`.
            changes: whole top-level values that win, such as kind.

        Raises:
            TrainingError: not readable, not YAML, or a wrong key; the message names the file.
        """
        values = read_values(path, ", ".join([*PLAIN, *SECTIONS]), settings, **changes)
        try:
            return cls.from_dict(values)
        except OpenGLMError as error:
            raise TrainingError(f"{path}: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """Plain nested values, ready for YAML or JSON."""
        out: dict[str, Any] = {
            "kind": self.kind, "model": self.model, "output": self.output, "pattern": as_plain(self.pattern),
            "optimizer": dict(self.optimizer), "spans": dict(self.spans),
        }  # fmt: skip
        if self.task is not None:
            task = self.task if isinstance(self.task, (str, Path, Mapping)) else self.task.name
            out["task"] = str(task) if isinstance(task, Path) else task
        return out | {name: dataclasses.asdict(getattr(self, name)) for name in SECTIONS}


# --- what a recipe leaves open -----------------------------------------------------------

UPDATES, EPOCHS = 300, (3, 50)
# Parameters up to which the rates hold: full and the like, LoRA, prompt.
RATES = (
    (30e6, 3e-4, 5e-3, 5e-3),
    (150e6, 5e-5, 5e-4, 3e-3),
    (1e9, 1e-5, 2e-4, 1e-3),
    (math.inf, 5e-6, 1e-4, 1e-3),
)


def optimizer_of(recipe: FinetuneRecipe, parameters: int) -> OptimizerOptions:
    """The optimizer: AdamW, warm-up over 10 %, linear decay, weight decay 0.1, as published.

    The published learning rate, 1e-5, is that of a model of 335 million parameters; smaller
    ones, and methods that train less of a model, take more (`RATES`).
    """
    _, full, lora, prompt = next(row for row in RATES if parameters <= row[0])
    rate = {"lora": lora, "prompt": prompt, "bias": lora}.get(recipe.method.name, full)
    values: dict[str, Any] = {
        "learning_rate": rate,
        "schedule": "linear",
        "warmup": 0.1,
        "final": 0.05,
        "weight_decay": 0.1 if recipe.method.name in ("full", "layers") else 0.0,
    }
    return section(OptimizerOptions, {**values, **recipe.optimizer}, "optimizer")


def settled(recipe: FinetuneRecipe, batches: int, parameters: int, *, on_gpu: bool) -> FinetuneRecipe:
    """The recipe with everything decided that it leaves open, as reports show it.

    Args:
        batches: micro-batches in one pass over the examples; parameters: of the model.
    """
    options = loop_options(recipe, batches, recipe.run.seeds[0], on_gpu=on_gpu)
    epochs = options.steps * options.accumulate / batches
    run = dataclasses.replace(recipe.run, steps=options.steps, epochs=round(epochs, 3), precision=options.precision)
    optimizer = dataclasses.asdict(optimizer_of(recipe, parameters))
    spans = dataclasses.asdict(recipe.objectives) if recipe.kind in ("infilling", "lm") else recipe.spans
    return dataclasses.replace(recipe, run=run, optimizer=optimizer, spans=spans)


def loop_options(recipe: FinetuneRecipe, batches: int, seed: int, *, on_gpu: bool) -> LoopOptions:
    """The options of the loop.

    Args:
        batches: micro-batches in one pass over the examples.
    """
    run = recipe.run
    updates = max(1.0, batches / run.accumulate)  # per epoch
    epochs = run.epochs or min(max(UPDATES / updates, EPOCHS[0]), EPOCHS[1])
    steps = run.steps or max(1, math.ceil(epochs * updates))
    precision = run.precision if run.precision != "auto" else "bf16" if on_gpu else "fp32"
    return LoopOptions(
        steps=steps,
        accumulate=run.accumulate,
        precision=precision,
        compile=run.compile,
        activation_checkpointing=run.activation_checkpointing,
        workers=run.workers,
        spike=0.0,  # a few examples, seen many times: one that is hard is not an accident
        seed=seed,
        log_every=min(run.log_every, steps),
        evaluate_every=max(1, steps // run.evaluations),
        save_every=run.save_every,
    )
