"""The commands behind docs/results.md: what they count, and that they go on where they stopped."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest

from openglm.checkpoints.native import save_model
from openglm.evaluation.results import Result
from openglm.network.model import GLMModel
from openglm.tasks.parts import PublishedResult
from openglm.tasks.splits import task_examples
from openglm.tasks.task_files import load_task
from openglm.tokenizer import BilingualTokenizer

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def fewclue(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    pytest.importorskip("sklearn", reason="needs scikit-learn: pip install '.[benchmarks]'")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("fewclue")


@pytest.fixture
def titles(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("title_generation")


def write_lines(path: Path, rows: list[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n", encoding="utf-8")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """EPRSTMT and CHID that characters alone decide, and a few abstracts."""
    for file, count in (("train_0", 8), ("dev_0", 4), ("test_public", 6)):
        reviews = [
            {"id": i, "sentence": f"质量{'好' if i % 2 else '坏'}{i}", "label": ("Negative", "Positive")[i % 2]}
            for i in range(count)
        ]
        write_lines(tmp_path / "fewclue" / "eprstmt" / f"{file}.json", reviews)
        idioms = [
            {"id": i, "candidates": ["画蛇添足", "守株待兔"], "content": f"第{i}句说#idiom#。", "answer": 1}
            for i in range(count)
        ]
        write_lines(tmp_path / "fewclue" / "chid" / f"{file}.json", idioms)
    pairs = [{"abstract": f"本文研究河边的老师{i}。结果很好。", "title": f"河边的老师{i}"} for i in range(4)]
    write_lines(tmp_path / "csl_title" / "test.jsonl", pairs)
    write_lines(tmp_path / "csl_title" / "dev.jsonl", pairs * 226)
    return tmp_path


@pytest.fixture
def model(tmp_path: Path, tiny_model: GLMModel, tokenizer: BilingualTokenizer) -> str:
    save_model(tmp_path / "model", tiny_model, tokenizer)
    return str(tmp_path / "model")


@pytest.mark.parametrize("name", ["eprstmt", "chid"])
def test_characters_decide(fewclue: ModuleType, data: Path, name: str) -> None:
    assert fewclue.tf_idf(load_task(f"fewclue/{name}"), data) == 100


def test_texts_of_a_task_whose_examples_bring_answers(fewclue: ModuleType, data: Path) -> None:
    task = load_task("fewclue/chid")
    texts, labels = fewclue.flattened(task, task_examples(task, "dev", data)[:1])
    assert [text.split("\n")[-1] for text in texts] == ["画蛇添足", "守株待兔"]
    assert labels == ["False", "True"]


def test_the_command_goes_on_where_it_stopped(
    fewclue: ModuleType, data: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--data-dir", str(data), "--output", str(data / "out.json"), "--model", model, "--tasks", "eprstmt"]
    assert fewclue.main([*command, "--methods", "tf-idf"]) == 0
    first = capsys.readouterr()
    assert "eprstmt tf-idf: 100.00" in first.err
    assert fewclue.main([*command, "--methods", "tf-idf", "zero-shot", "zero-shot, calibrated"]) == 0
    second = capsys.readouterr()
    assert "tf-idf" not in second.err
    assert "eprstmt zero-shot, calibrated: " in second.err
    rows = {cells[0]: cells[1:] for cells in map(cells_of, second.out.splitlines()) if cells}
    assert rows["**tf-idf**"] == ["100.0", "100.0"]
    assert rows["chance"] == rows["majority"] == ["50.0", "50.0"]
    assert rows["test examples"] == ["6", ""]
    assert rows["**cloze**"] == ["", ""]


def test_fine_tuning_is_measured_seed_by_seed(
    fewclue: ModuleType, data: Path, model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fewclue, "RECIPES", {"eprstmt": {"run": {"steps": 2, "batch_size": 2, "evaluations": 1}}})
    command = ["--data-dir", str(data), "--output", str(data / "out.json"), "--model", model, "--tasks", "eprstmt"]
    assert fewclue.main([*command, "--methods", "head", "cloze", "--seeds", "1"]) == 0
    assert "eprstmt cloze seed 0" in capsys.readouterr().err
    assert fewclue.main([*command, "--methods", "cloze", "--seeds", "2"]) == 0
    out = capsys.readouterr()
    assert "seed 0" not in out.err
    assert "eprstmt cloze seed 1" in out.err
    results = json.loads((data / "out.json").read_text(encoding="utf-8"))["results"]
    assert [(each["method"], each["seeds"]) for each in results] == [("head", [0]), ("cloze", [0]), ("cloze", [1])]
    assert "±" in next(line for line in out.out.splitlines() if line.startswith("| **cloze**"))


def cells_of(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")] if line.startswith("|") else []


def test_the_table_has_means_and_deviations(fewclue: ModuleType) -> None:
    figure = PublishedResult("Somebody", "few-shot", "accuracy", 80.0, "a paper")
    results = [
        Result(f"fewclue/{task}", "m", "cloze", {"accuracy": value}, 9, seeds=(seed,), published=(figure,))
        for task, values in (("eprstmt", (60.0, 70.0)), ("tnews", (30.0, 30.0)))
        for seed, value in enumerate(values)
    ]
    rows = {cells[0]: cells[1:] for cells in map(cells_of, fewclue.table(results, ["eprstmt", "tnews"]).splitlines())}
    assert rows["**cloze**"] == ["65.0 ± 7.1", "30.0 ± 0.0", "47.5"]
    assert rows["Somebody, few-shot"] == ["80.0", "80.0", "80.0"]


def test_several_patterns_are_averaged_where_that_is_said(
    fewclue: ModuleType, data: Path, model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Results of one pattern stay in the file, and out of the table."""
    command = ["--data-dir", str(data), "--output", str(data / "out.json"), "--model", model, "--tasks", "eprstmt"]
    command += ["--seeds", "1", "--methods", "cloze", "head", "zero-shot"]
    monkeypatch.setattr(fewclue, "RECIPES", {"eprstmt": {"run": {"steps": 2, "batch_size": 2, "evaluations": 1}}})
    assert fewclue.main(command) == 0
    first = capsys.readouterr()
    monkeypatch.setattr(fewclue, "PATTERNS", {"eprstmt": (0, 2)})
    assert fewclue.main(command) == 0
    second = capsys.readouterr()
    assert "eprstmt cloze seed 0: " in second.err
    assert "eprstmt zero-shot: " in second.err
    assert "eprstmt head" not in second.err
    results = json.loads((data / "out.json").read_text(encoding="utf-8"))["results"]
    found = [(each["method"], each["settings"]["pattern"]) for each in results]
    assert found == [("zero-shot", 0), ("head", 0), ("cloze", 0), ("zero-shot", [0, 2]), ("cloze", [0, 2])]
    assert "±" not in second.out, "one seed of the settings that hold"
    monkeypatch.setattr(fewclue, "PATTERNS", {})
    assert fewclue.main(command) == 0
    assert capsys.readouterr().out == first.out


def test_patterns_of_the_tasks_are_there(fewclue: ModuleType) -> None:
    for name in fewclue.TASKS:
        assert load_task(f"fewclue/{name}").pattern_indices(fewclue.patterns(name, "cloze"))


def test_an_unknown_task(fewclue: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        fewclue.main(["--data-dir", str(tmp_path), "--output", str(tmp_path / "x.json"), "--tasks", "eprstm"])
    assert "no task eprstm" in capsys.readouterr().err


def test_titles_need_no_model_for_their_baselines(titles: ModuleType, data: Path) -> None:
    test = titles.pairs(data / "csl_title" / "test.jsonl")
    found = titles.baselines(test, 12)
    first = found["first sentence of the abstract"]
    assert first["length"] == 10
    # 6 of 10 characters of the sentence stand in the title, which has 6.
    assert first["rouge1"] == pytest.approx(100 * 2 * 6 / 16)
    assert found["first 12 characters of the abstract"]["length"] > first["length"]


def test_titles_before_and_after_fine_tuning(
    titles: ModuleType, data: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--data-dir", str(data), "--output", str(data / "titles.json"), "--model", model]
    command += ["--train", "4", "--epochs", "1", "--limit", "2"]
    assert titles.main(command) == 0
    first = capsys.readouterr()
    rows = [cells_of(line) for line in first.out.splitlines() if line.startswith("|")]
    assert [row[0] for row in rows[-2:]] == ["the untuned model", "fine-tuned"]
    assert titles.main(command) == 0
    second = capsys.readouterr()
    assert second.out == first.out
    assert not second.err
