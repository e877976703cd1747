from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from openglm.errors import DataError
from openglm.evaluation.results import Result, ResultFile, combine, read_results
from openglm.evaluation.tables import render, value_of
from openglm.tasks.parts import PublishedResult

FIGURE = PublishedResult("Somebody", "few-shot", "accuracy", 73.72, "a paper")
RESULT = Result(
    "fewclue/eprstmt", "default", "few-shot", {"accuracy": 70.12345}, 610, "Reviews", {"accuracy": 2.5}, (0, 1),
    ({"accuracy": 68.0}, {"accuracy": 72.2}), 3, {"accuracy": 50.0}, {"accuracy": 51.0}, (FIGURE,), 12.5,
    {"limit": None},
)  # fmt: skip


def test_a_result_survives_json() -> None:
    again = Result.from_dict(json.loads(json.dumps(RESULT.to_dict())))
    assert again == dataclasses.replace(RESULT, metrics={"accuracy": 70.1235})
    assert again.identity == RESULT.identity
    plain = Result("lambada", "default", "zero-shot", {"accuracy (bi)": 2.0}, 5)
    assert Result.from_dict(plain.to_dict()) == plain


def test_identity_depends_on_what_decides_the_figures_alone() -> None:
    assert dataclasses.replace(RESULT, metrics={}, seconds=0.0, published=()).identity == RESULT.identity
    for change in ({"seeds": (0,)}, {"method": "zero-shot"}, {"settings": {"limit": 5}}, {"task": "x"}):
        assert dataclasses.replace(RESULT, **change).identity != RESULT.identity


def test_a_file_of_results_grows_and_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    file = ResultFile(path)
    assert file.find(RESULT.identity) is None
    file.add(RESULT)
    file.add(dataclasses.replace(RESULT, task="other"))
    file.add(dataclasses.replace(RESULT, metrics={"accuracy": 1.0}))  # takes the place of the first
    again = ResultFile(path)
    assert [each.task for each in again.results] == ["other", "fewclue/eprstmt"]
    found = again.find(RESULT.identity)
    assert found is not None
    assert found.metrics == {"accuracy": 1.0}
    assert not [each for each in tmp_path.iterdir() if each != path]


@pytest.mark.parametrize(
    "content", ["", "[]", '{"format": "other"}', '{"format": "openglm-results", "results": [{"task": "x"}]}']
)
def test_another_file_is_not_overwritten(tmp_path: Path, content: str) -> None:
    path = tmp_path / "notes.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError):
        ResultFile(path)
    with pytest.raises(DataError):
        read_results(path)
    assert path.read_text(encoding="utf-8") == content


def test_combining_runs() -> None:
    means, deviations = combine([{"accuracy": 60.0}, {"accuracy": 64.0}, {"accuracy": 68.0}])
    assert means == {"accuracy": 64.0}
    assert deviations == {"accuracy": pytest.approx(4.0)}
    assert combine([{"accuracy": 60.0}]) == ({"accuracy": 60.0}, {})


def test_a_table_shows_ours_beside_what_others_published() -> None:
    text = render([RESULT, Result("wikitext", "default", "zero-shot", {"per word (bi)": 123456.0}, 9)])
    assert "| 610 (3 cut) | accuracy" in text
    assert "1.23e+05" in text
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    assert ["fewclue/eprstmt", "1", "few-shot", "610 (3 cut)", "accuracy", "70.1 ± 2.5", "50.0", "51.0"] in rows
    assert ["**openglm, default**", "few-shot", "70.1 ± 2.5"] in rows
    assert ["chance", "", "50.0"] in rows
    assert ["majority", "", "51.0"] in rows
    assert ["Somebody", "few-shot", "73.72"] in rows
    assert "- a paper" in text
    assert "### wikitext" not in text  # nothing published to stand beside


def test_a_single_run_has_no_deviation() -> None:
    assert value_of(dataclasses.replace(RESULT, deviations={}), "accuracy") == "70.1"
