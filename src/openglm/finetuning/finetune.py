"""`openglm.finetune`: what `openglm finetune` does, from Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .jobs import Measure
from .request import FinetuneRequest
from .results import FinetuneResult
from .runs import run

Paths = str | Path | Sequence[str | Path]


def finetune(
    kind: str,
    train: Paths = (),
    *,
    dev: Paths = (),
    test: Paths = (),
    pattern: str | int | Sequence[str | int] = (),
    verbalizer: Mapping[str, str | Sequence[str]] | None = None,
    task: Any = None,
    label: str | None = None,
    text_fields: Sequence[str] = (),
    model: str | Path | None = None,
    method: str | None = None,
    output: str | Path | None = None,
    recipe: str | Path | Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    device: str = "auto",
    track: str = "none",
    quiet: bool = False,
    max_seconds: float | None = None,
    measure: Measure | None = None,
) -> FinetuneResult:
    """Examples and a model in, a better model for one task out.

        import openglm

        result = openglm.finetune(
            "cloze", "train.jsonl", dev="dev.jsonl", pattern="{sentence} 总的来说[MASK]。",
            verbalizer={"Positive": "满意", "Negative": "失望"}, settings={"run.seeds": [0, 1, 2]},
        )
        print(result.dev["accuracy"].mean, result.model)

    Called again with the same arguments it goes on where it was stopped, and makes nothing twice.

    Args:
        kind: "cloze", "seq2seq", "infilling", "lm" or "classify".
        train, dev, test: a file or several; the dev file decides which weights are kept.
        pattern: a text with fields and a blank, or several of which all are learnt; with `task`
            the numbers of its patterns, or "all".
        verbalizer: label -> the word that stands for it in the blank, or several.
        task: name or file of a task, or a `Task`, in place of `pattern` and `verbalizer`.
        label: the field with the right answer (default: label).
        text_fields: those that `classify` reads.
        model: what to start from (default: the embedded model).
        method: "full" (default), "lora", "prompt", "layers" or "bias".
        output: folder of the run (default: in runs/).
        recipe: a YAML file, or its values, over which the other arguments win.
        settings: single values by their place in the recipe: `{"run.epochs": 5}`.
        device: "auto" (a GPU if there is one), "cpu", "cuda", ...
        track: "none", "auto", "trackio" or "wandb".
        quiet: say nothing on standard error.
        max_seconds: begin no update after so many seconds of training.
        measure: for seq2seq: what measures the texts that the model writes.

    Raises:
        DataError, TrainingError, OptionError, ContextLengthError: before any training, whatever
            is wrong with the arguments, the task or the data.
        ModelNotFoundError, CheckpointError: no such model, or a damaged one.
    """
    patterns = [pattern] if isinstance(pattern, (str, int)) else list(pattern)
    request = FinetuneRequest(
        kind=kind,
        train=_paths(train),
        dev=_paths(dev),
        test=_paths(test),
        recipe=Path(recipe) if isinstance(recipe, str) else recipe,
        task=str(task) if isinstance(task, Path) else task,
        patterns=[str(each) for each in patterns],
        words={name: words if isinstance(words, str) else list(words) for name, words in (verbalizer or {}).items()},
        label=label,
        text_fields=text_fields,
        model=None if model is None else str(model),
        output=None if output is None else str(output),
        method=method,
        settings=settings or {},
    )
    return run(request.to_recipe(), device=device, track=track, quiet=quiet, max_seconds=max_seconds, measure=measure)


def _paths(given: Paths) -> list[str]:
    return [str(given)] if isinstance(given, (str, Path)) else [str(path) for path in given]
