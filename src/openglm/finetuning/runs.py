"""Fine-tuning from beginning to end: a recipe in, a folder with a model and a report out.

    output/  model/ (with README.md, task.yaml)  adapter/ or prompt/  report.md  report.json
             curves.png  confusion_matrix.png  dev.predictions.jsonl  test.predictions.jsonl
             seed-0/ seed-1/ ...

One run per seed, each on the project's one training loop; the best becomes the model. Killed
or stopped at any moment, the same call goes on from the last state, to the same result.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import torch

from ..checkpoints.beside import HEAD, PROMPT, RunSettings, parts_of, save_prompt
from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.find import find_folder
from ..checkpoints.native import save_model
from ..checkpoints.resolve import open_checkpoint
from ..errors import TrainingError
from ..files import write_atomically
from ..reporting.card import describe_environment, write_card
from ..tasks.pattern_indices import as_plain
from ..training.parallel import Processes
from .adapter_files import save_adapter
from .classify import ClassifyPlan
from .cloze import ClozePlan
from .documents import DocumentPlan
from .jobs import Measure, Plan, TuningJob
from .recipe import FinetuneRecipe, settled
from .report import CURVES, results_sections, seed_folder, write_report
from .results import FinetuneResult, RunResult
from .seq2seq import Seq2SeqPlan
from .tuner import RunContext, Tuner, fresh_job, plain_model

MODEL_FOLDER, ADAPTER_FOLDER, PROMPT_FOLDER = "model", "adapter", "prompt"
PLANS: Mapping[str, type[Plan]] = {
    "cloze": ClozePlan,
    "classify": ClassifyPlan,
    "seq2seq": Seq2SeqPlan,
    "infilling": DocumentPlan,
    "lm": DocumentPlan,
}


def run(
    recipe: FinetuneRecipe,
    *,
    device: str = "auto",
    track: str = "none",
    quiet: bool = False,
    stop_at: int | None = None,
    max_seconds: float | None = None,
    measure: Measure | None = None,
) -> FinetuneResult:
    """Fine-tune as the recipe says; go on with what is in its folder.

    Args:
        device: "auto", or what torch calls a device.
        track: see `reporting.trackers`.
        quiet: say nothing on standard error.
        stop_at: make no more than so many updates per seed.
        max_seconds: begin no update after so many seconds of training; what comes before the
            first update does not count. An unfinished run returns `finished=False`.
        measure: for seq2seq, the finished model writes the targets of the dev and test files,
            and this measures them; so does the untuned one.

    Raises:
        DataError, TrainingError, OptionError, ContextLengthError: before any training, whatever
            is wrong with the recipe, the task or the data.
    """
    processes = Processes.join(device)
    if processes.count > 1:
        processes.leave()
        raise TrainingError("fine-tuning runs in one process; start it without torchrun")
    plan, checkpoint = prepare(recipe)
    if not quiet:
        for note in plan.notes:
            print(f"openglm: note: {note}", file=sys.stderr)
    context = RunContext(processes, track=track, quiet=quiet, stop_at=stop_at, measure=measure)
    result = FinetuneResult(
        recipe.folder,
        labels=plan.labels,
        names=plan.names,
        notes=tuple(plan.notes),
        untuned=_untuned(recipe, plan, checkpoint, context),
    )
    if max_seconds is not None:
        context = dataclasses.replace(context, deadline=time.monotonic() + max_seconds)
    done = _run_seeds(recipe, plan, checkpoint, context)
    if len(done) < len(recipe.run.seeds):
        return dataclasses.replace(result, runs=tuple(done))
    best = max(done, key=lambda each: _rank(plan, each))
    result = dataclasses.replace(result, model=recipe.folder / MODEL_FOLDER, runs=tuple(done), best=best, finished=True)
    job = _tuner(recipe, plan, checkpoint, best.seed, context).restore_best()
    _leave(result, recipe, plan, job, processes.device)
    return result


def _run_seeds(recipe: FinetuneRecipe, plan: Plan, checkpoint: Checkpoint, context: RunContext) -> list[RunResult]:
    """One run per seed, up to the first that is stopped before its end."""
    done = []
    for seed in recipe.run.seeds:
        found = _tuner(recipe, plan, checkpoint, seed, context).run()
        if found is None:
            break
        done.append(found)
    return done


def _tuner(recipe: FinetuneRecipe, plan: Plan, checkpoint: Checkpoint, seed: int, context: RunContext) -> Tuner:
    return Tuner(recipe, plan, checkpoint, seed, seed_folder(recipe.folder, seed), context)


def prepare(recipe: FinetuneRecipe) -> tuple[Plan, Checkpoint]:
    """Everything that can go wrong before training: the model is found, the examples read and checked."""
    checkpoint = open_checkpoint(find_folder(recipe.model))
    if PROMPT in parts_of(checkpoint.folder):
        raise TrainingError(
            f"{checkpoint.folder}: has a trained prompt, which further training would leave out; "
            "start from the model that the prompt was trained on"
        )
    config, method = checkpoint.config, recipe.method
    max_tokens = config.max_sequence_length - (method.tokens if method.name == "prompt" else 0)
    if 2 * max_tokens < config.max_sequence_length:
        raise TrainingError(
            f"method.tokens {method.tokens} leaves too little of the model's context of {config.max_sequence_length} "
            "tokens"
        )
    if method.layers > config.num_layers:
        raise TrainingError(f"method.layers is {method.layers}, but the model has {config.num_layers} layers")
    plan = PLANS[recipe.kind](recipe, checkpoint, checkpoint.tokenizer(), max_tokens)
    if HEAD in parts_of(checkpoint.folder):
        plan.notes.append(f"the classification head of {recipe.model} is left out; training starts from its network")
    return plan, checkpoint


def _untuned(
    recipe: FinetuneRecipe, plan: Plan, checkpoint: Checkpoint, context: RunContext
) -> dict[str, dict[str, float]]:
    """What the model does before training; kept in the folder, so that a run that goes on need not look again."""
    if recipe.kind == "classify" or not recipe.run.untuned:
        return {}  # a fresh head knows nothing
    path = recipe.folder / ".untuned.json"
    key = f"{plan.digest} {checkpoint.folder} {recipe.pattern} {recipe.objective} {context.measure is None}"
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept.pop("key") == key:
            return dict(kept)
    except (OSError, ValueError, KeyError):
        pass
    plain = dataclasses.replace(recipe, method=dataclasses.replace(recipe.method, name="full", layers=0))
    job = fresh_job(plain, plan, checkpoint, 0, context.processes.device)
    job.module.eval()
    out: dict[str, dict[str, float]] = {}
    with torch.no_grad():
        for split in ("dev", "test"):
            found = job.evaluate_fully(split, context.measure)
            if found is not None:
                out[split] = {**found.metrics, "loss": found.loss}
    write_atomically(path, json.dumps({"key": key, **out}).encode())
    return out


def _rank(plan: Plan, result: RunResult) -> tuple[float, float]:
    if "dev" not in result.loss:
        return 0.0, 0.0  # the first seed
    value = result.metrics["dev"][plan.metric] if plan.metric else -result.loss["dev"]
    return value, -result.loss["dev"]


def _leave(result: FinetuneResult, recipe: FinetuneRecipe, plan: Plan, job: TuningJob, device: torch.device) -> None:
    """Write model, adapter or prompt, report and card."""
    assert result.best is not None
    output, folder = result.output, result.output / MODEL_FOLDER
    if recipe.method.name == "lora":
        save_adapter(output / ADAPTER_FOLDER, job.model, recipe.method.lora, base_model=recipe.model)
    if recipe.method.name == "prompt":
        for place in (output / PROMPT_FOLDER, folder):
            save_prompt(place, job.model, recipe.method.prompt, base_model=recipe.model)
    job.save_beside(folder)
    model = plain_model(job)
    RunSettings(
        kind=recipe.kind,
        pattern=as_plain(recipe.pattern),
        title=plan.title,
        method=recipe.method.name,
        base_model=recipe.model,
        length_penalty=recipe.objective.length_penalty,
        calibrate=recipe.objective.calibrate,
        text_pattern=plan.text_pattern,
    ).write(folder)
    save_model(folder, model, plan.tokenizer)
    on_gpu = device.type == "cuda"
    recipe = settled(recipe, job.batches, plan.config.num_parameters, on_gpu=on_gpu)
    environment = describe_environment(device, recipe.run.precision)
    for text in write_report(result, recipe, plan.title, environment):
        print(f"openglm: note: {text}", file=sys.stderr)
    _write_card(result, recipe, plan, environment)


def _write_card(result: FinetuneResult, recipe: FinetuneRecipe, plan: Plan, environment: Mapping[str, str]) -> None:
    assert result.best is not None
    curves = result.output / CURVES
    write_card(
        result.output / MODEL_FOLDER,
        recipe=json.loads(json.dumps(recipe.to_dict())),
        data=plan.data,
        validation={},
        steps=result.best.step,
        tokens_seen=result.best.tokens,
        parameters=plan.config.num_parameters,
        curves=curves if curves.exists() else None,
        environment=environment,
        name=plan.title,
        base_model=checkpoint_name(recipe.model),
        blanks=plan.config.blanks,
        usage=_USAGE if recipe.kind in ("cloze", "classify") else "",
        example=plan.example,
        sections=results_sections(result),
    )


def checkpoint_name(model: str) -> str:
    """What a card calls the model that training started from: a folder by its own name."""
    return Path(model).resolve().name if Path(model).is_dir() else model


_USAGE = """## Use

With this folder as `model`:

```python
from openglm.finetuning import load_classifier

classify = load_classifier("model")
answer = classify.predict(example)  # a mapping with the fields of the training examples
print(answer.label, answer.probabilities)
```"""
