"""What a finished fine-tuning run leaves for people and machines: report.md, report.json, pictures.

Knows results as plain values and writes them down; nothing about how they came about.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import DataError, MissingLibraryError, TrainingError
from ..files import replacing, write_atomically
from ..markdown import markdown_table
from ..reporting.curves import draw_curves
from ..reporting.report import LOG_FILE
from .pictures import WITH_COUNTS, draw_confusion
from .recipe import FinetuneRecipe
from .results import FinetuneResult, RunResult, Summary

SPLITS = ("test", "dev")  # as reports show them
REPORT, CURVES, CONFUSION = "report", "curves.png", "confusion_matrix.png"


def write_report(
    result: FinetuneResult, recipe: FinetuneRecipe, title: str, environment: Mapping[str, str]
) -> list[str]:
    """Write the report and its pictures into the folder of the run.

    Args:
        recipe: as it was trained by, nothing left open (`recipe.settled`).

    Returns:
        What could not be drawn, in words.
    """
    assert result.best is not None
    output, best, missing = result.output, result.best, []
    best_folder = seed_folder(output, best.seed)
    try:
        draw_curves(best_folder / LOG_FILE, output / CURVES, title=output.resolve().name)
    except (DataError, MissingLibraryError, TrainingError) as error:
        missing.append(f"no curves are drawn: {error}")
    split = pictured_split(best)
    if split is not None:
        try:
            draw_confusion(best.confusion[split], result.names, output / CONFUSION, title=f"{title}, {split}")
        except MissingLibraryError as error:
            missing.append(f"no confusion matrix is drawn: {error}")
    for name in best.loss:
        with replacing(output / f"{name}.predictions.jsonl") as part:
            shutil.copyfile(best_folder / f"{name}.predictions.jsonl", part)
    text = json.dumps(as_values(result, recipe, environment), indent=2, ensure_ascii=False)
    write_atomically(output / f"{REPORT}.json", (text + "\n").encode())
    write_atomically(output / f"{REPORT}.md", markdown(result, recipe, title, environment).encode())
    return missing


def seed_folder(output: Path, seed: int) -> Path:
    """Where one seed's run leaves its files."""
    return output / f"seed-{seed}"


def as_values(result: FinetuneResult, recipe: FinetuneRecipe, environment: Mapping[str, str]) -> dict[str, Any]:
    """The report as plain values."""
    assert result.best is not None
    summaries = {split: result.summary(split) for split in ("dev", "test")}
    return {
        "best_seed": result.best.seed,
        "summary": {s: {n: asdict(each) for n, each in found.items()} for s, found in summaries.items() if found},
        "untuned": {split: dict(values) for split, values in result.untuned.items()},
        "runs": [run.to_dict() for run in result.runs],
        "labels": list(result.labels),
        "label_names": list(result.names),
        "notes": list(result.notes),
        "environment": dict(environment),
        "recipe": recipe.to_dict(),
    }


def markdown(result: FinetuneResult, recipe: FinetuneRecipe, title: str, environment: Mapping[str, str]) -> str:
    """The report for people."""
    import yaml

    assert result.best is not None
    best = result.best
    parts = [
        f"# {title}",
        f"`{recipe.kind}`, {recipe.method.name}: {best.trained:,} of {best.parameters:,} parameters trained, "
        f"from `{recipe.model}`. The model is that of seed {best.seed}, after {best.step} of {best.steps} updates.",
        *results_sections(result),
        f"![Losses over the updates]({CURVES})",
        *(
            confusion_section(best, split, result.names, picture=split == pictured_split(best))
            for split in SPLITS
            if split in best.confusion
        ),
    ]
    if result.notes:
        parts.append("## Notes\n\n" + "\n".join(f"- {note}" for note in result.notes))
    parts.append("## Runs\n\n" + _runs_table(result.runs))
    parts.append("## Made with\n\n" + markdown_table(["", ""], [[key, value] for key, value in environment.items()]))
    settings = yaml.safe_dump(json.loads(json.dumps(recipe.to_dict())), sort_keys=False, allow_unicode=True, width=100)
    parts.append(f"## Recipe\n\n```yaml\n{settings.rstrip()}\n```")
    return "\n\n".join(parts) + "\n"


def results_sections(result: FinetuneResult) -> list[str]:
    """The figures on dev and test, as Markdown."""
    out = []
    for split in SPLITS:
        found = result.summary(split)
        if not found:
            continue
        several = len(result.runs) > 1
        untuned = result.untuned.get(split, {})
        heading = ["", f"mean of {len(result.runs)} seeds" if several else "fine-tuned"]
        heading += ["each"] if several else []
        heading += ["before"] if untuned else []
        rows = []
        for name, summary in found.items():
            row = [name, shown(summary)]
            row += ["  ".join(f"{value:.2f}" for value in summary.values)] if several else []
            row += [f"{untuned[name]:.2f}" if name in untuned else ""] if untuned else []
            rows.append(row)
        out.append(f"## On the {split} file\n\n{markdown_table(heading, rows)}\n\nMetrics in percent, loss in nats.")
    return out


def shown(summary: Summary) -> str:
    """A figure with its deviation, if there is one."""
    return f"{summary.mean:.2f} ± {summary.deviation:.2f}" if len(summary.values) > 1 else f"{summary.mean:.2f}"


def pictured_split(run: RunResult) -> str | None:
    """The file whose confusions are drawn: the first of test and dev that has any."""
    return next((name for name in SPLITS if name in run.confusion), None)


def confusion_section(run: RunResult, split: str, labels: Sequence[str], *, picture: bool = True) -> str:
    """Counts in a table, or of many labels the pairs most often confused; with the picture the labels' numbers."""
    counts = run.confusion[split]
    numbers = ", ".join(f"{number} {label}" for number, label in enumerate(labels, 1))
    shown_picture = f"![Confusion matrix]({CONFUSION})\n\nLabels: {numbers}."
    head = f"## Confusions on the {split} file\n\nRows are the true labels, columns the predicted ones."
    if len(labels) <= WITH_COUNTS:
        names = [f"{number} {label}" for number, label in enumerate(labels, 1)]
        body = markdown_table(["", *names], [[name, *map(str, row)] for name, row in zip(names, counts, strict=True)])
        return f"{head}\n\n{body}" + (f"\n\n{shown_picture}" if picture else "")
    pairs = sorted(
        ((counts[i][j], i, j) for i in range(len(labels)) for j in range(len(labels)) if i != j and counts[i][j]),
        key=lambda each: (-each[0], each[1], each[2]),
    )
    rows = [[labels[i], labels[j], str(count)] for count, i, j in pairs[:20]]
    often = markdown_table(["true", "predicted", "times"], rows)
    return f"{head}\n\n{often}" + (f"\n\n{shown_picture}" if picture else "")


def _runs_table(runs: Sequence[RunResult]) -> str:
    rows = [
        [str(run.seed), f"{run.step}", f"{run.steps}", f"{run.tokens:,}", f"{run.seconds:.0f} s"]
        + [f"{value:.2f}" for split in run.metrics for value in run.metrics[split].values()]
        for run in runs
    ]
    names = [f"{split} {name}" for split in runs[0].metrics for name in runs[0].metrics[split]]
    return markdown_table(["seed", "best after", "updates", "tokens", "time", *names], rows)
