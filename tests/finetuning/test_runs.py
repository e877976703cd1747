"""Runs from beginning to end: what is left, what is kept, what repeats, what goes on."""

from __future__ import annotations

import dataclasses
import json
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from openglm.errors import TrainingError
from openglm.finetuning import FinetuneRecipe, FinetuneResult, run
from openglm.finetuning.cloze import ClozeBatch, ClozeJob
from openglm.finetuning.jobs import Evaluation
from openglm.finetuning.runs import prepare
from openglm.finetuning.selection import Selection
from openglm.finetuning.tuner import RunContext, Tuner
from openglm.reporting.report import read_log
from openglm.training.parallel import Processes
from openglm.training.state import states

from .conftest import Make

pytestmark = pytest.mark.usefixtures("no_pictures")
CPU = Processes(torch.device("cpu"))


def tuned(recipe: FinetuneRecipe, **options: Any) -> FinetuneResult:
    return run(recipe, device="cpu", quiet=True, **options)


def into(recipe: FinetuneRecipe, folder: Path) -> FinetuneRecipe:
    return dataclasses.replace(recipe, output=str(folder))


def best_weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "seed-0/best.safetensors")


def figures(result: FinetuneResult) -> list[dict[str, Any]]:
    """Everything that must repeat; time need not."""
    return [{key: value for key, value in each.to_dict().items() if key != "seconds"} for each in result.runs]


def logged(folder: Path) -> list[dict[str, Any]]:
    return [
        {k: v for k, v in each.items() if k != "tokens_per_second"} for each in read_log(folder / "seed-0/log.jsonl")
    ]


def test_what_a_run_leaves(make: Make, tmp_path: Path) -> None:
    result = tuned(make(run={"seeds": [3, 4]}))
    output = tmp_path / "run"
    assert result.finished
    assert result.model == output / "model"
    assert [each.seed for each in result.runs] == [3, 4]
    left = {path.name for path in output.iterdir()}
    assert {"model", "report.md", "report.json", "dev.predictions.jsonl", "test.predictions.jsonl"} <= left
    assert {path.name for path in (output / "model").iterdir()} >= {"config.json", "task.yaml", "README.md"}
    assert not states(output / "seed-3"), "states are of no use once a run is finished"
    report = json.loads((output / "report.json").read_text())
    assert result.best is not None
    assert report["best_seed"] == result.best.seed
    assert set(report["summary"]["test"]) == {"accuracy", "loss"}
    assert report["untuned"]["dev"]["loss"] > 0
    assert len((output / "test.predictions.jsonl").read_text().splitlines()) == 4
    text = (output / "report.md").read_text()
    assert f"{result.test['accuracy'].mean:.2f} ± {result.test['accuracy'].deviation:.2f}" in text
    card = (output / "model/README.md").read_text()
    assert "mean of 2 seeds" in card
    assert "load_classifier" in card
    values = [each.metrics["dev"]["accuracy"] for each in result.runs]
    assert result.dev["accuracy"].mean == pytest.approx(statistics.fmean(values))
    assert result.dev["accuracy"].deviation == pytest.approx(statistics.stdev(values))


def test_the_same_seed_gives_the_same_bits(make: Make, tmp_path: Path) -> None:
    recipe = make(method={"name": "lora", "lora_dropout": 0.1})
    one = tuned(into(recipe, tmp_path / "one"))
    other = tuned(into(recipe, tmp_path / "other"))
    assert figures(one) == figures(other)
    first, second = best_weights(tmp_path / "one"), best_weights(tmp_path / "other")
    assert all(torch.equal(first[name], second[name]) for name in first)
    third = tuned(into(make(method={"name": "lora", "lora_dropout": 0.1}, run={"seeds": [1]}), tmp_path / "third"))
    assert figures(third) != figures(one)


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_a_stopped_run_goes_on_to_the_same_end(make: Make, tmp_path: Path, stop: int) -> None:
    """With dropout, evaluations before and after the stop, and the best weights on either side of it."""
    recipe = make(run={"save_every": 2, "accumulate": 2})
    whole = tuned(into(recipe, tmp_path / "whole"))
    stopped = tuned(into(recipe, tmp_path / "parts"), stop_at=stop)
    assert not stopped.finished
    assert stopped.model is None
    assert states(tmp_path / "parts/seed-0")[0][0] == stop
    went_on = tuned(into(recipe, tmp_path / "parts"))
    assert figures(went_on) == figures(whole)
    one, other = best_weights(tmp_path / "whole"), best_weights(tmp_path / "parts")
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert logged(tmp_path / "parts")[-1] == logged(tmp_path / "whole")[-1]


def test_a_killed_run_goes_on_to_the_same_end(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after an evaluation that no state knows of: it is made again, and so are its weights."""
    recipe = make(run={"save_every": 3, "evaluations": 6})
    whole = tuned(into(recipe, tmp_path / "whole"))
    plain = ClozeJob.batch

    def batch(self: ClozeJob, number: int) -> ClozeBatch:
        if number == 5:
            raise RuntimeError("killed")
        return plain(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(ClozeJob, "batch", batch)
        with pytest.raises(RuntimeError, match="killed"):
            tuned(into(recipe, tmp_path / "parts"))
    assert states(tmp_path / "parts/seed-0")[0][0] == 3
    assert len([each for each in logged(tmp_path / "parts") if "validation" in each]) == 5
    assert figures(tuned(into(recipe, tmp_path / "parts"))) == figures(whole)
    assert logged(tmp_path / "parts") == logged(tmp_path / "whole")
    one, other = best_weights(tmp_path / "whole"), best_weights(tmp_path / "parts")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_finished_run_is_not_made_again(make: Make, tmp_path: Path) -> None:
    recipe = make(run={"seeds": [0]})
    first = tuned(recipe)
    changed = (tmp_path / "run/seed-0/best.safetensors").stat().st_mtime_ns
    more = tuned(make(run={"seeds": [0, 1]}))
    assert (tmp_path / "run/seed-0/best.safetensors").stat().st_mtime_ns == changed
    assert more.runs[0].to_dict() == first.runs[0].to_dict()
    assert len(more.runs) == 2
    with pytest.raises(TrainingError, match=r"another run: optimizer.learning_rate was 0.005 and is 0.1 now"):
        tuned(make(optimizer={"learning_rate": 0.1}))


def test_the_best_weights_are_kept_and_a_hopeless_run_ends(make: Make, tmp_path: Path) -> None:
    """Steered by a dev file whose results are made up: best at the second look, then worse."""
    recipe = make(run={"steps": 30, "evaluations": 15, "patience": 3})
    plan, checkpoint = prepare(recipe)
    tuner = Tuner(recipe, plan, checkpoint, 0, tmp_path / "steered", RunContext(CPU, quiet=True))
    results = iter([50.0, 75.0, 75.0, 60.0, 60.0, 60.0, 60.0])
    seen: dict[int, torch.Tensor] = {}
    looks: list[int] = []
    plain = tuner.job.evaluate

    def evaluate(split: str) -> Evaluation | None:
        if split != "dev" or len(looks) >= 6:
            return plain(split)
        looks.append(1)
        seen[len(looks)] = tuner.job.model.word_embeddings.weight.detach().clone()
        return Evaluation(1.0 if len(looks) != 3 else 2.0, {"accuracy": next(results)})

    tuner.job.evaluate = evaluate  # type: ignore[method-assign]
    result = tuner.run()
    assert result is not None
    assert len(looks) - (1 if len(looks) == 6 else 0) == 5, "the best, then three that are not"
    assert (result.step, result.steps) == (4, 10)
    best = load_file(tmp_path / "steered/best.safetensors")["word_embeddings.weight"]
    assert torch.equal(best, seen[2])
    assert not torch.equal(best, seen[5])
    [note] = [each for each in read_log(tmp_path / "steered/log.jsonl") if each.get("note") == "early stop"]
    assert "after update 4" in note["message"]


def test_ties_go_to_the_lower_loss() -> None:
    selection = Selection("accuracy", 2)
    looks = [(50.0, 1.0), (50.0, 0.9), (50.0, 0.95), (40.0, 0.1)]
    found = [selection.look(step, Evaluation(loss, {"accuracy": value})) for step, (value, loss) in enumerate(looks)]
    assert found == [True, True, False, False]
    assert (selection.step, selection.exhausted, selection.looks) == (1, True, 4)
    again = Selection("accuracy", 2)
    again.restore(json.loads(json.dumps(selection.state())))
    assert again == selection
    by_loss = Selection("", 0)
    assert [by_loss.look(step, Evaluation(loss)) for step, loss in enumerate([2.0, 1.0, 1.5])] == [True, True, False]
    assert not by_loss.exhausted


def test_an_early_stop_survives_a_kill(make: Make, tmp_path: Path) -> None:
    """Killed between the early stop and the result: the run that goes on trains no further."""
    recipe = make(run={"steps": 40, "evaluations": 20, "patience": 1, "save_every": 1, "keep_states": True})
    first = tuned(recipe)
    (tmp_path / "run/seed-0/result.json").unlink()
    again = tuned(recipe)
    assert figures(again) == figures(first)
    assert again.runs[0].steps == first.runs[0].steps < 40


def test_without_a_dev_file_the_last_weights_count(make: Make) -> None:
    result = tuned(make(data={"dev": ()}))
    assert result.runs[0].step == result.runs[0].steps == 6
    assert result.dev == {}
    assert set(result.test) == {"accuracy", "loss"}


def test_states_of_another_recipe_are_refused(make: Make, tmp_path: Path) -> None:
    tuned(make(), stop_at=2)
    with pytest.raises(TrainingError, match=r"of another run: method.name was full and is bias"):
        tuned(make(method={"name": "bias"}))


def test_the_report_shows_what_trained(make: Make, tmp_path: Path, no_pictures: None) -> None:
    """Values that a recipe leaves open are in the report and the card as they were decided."""
    result = run(make(run={"steps": 0, "epochs": 2.0, "evaluations": 1}, optimizer={}), quiet=True)
    shown = json.loads((tmp_path / "run/report.json").read_text(encoding="utf-8"))["recipe"]
    assert shown["run"]["steps"] == result.runs[0].steps == 4
    assert shown["run"]["epochs"] == 2.0
    assert shown["run"]["precision"] == "fp32"
    assert shown["optimizer"]["learning_rate"] == 0.005
    text = (tmp_path / "run/report.md").read_text(encoding="utf-8")
    assert "optimizer: {}" not in text
    assert "epochs: 0.0" not in text
    assert text.count("confusion_matrix.png") == 1


def test_numbered_labels_have_the_words_that_stand_for_them(make: Make, files: dict[str, str], tmp_path: Path) -> None:
    lines = [json.loads(line) for line in Path(files["train"]).read_text(encoding="utf-8").splitlines()]
    path = tmp_path / "numbered.jsonl"
    rows = [{**line, "label": {"yes": "100", "no": "101"}[line["label"]]} for line in lines]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    data = {"train": str(path), "dev": (), "test": ()}
    task = {
        "pattern": "{sentence:shorten} That is [MASK].",
        "verbalizer": {"100": ["found", "the river"], "101": "sold"},
    }
    plan, _ = prepare(make(data=data, task=task))
    assert (plan.labels, plan.names) == (("100", "101"), ("100 found", "101 sold"))
    plan, _ = prepare(make())
    assert plan.names == plan.labels == ("yes", "no")
