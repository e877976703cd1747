"""Results as Markdown: one table of ours, and per task one with the published figures beside them."""

from __future__ import annotations

from collections.abc import Sequence

from ..markdown import markdown_table
from ..tasks.parts import PublishedResult
from .results import Result


def render(results: Sequence[Result]) -> str:
    """Markdown with everything: ours beside chance and majority, then what others have published."""
    parts = [own_table(results)]
    parts += [_by_category(group) for group in _by_task(results) if any(each.categories for each in group)]
    compared = [each for each in _by_task(results) if each[0].published]
    if compared:
        parts.append("## Beside published figures")
        parts += [_beside(group) for group in compared]
        parts.append("Published figures are of other models, most of them far larger; sources:\n" + _sources(results))
    return "\n\n".join(parts) + "\n"


def own_table(results: Sequence[Result]) -> str:
    """One row per metric: task and its version, method, examples, value, chance, majority."""
    rows = [["task", "version", "method", "examples", "metric", "value", "chance", "majority"]]
    for each in results:
        count = f"{each.count}" + (f" ({each.cut} cut)" if each.cut else "")
        count += ", a sample" if each.population else ""
        count += f", {each.alike} with equal answers" if each.alike else ""
        for number, name in enumerate(each.metrics):
            about = [each.task, str(each.version), each.method, count] if not number else [""] * 4
            guesses = [_number(each.chance.get(name)), _number(each.majority.get(name))]
            rows.append([*about, name, value_of(each, name), *guesses])
    return markdown_table(rows[0], rows[1:], right=(1, 3, 5, 6, 7))


def value_of(result: Result, name: str) -> str:
    """A metric, with its deviation over the seeds where there are several."""
    value = _number(result.metrics[name])
    return f"{value} ± {_number(result.deviations[name])}" if name in result.deviations else value


def _by_category(group: Sequence[Result]) -> str:
    """One row per category, ours beside what others have published of it."""
    ours = [each for each in group if each.categories]
    first, metric = ours[0], ours[0].metric
    published = [each for each in first.published if each.category and each.metric == metric]
    theirs = {
        system: {each.category: each.value for each in published if each.system == system}
        for system in dict.fromkeys(each.system for each in published)
    }
    names = list(dict.fromkeys(name for each in ours for name in each.categories))
    rows = [[metric, *(f"**openglm, {each.model}**" for each in ours), *theirs]]
    for name in names:
        values = [_number(each.categories.get(name, {}).get(metric)) for each in ours]
        rows.append([name, *values, *(_number(values_of.get(name)) for values_of in theirs.values())])
    return f"### {first.title or first.task}, by category\n\n" + markdown_table(
        rows[0], rows[1:], right=range(1, len(rows[0]))
    )


def _beside(group: Sequence[Result]) -> str:
    first = group[0]
    published = [each for each in first.published if not each.category]
    names = list(dict.fromkeys([*first.metrics, *(each.metric for each in published)]))
    shown = [name for name in names if name in first.metrics or any(each.metric == name for each in published)]
    rows = [["system", "setting", *shown]]
    for each in group:
        rows.append(
            [
                f"**openglm, {each.model}**",
                each.method,
                *(value_of(each, n) if n in each.metrics else "" for n in shown),
            ]
        )
    for label, values in (("chance", first.chance), ("majority", first.majority)):
        if values:
            rows.append([label, "", *(_number(values.get(name)) for name in shown)])
    for system, setting in dict.fromkeys((each.system, each.setting) for each in published):
        found = {each.metric: each.value for each in published if (each.system, each.setting) == (system, setting)}
        rows.append([system, setting, *(f"{found[name]:g}" if name in found else "" for name in shown)])
    title = f"### {first.title or first.task}"
    return title + "\n\n" + markdown_table(rows[0], rows[1:], right=range(2, 2 + len(shown)))


def _by_task(results: Sequence[Result]) -> list[list[Result]]:
    names = dict.fromkeys(each.task for each in results)
    return [[each for each in results if each.task == name] for name in names]


def _sources(results: Sequence[Result]) -> str:
    published: list[PublishedResult] = [figure for each in results for figure in each.published]
    return "\n".join(f"- {source}" for source in dict.fromkeys(figure.source for figure in published))


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.1f}" if abs(value) < 10_000 else f"{value:.3g}"
