"""One seed's run: a network and a job on the training loop, the best weights kept.

    seed-0/  log.jsonl, tensorboard/, states while it goes on, best.safetensors, result.json,
             dev.predictions.jsonl, test.predictions.jsonl

`best.safetensors` holds the trained parameters alone. A run that is finished says so in
`result.json` and is not made again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..checkpoints.beside import HEAD
from ..checkpoints.checkpoint import Checkpoint
from ..errors import TrainingError
from ..files import write_atomically
from ..network.model import GLMModel
from ..network.prompt import remove_prompt
from ..reporting.report import Report
from ..training.loop import Loop, flattened
from ..training.parallel import Processes
from ..training.state import states
from ..training.state_formats import remove
from ..training.task import TrainingTask
from .adapters import merge
from .jobs import Evaluation, Measure, Plan, TuningJob
from .methods import choose_parameters, count, set_dropout, trained
from .recipe import FinetuneRecipe, loop_options, optimizer_of
from .results import RunResult
from .selection import Selection

BEST_FILE, RESULT_FILE = "best.safetensors", "result.json"
# Settings that may differ between a run and its going on: they change no weight.
PASSING = (
    "seeds", "log_every", "save_every", "workers", "keep_states", "untuned", "compile", "activation_checkpointing",
)  # fmt: skip


class QuietReport(Report):
    """A report that writes its files and says nothing."""

    def _say(self, text: str) -> None:
        return None


@dataclass(frozen=True)
class RunContext:
    """What surrounds a run, whatever its seed.

    Attributes:
        processes: of the run.
        track: see `reporting.trackers`; quiet: say nothing on standard error.
        stop_at, deadline: as `Loop.run` takes them.
        measure: what measures generated texts of the finished runs, if any.
    """

    processes: Processes
    track: str = "none"
    quiet: bool = False
    stop_at: int | None = None
    deadline: float | None = None
    measure: Measure | None = None


def fresh_job(recipe: FinetuneRecipe, plan: Plan, checkpoint: Checkpoint, seed: int, device: torch.device) -> TuningJob:
    """A network with the weights it starts from, its parameters to train chosen, and its task."""
    model = checkpoint.network(device=str(device), dtype=torch.float32, applies=(HEAD,))
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()  # it may be a window onto the file
    set_dropout(model, recipe.run.dropout)  # before an adapter brings its own
    choose_parameters(model, recipe.method, seed)
    on_gpu = device.type == "cuda"
    return plan.job(model, seed, loop_options(recipe, 1, seed, on_gpu=on_gpu).precision)


class Tuner:
    """Trains with one seed.

    Args:
        folder: of the run.

    Raises:
        TrainingError: the folder holds another run.
    """

    def __init__(
        self,
        recipe: FinetuneRecipe,
        plan: Plan,
        checkpoint: Checkpoint,
        seed: int,
        folder: Path,
        context: RunContext,
    ) -> None:
        self.recipe, self.plan, self.seed, self.folder, self.context = recipe, plan, seed, folder, context
        device = context.processes.device
        self.job = fresh_job(recipe, plan, checkpoint, seed, device)
        self.options = loop_options(recipe, self.job.batches, seed, on_gpu=device.type == "cuda")
        self.optimizer = optimizer_of(recipe, checkpoint.config.num_parameters)
        self.selection = Selection(plan.metric, recipe.run.patience)
        self.identity = self._identity()
        self._loop: Loop | None = None
        self._report: Report | None = None

    def finished(self) -> RunResult | None:
        """The result of this run if it has been made before.

        Raises:
            TrainingError: what is there is the result of another run.
        """
        path = self.folder / RESULT_FILE
        if not path.exists():
            return None
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            result, there = RunResult(**found["result"]), dict(flattened(found["identity"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise TrainingError(f"{path}: cannot be read ({error}); remove it to make this run again") from error
        here = dict(flattened(json.loads(json.dumps(self.identity))))
        for name in [*here, *there]:
            if here.get(name) != there.get(name):
                raise TrainingError(
                    f"{self.folder}: holds another run: {name} was {there.get(name, 'absent')} and is "
                    f"{here.get(name, 'absent')} now; give another --output, or remove the folder"
                )
        return result

    def run(self) -> RunResult | None:
        """Resume if there is a state, and train; None if the run was stopped before its end."""
        done = self.finished()
        if done is not None:
            return done
        begin = time.monotonic()
        context, report = self.context, self._open_report()
        self._report = report
        try:
            self._loop = Loop(
                self._task(), self.options, self.optimizer, self.folder, processes=context.processes, report=report
            )
            if not self._loop.run(stop_at=context.stop_at, deadline=context.deadline):
                return None
        finally:
            report.close()
        if self.selection.step < 0:  # no dev file: the last weights count
            self._keep(self._loop.done)
        return self._finish(time.monotonic() - begin)

    def restore_best(self) -> TuningJob:
        """The job with the best weights of a finished run, in evaluation mode."""
        load_trained(self.folder / BEST_FILE, self.job.holder)
        self.job.module.eval()
        return self.job

    # --- inside ---------------------------------------------------------------------------

    def _open_report(self) -> Report:
        kind = QuietReport if self.context.quiet else Report
        name = f"{self.folder.resolve().parent.name}-{self.folder.name}"
        interactive = False if self.context.quiet else None
        return kind(
            self.folder, total_steps=self.options.steps, track=self.context.track, run_name=name,
            config=self.recipe.to_dict(), interactive=interactive,
        )  # fmt: skip

    def _task(self) -> TrainingTask:
        job = self.job
        job.model.transformer.activation_checkpointing = self.options.activation_checkpointing
        return TrainingTask(
            module=job.module,
            model=job.holder,
            layers=list(job.model.transformer.layers),
            batch=job.batch,
            groups=job.groups,
            identity=self.identity,
            describe=job.describe,
            evaluate=self._evaluate if self.plan.has("dev") else None,
            state=self.selection.state,
            restore=self._restore,
        )

    def _identity(self) -> dict[str, Any]:
        values = self.recipe.to_dict()
        values["run"] = {key: value for key, value in values["run"].items() if key not in PASSING}
        kept = {key: values[key] for key in ("kind", "pattern", "method", "objective", "spans", "run")}
        return {
            **kept,
            "optimizer": asdict(self.optimizer),
            "seed": self.seed,
            "base_model": self.recipe.model,
            "model": self.plan.config.to_dict(),
            "tokenizer": self.plan.tokenizer.identity,
            "data": self.plan.digest,
        }

    def _restore(self, values: Mapping[str, Any]) -> None:
        self.selection.restore(values)
        if self.selection.exhausted and self._loop is not None:
            self._loop.finish()

    def _evaluate(self, step: int) -> None:
        assert self._report is not None
        assert self._loop is not None
        found = self.job.evaluate("dev")
        assert found is not None
        better = self.selection.look(step, found)
        if better:
            self._keep(step)
        name = self.job.groups[0] if len(self.job.groups) == 1 else "all"
        self._report.validation(step, {f"dev/{name}": found.loss}, {"metrics": dict(found.metrics), "best": better})
        if found.metrics:
            shown = ", ".join(f"{metric} {value:.1f}" for metric, value in found.metrics.items())
            self._report.note(step, "dev", shown + (", the best so far" if better else ""))
        if self.selection.exhausted and step < self.options.steps:
            looks = f"{self.selection.since} evaluations without a better one"
            self._report.note(step, "early stop", f"{looks}; the best was after update {self.selection.step}")
            self._loop.finish()

    def _keep(self, step: int) -> None:
        from safetensors.torch import save

        tensors = {name: value.detach().cpu().contiguous() for name, value in trained(self.job.holder).items()}
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.folder / BEST_FILE, save(tensors))

    def _finish(self, seconds: float) -> RunResult:
        assert self._loop is not None
        job = self.restore_best()
        found: dict[str, Evaluation] = {}
        with torch.no_grad():
            for split in ("dev", "test"):
                evaluation = job.evaluate_fully(split, self.context.measure)
                if evaluation is not None:
                    found[split] = evaluation
        trained_numbers, all_numbers = count(job.holder)
        result = RunResult(
            seed=self.seed,
            step=self.selection.step if self.selection.step >= 0 else self._loop.done,
            steps=self._loop.done,
            seconds=round(seconds, 1),
            trained=trained_numbers,
            parameters=all_numbers,
            tokens=self._loop.tokens_seen,
            loss={split: each.loss for split, each in found.items()},
            metrics={split: dict(each.metrics) for split, each in found.items()},
            confusion={split: each.confusion for split, each in found.items() if each.confusion is not None},
        )
        for split, each in found.items():
            lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in each.predictions)
            write_atomically(self.folder / f"{split}.predictions.jsonl", lines.encode())
        text = json.dumps({"identity": self.identity, "result": result.to_dict()}, indent=2, ensure_ascii=False)
        write_atomically(self.folder / RESULT_FILE, (text + "\n").encode())
        if not self.recipe.run.keep_states:
            for _, path in states(self.folder):
                remove(path)
        return result


def load_trained(path: Path, holder: nn.Module) -> None:
    """Fill the trained parameters of a network from a file.

    Raises:
        TrainingError: missing, damaged, or of another network.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    parameters = trained(holder)
    try:
        tensors = load_file(path)
        if {n: t.shape for n, t in tensors.items()} != {n: p.shape for n, p in parameters.items()}:
            raise ValueError("it holds the parameters of another network")
    except (OSError, SafetensorError, ValueError) as error:
        raise TrainingError(f"{path}: cannot be used ({error}); remove its folder to make this run again") from error
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[name])


def plain_model(job: TuningJob) -> GLMModel:
    """The network without what the method added: adapters merged, no prompt."""
    merge(job.model)
    remove_prompt(job.model)
    return job.model.requires_grad_(False).eval()
