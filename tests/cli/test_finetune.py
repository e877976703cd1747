"""`openglm finetune` as users call it: flags, recipes, tasks by name, and what goes wrong."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import yaml

from openglm.checkpoints.native import save_model
from openglm.cli.finetune import add_arguments, read_recipe
from openglm.cli.main import main
from openglm.finetuning import FinetuneRecipe
from openglm.finetuning.tasks import task_of
from openglm.network.model import GLMModel
from openglm.tokenizer import BilingualTokenizer

PATTERN = "{sentence:shorten} That is [MASK]."


@pytest.fixture
def base(tmp_path: Path, tiny_model: GLMModel, tokenizer: BilingualTokenizer) -> str:
    save_model(tmp_path / "base", tiny_model, tokenizer)
    return str(tmp_path / "base")


@pytest.fixture
def train(tmp_path: Path, text_lines: list[str]) -> str:
    lines = [line for line in text_lines if line.startswith("Did")][:8]
    rows = [{"sentence": line, "label": "yes" if number % 2 else "no"} for number, line in enumerate(lines)]
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_from_examples_to_a_classifier(
    base: str, train: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The whole of it, pictures included: train, look at what is left, use it."""
    command = ["finetune", "cloze", train, "--pattern", PATTERN, "--verbalizer", "yes=found", "--verbalizer", "no=sold"]
    command += ["--dev", train, "--test", train, "--model", base, "--output", str(tmp_path / "run")]
    assert main([*command, "--steps", "4", "--batch-size", "4", "--seeds", "2", "--lr", "0.01"]) == 0
    out, err = capsys.readouterr()
    assert "finished:" in out
    assert "accuracy" in out
    assert "±" in out
    assert "8 of 8 dev examples are in the training data too" in err
    assert "update 4/4" in err
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"curves.png", "confusion_matrix.png", "report.md", "report.json", "model", "seed-0", "seed-1"} <= left
    assert (
        main(["fill", "--model", str(tmp_path / "run/model"), "Did the old teacher [MASK]?", "--max-new-tokens", "3"])
        == 0
    )
    capsys.readouterr()
    # Asked again, there is nothing left to do; --json is for machines.
    assert main([*command, "--steps", "4", "--batch-size", "4", "--seeds", "2", "--lr", "0.01", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["test"]) == {"accuracy", "loss"}
    assert len(found["test"]["loss"]["values"]) == 2


def test_a_recipe_with_flags_that_win(
    base: str, train: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "mine.yaml"
    values = {
        "model": base,
        "output": str(tmp_path / "run"),
        "data": {"train": train},
        "task": {"pattern": PATTERN, "verbalizer": {"yes": "found", "no": "sold"}},
        "run": {"steps": 50, "batch_size": 4},
    }
    recipe.write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
    command = ["finetune", "cloze", "--recipe", str(recipe), "--steps", "2", "--rank", "2", "--set", "run.dropout=0.0"]
    assert main(command) == 0
    report = json.loads((tmp_path / "run/report.json").read_text())
    settings = report["recipe"]
    assert (settings["run"]["steps"], settings["run"]["dropout"], settings["run"]["batch_size"]) == (2, 0.0, 4)
    assert settings["method"]["name"] == "lora"
    assert settings["method"]["rank"] == 2
    assert (tmp_path / "run/adapter/adapter_model.safetensors").exists()


def recipe_of(*flags: str) -> FinetuneRecipe:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return read_recipe(parser.parse_args(["cloze", "train.jsonl", *flags]))


def test_patterns_go_by_number_or_are_written_out(tmp_path: Path) -> None:
    """Several texts are a task with as many patterns, and all of them are asked."""
    words = ["--verbalizer", "yes=found", "--verbalizer", "no=sold"]
    one, two = recipe_of("--pattern", PATTERN, *words), recipe_of("--pattern", PATTERN, "--pattern", "[MASK]!", *words)
    assert (one.task["pattern"], one.pattern) == (PATTERN, 0)
    assert (two.task["pattern"], two.pattern) == ([PATTERN, "[MASK]!"], "all")
    assert task_of(two).patterns == (PATTERN, "[MASK]!")
    named = ["--task", "fewclue/tnews", "--pattern"]
    assert [recipe_of(*named, given).pattern for given in ("2", "3,0", "all")] == [2, (0, 3), "all"]
    assert recipe_of(*named, "3", "--pattern", "0").pattern == (0, 3)
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("task: fewclue/tnews\npattern: [0, 2]\n", encoding="utf-8")
    assert recipe_of("--recipe", str(recipe)).pattern == (0, 2)
    wins = recipe_of("--recipe", str(recipe), "--pattern", "all")
    assert (wins.task, wins.pattern) == ("fewclue/tnews", "all")
    own = recipe_of("--recipe", str(recipe), "--pattern", PATTERN, *words)
    assert (own.task["pattern"], own.pattern) == (PATTERN, 0)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "needs a task"),
        (["--pattern", PATTERN], "lacks a word per label"),
        (["--pattern", PATTERN, "--verbalizer", "yes"], "expected LABEL=WORD"),
        (["--pattern", PATTERN, "--verbalizer", "yes=found"], "no word stands for the label 'no'"),
        (["--task", "fewclue/eprstmt", "--label", "x"], "--task brings its own words"),
        (["--task", "fewclue/eprstmt", "--pattern", "x"], "several such as 0,2,3, or all"),
        (["--pattern", PATTERN, "--pattern", PATTERN, "--verbalizer", "yes=found"], "the same text twice"),
        (["--rank", "2", "--prompt-tokens", "3"], "give one method's"),
        (["--method", "bias", "--rank", "3"], "belong to the method lora, not to bias"),
        (["--seeds", "2", "--seed", "1"], "give one of the two"),
        (["--seeds", "0"], "--seeds must be from 1 to 1000"),
        (["--seeds", "1000000000"], "--seeds must be from 1 to 1000"),
        (["--set", "run.epoch=1"], "unknown key 'epoch' in run"),
        (["--recipe", "missing.yaml"], "missing.yaml: not a readable recipe"),
        (["--pattern", PATTERN, "--rouge"], "--rouge measures the texts of seq2seq"),
        (["--max-seconds", "0"], "--max-seconds must be above 0"),
        (["--model", "nowhere"], "nowhere"),
    ],
)
def test_bad_input_is_one_line(
    train: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    assert main(["finetune", "cloze", train, "--output", str(tmp_path / "run"), *flags]) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert err.startswith("openglm: error: ")
    assert err.count("\n") == 1
    assert not out
    assert not (tmp_path / "run").exists()


def test_texts_are_written_and_measured(
    base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("rouge_score")
    monkeypatch.setattr("openglm.finetuning.report.draw_curves", lambda *args, **options: None)
    rows = [{"from": "the old teacher", "to": "found the river"}, {"from": "船长", "to": "卖掉了木桥"}]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    command = ["finetune", "seq2seq", str(path), "--dev", str(path), "--model", base, "--output", str(tmp_path / "run")]
    command += ["--source", "from", "--target", "to", "--steps", "40", "--lr", "0.01", "--dropout", "0", "--rouge"]
    assert main([*command, "--label-smoothing", "0", "--set", "run.evaluations=2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["dev"]
    assert found["rougeL"]["mean"] == pytest.approx(100)
    untuned = json.loads((tmp_path / "run/report.json").read_text())["untuned"]["dev"]
    assert untuned["rougeL"] < 50


def test_an_unknown_kind(train: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["finetune", "rank", train])
    assert stop.value.code == 2
    assert "invalid choice: 'rank'" in capsys.readouterr().err
