"""Pretraining: a recipe, a vocabulary and sources in, a run folder with a model out."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..batches import Batch
from ..data.samples import SampleMaker
from ..data.spans import Objectives
from ..data.stream import OBJECTIVE_NAMES, BatchStream, Source
from ..errors import TrainingError
from ..network.config import GLMConfig
from ..network.model import GLMModel
from ..reporting.report import Report
from ..tensors import to_tensors
from ..tokenizer import Tokenizer
from ..training.loop import Loop
from ..training.parallel import Processes
from ..training.peak import matrix_rate, training_flops
from ..training.sizes import check_memory
from ..training.step import LossModule
from ..training.task import ANYTHING, TrainingTask
from .corpora import CONTENT, facts_of, identity_of
from .evaluate import Evaluator, validation_samples
from .fills import FillSamples
from .initialize import start_from_neighbours
from .model_folder import RunFacts, leave_model
from .recipe import Recipe, Stage

CORPUS_FILE = "corpus.json"  # digests of text files, so that they are not computed at every start
LAYER_BYTES = 100_000  # that a layer takes beside its weights
POSITION_BYTES = 50  # of the arrays of a batch
MODEL_SIZES = "model.num_layers, model.hidden_size or model.vocab_size"


class Trainer:
    """One pretraining run.

    Args:
        recipe: model, objectives, optimizer, run options.
        tokenizer: must fit the model's vocabulary.
        train, valid: corpora.
        output: folder for states, the log, the curves and the finished model (`model/`).
        processes: of this run (default: this one alone, on a CPU).
        track: see `reporting.trackers`.
        measure_peak: measure how fast this machine multiplies matrices, to report speed as a
            share of it.

    Attributes:
        model: the network; of several processes each holds a part of the weights.

    Raises:
        TrainingError: the vocabulary does not fit the model, the batches not its context, or
            the batches of an update cannot be shared out among the processes.
        DataError: the documents are too short.
    """

    def __init__(
        self,
        recipe: Recipe,
        tokenizer: Tokenizer,
        train: Sequence[Source],
        valid: Sequence[Source],
        output: Path,
        *,
        processes: Processes | None = None,
        track: str = "none",
        measure_peak: bool = False,
    ) -> None:
        check_fit(recipe, tokenizer)
        self.recipe, self.tokenizer, self.output = recipe, tokenizer, output
        self.train, self.valid = list(train), list(valid)
        self.processes = processes or Processes(torch.device("cpu"))
        self.processes.check_shares(recipe.run.accumulate)
        self.batches = MicroBatches(recipe, tokenizer, train)
        self.model = fresh_model(recipe)
        self.module = LossModule(self.model, recipe.run.precision, compile=recipe.run.compile)
        length = max(recipe.run.stages, key=lambda stage: stage.share).length
        self._evaluator = Evaluator(
            tokenizer, self.valid, self.processes, rows=recipe.run.evaluation_rows, length=length
        )
        self._fills = FillSamples(validation_samples(tokenizer, self.valid, length=length), tokenizer)
        self.report = self._open_report(track, measure_peak)
        self.loop = Loop(
            self._task(), recipe.run, recipe.optimizer, output, processes=self.processes, report=self.report
        )

    @property
    def done(self) -> int:
        """Updates so far."""
        return self.loop.done

    @property
    def tokens_seen(self) -> int:
        """Positions of batches that held a token."""
        return self.loop.tokens_seen

    def run(self, *, stop_at: int | None = None, max_seconds: float | None = None) -> bool:
        """Resume if there is a state in `output`, and train; True if the run is finished.

        Arguments and signals are those of `Loop.run`. The run leaves its model in `model/` if it
        is finished, or was told beforehand when to stop; a signal is answered with a state alone.
        """
        try:
            finished = self.loop.run(stop_at=stop_at, max_seconds=max_seconds)
            if finished or not self.loop.interrupted:
                self.leave_model()
        finally:
            if self.report is not None:
                self.report.close()
        return finished

    def _task(self) -> TrainingTask:
        recipe = self.recipe

        def flops(number: int, share: float) -> float:
            return training_flops(recipe.model, self.batches.stage(number).length, share)

        self.model.transformer.activation_checkpointing = recipe.run.activation_checkpointing
        return TrainingTask(
            module=self.module,
            model=self.model,
            layers=list(self.model.transformer.layers),
            batch=self.batches,
            groups=OBJECTIVE_NAMES,
            identity=self._identity(),
            assumed=self._assumed(),
            describe=self.batches.describe,
            flops=flops,
            evaluate=self._evaluate if self.valid else None,
        )

    def _identity(self) -> dict[str, Any]:
        recipe = self.recipe
        run, known = ("accumulate", "seed", "short_probability"), self.output / CORPUS_FILE
        return {
            "model": recipe.model.to_dict(),
            "objectives": dataclasses.asdict(recipe.objectives),
            "optimizer": {"name": recipe.optimizer.name},
            "run": {name: getattr(recipe.run, name) for name in run}
            | {"stages": [dataclasses.asdict(stage) for stage in recipe.run.stages]},
            "tokenizer": self.tokenizer.identity,
            "data": self.processes.by_first(lambda: [identity_of(source, known) for source in self.train]),
        }

    def _assumed(self) -> dict[str, Any]:
        """What states were made with that do not name it: the defaults, and text of any content."""
        sections = {"model": GLMConfig, "objectives": Objectives}
        sections |= {f"run.stages.{number}": Stage for number in range(len(self.recipe.run.stages))}
        values = {
            f"{name}.{field.name}": field.default
            for name, kind in sections.items()
            for field in dataclasses.fields(kind)
            if field.default is not dataclasses.MISSING
        }
        return values | {f"data.{number}.{CONTENT}": ANYTHING for number in range(len(self.train))}

    def _open_report(self, track: str, measure_peak: bool) -> Report | None:
        run = self.recipe.run
        peak = None
        if measure_peak:
            dtype = torch.bfloat16 if run.precision == "bf16" else torch.float32
            peak = sum(self.processes.sum([matrix_rate(self.processes.device, dtype)]))
        if not self.processes.first:
            return None
        return Report(self.output, total_steps=run.steps, peak_flops=peak, track=track, config=self.recipe.to_dict())

    def _evaluate(self, step: int) -> None:
        found = self._evaluator.losses(self.module)
        whole = self._whole_model()
        if self.report is not None and whole is not None:
            extra = {"tokens_seen": self.tokens_seen, "validation_without_ends": found.without_ends}
            self.report.validation(step, found.losses, extra)
            self.report.fills(step, self._fills.lines(whole, precision=self.recipe.run.precision))

    def _whole_model(self) -> GLMModel | None:
        """The model with all its weights; None in all processes but the first. All must ask."""
        if self.processes.count == 1:
            return self.model
        weights = self.processes.whole_weights(self.model)
        if weights is None:
            return None
        with torch.device("meta"):
            whole = GLMModel(self.recipe.model)
        whole.load_state_dict(weights, assign=True)
        return whole.to(self.processes.device).eval()

    def leave_model(self) -> None:
        """Write `model/` as it is now; all processes call it."""
        whole = self._whole_model()
        if whole is not None:
            facts = RunFacts(
                self.done,
                self.tokens_seen,
                [facts_of(source) for source in self.train],
                self.processes.device,
                self.processes.count,
            )
            problem = leave_model(self.output, whole, self.recipe, self.tokenizer, facts)
            if problem:
                self._say(f"no curves are drawn: {problem}")
        self.processes.wait()

    def _say(self, text: str) -> None:
        if self.report is not None:
            self.report.note(self.done, "finished", text)


class MicroBatches:
    """Number of a micro-batch -> the batch, ready for the module."""

    def __init__(self, recipe: Recipe, tokenizer: Tokenizer, sources: Sequence[Source]) -> None:
        self._run = recipe.run
        self._streams = {
            stage: BatchStream(
                sources,
                SampleMaker(tokenizer, stage.mixture(recipe.objectives)),
                rows=stage.rows,
                length=stage.length,
                short_probability=recipe.run.short_probability,
                seed=recipe.run.seed,
            )
            for stage in recipe.run.stages
        }

    def stage(self, number: int) -> Stage:
        """The stage that a micro-batch belongs to."""
        return self._run.stage(number // self._run.accumulate)

    def describe(self, number: int) -> str:
        """How large a micro-batch is."""
        stage = self.stage(number)
        return f"{stage.rows} rows of {stage.length} tokens"

    def __call__(self, number: int) -> Batch[Tensor]:
        """The micro-batch of this number; the same for the same number, always."""
        return to_tensors(self._streams[self.stage(number)].batch(number))


def notes_on(recipe: Recipe, device: torch.device) -> list[str]:
    """Choices that do not go well together: allowed, but hardly meant."""
    out = []
    if device.type == "cuda" and recipe.model.attention_dropout_prob:
        out.append(
            "FlexAttention has no dropout, so attention is computed densely; "
            "set model.attention_dropout_prob to 0 to skip what packed texts hide from each other"
        )
    if device.type == "cuda" and recipe.run.precision == "fp32":
        out.append("run.precision fp32 leaves most of a GPU's speed unused; set it to bf16 unless you need every bit")
    return out


def check_fit(recipe: Recipe, tokenizer: Tokenizer) -> None:
    """Refuse a vocabulary or batches that the model has no room for.

    Raises:
        TrainingError: says what to set.
    """
    model = recipe.model
    if tokenizer.num_tokens > model.vocab_size:
        raise TrainingError(
            f"the vocabulary has {tokenizer.num_tokens} tokens, the model only {model.vocab_size} rows; "
            f"set model.vocab_size to {-(-tokenizer.num_tokens // 128) * 128}"
        )
    run = recipe.run
    longest = max(stage.length for stage in run.stages)
    if longest > model.max_sequence_length:
        raise TrainingError(f"batches of length {longest} exceed model.max_sequence_length {model.max_sequence_length}")
    largest = max(stage.rows * stage.length for stage in run.stages)
    check_memory(
        [
            ("the weights of the model", 4 * model.num_parameters + LAYER_BYTES * model.num_layers, MODEL_SIZES),
            ("the batches of an update", POSITION_BYTES * largest * run.accumulate, "run.stages or run.accumulate"),
            ("the samples of an evaluation", POSITION_BYTES * run.evaluation_rows * longest, "run.evaluation_rows"),
        ]
    )


def fresh_model(recipe: Recipe) -> GLMModel:
    """The network that a run starts with, on the CPU; the same for the same seed."""
    torch.manual_seed(recipe.run.seed)
    model = GLMModel(recipe.model)
    if recipe.run.neighbour_start:
        start_from_neighbours(model)
    return model
