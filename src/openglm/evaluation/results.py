"""What an evaluation found, as data: kept in a JSON file as it comes, shown as a table.

A file of results is a list; each result says what it is of (`Result.identity`), so that a
command that is started again finds what is done. Knows nothing about models or tasks.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..files import write_atomically
from ..tasks.parts import PublishedResult

FORMAT = "openglm-results"


@dataclass(frozen=True)
class Result:
    """One model on one task in one way.

    Attributes:
        task: name.
        model: name or folder, as given.
        method: "zero-shot", "zero-shot, calibrated", "few-shot", ...
        metrics: name -> value (a mean, where there are several runs), the most important first.
        count: examples measured.
        title: of the task, for people.
        deviations: name -> standard deviation over `seeds`; empty for a single run.
        seeds: of the runs.
        runs: metrics of each run, where there are several.
        version: of the task, its figures can only be compared with those of the same.
        population: how many examples there are, where a sample of them was measured; else 0.
        alike: examples of which two answers come to the same tokens, so that none can be told from the other.
        cut: examples of which something did not fit the context.
        chance, majority: metrics of guessing, and of always giving the most frequent answer.
        published: results of others.
        seconds: taken.
        categories: of a task that has some (BLiMP's phenomena): name -> its metrics.
        settings: what else decides the figures (pattern, digests of task, data and weights, ...).
    """

    task: str
    model: str
    method: str
    metrics: Mapping[str, float]
    count: int
    title: str = ""
    deviations: Mapping[str, float] = field(default_factory=dict)
    seeds: tuple[int, ...] = ()
    runs: tuple[Mapping[str, float], ...] = ()
    cut: int = 0
    chance: Mapping[str, float] = field(default_factory=dict)
    majority: Mapping[str, float] = field(default_factory=dict)
    published: tuple[PublishedResult, ...] = ()
    seconds: float = 0.0
    settings: Mapping[str, Any] = field(default_factory=dict)
    categories: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    version: int = 1
    population: int = 0
    alike: int = 0

    @property
    def identity(self) -> str:
        """Equal for results of the same thing."""
        return identity(self.task, self.method, self.seeds, self.settings)

    @property
    def metric(self) -> str:
        """The most important metric."""
        return next(iter(self.metrics))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; metrics rounded to four digits."""
        values = dataclasses.asdict(self)
        for name in ("population", "alike"):
            if not values[name]:
                del values[name]
        return {key: _rounded(value) for key, value in values.items() if value not in ("", (), {}, None)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Result:
        """The inverse of `to_dict`.

        Raises:
            DataError: a key that is missing or unknown.
        """
        chosen = dict(values)
        try:
            for name, kind in (("seeds", tuple), ("runs", tuple)):
                chosen[name] = kind(chosen.get(name, ()))
            chosen["published"] = tuple(PublishedResult(**each) for each in chosen.get("published", ()))
            return cls(**chosen)
        except TypeError as error:
            raise DataError(f"not a result of an evaluation: {error}") from error


def identity(task: str, method: str, seeds: Sequence[int], settings: Mapping[str, Any]) -> str:
    """What a result is of, as a string."""
    return json.dumps([task, method, list(seeds), _rounded(settings)], ensure_ascii=False, sort_keys=True)


def combine(runs: Sequence[Mapping[str, float]]) -> tuple[dict[str, float], dict[str, float]]:
    """Means and (sample) standard deviations of several runs' metrics; of one run, no deviations."""
    means = {name: statistics.fmean(run[name] for run in runs) for name in runs[0]}
    if len(runs) < 2:
        return means, {}
    return means, {name: statistics.stdev(run[name] for run in runs) for name in runs[0]}


class ResultFile:
    """A JSON file of results that grows; written whole after each, so that none is lost.

    Args:
        path: None keeps them in memory only.

    Raises:
        DataError: the file is there and holds something else.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.results: list[Result] = read_results(path) if path is not None and path.exists() else []

    def find(self, wanted: str) -> Result | None:
        """The result of this identity."""
        return next((each for each in self.results if each.identity == wanted), None)

    def add(self, result: Result) -> None:
        """Add a result, in place of one of the same identity."""
        self.results = [each for each in self.results if each.identity != result.identity] + [result]
        if self.path is not None:
            content = {"format": FORMAT, "results": [each.to_dict() for each in self.results]}
            write_atomically(self.path, (json.dumps(content, ensure_ascii=False, indent=1) + "\n").encode())


def read_results(path: Path) -> list[Result]:
    """The results in a file.

    Raises:
        DataError: not readable, or something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a file of results ({error}); name another one") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT or not isinstance(content.get("results"), list):
        raise DataError(f"{path} was not written by an evaluation; name another file")
    return [Result.from_dict(each) for each in content["results"]]


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, Mapping):
        return {key: _rounded(each) for key, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, (list, tuple)) else value
