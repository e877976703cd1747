"""Recipes: what they may say, what is refused and how, and overrides."""

from __future__ import annotations

import itertools
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import openglm
from openglm.errors import OpenGLMError, OptionError, TrainingError
from openglm.network.model import GLMModel
from openglm.pretraining.recipe import CorporaOptions, CorpusOptions, Recipe
from openglm.training.optim import OptimizerOptions, build_optimizers, rate_factor

from ..training.runs import recipe_values

RECIPES = Path(openglm.__file__).parent / "recipes"


@pytest.mark.parametrize(
    ("section", "key", "hint"),
    [
        ("run", "step", "steps"),
        ("optimizer", "learning_rat", "learning_rate"),
        ("objectives", "tokens", "token"),
        ("model", "hiden_size", "hidden_size"),
        ("data", "trains", "train"),
        (None, "optimiser", "optimizer"),
    ],
)
def test_unknown_keys_are_refused(section: str | None, key: str, hint: str) -> None:
    values = recipe_values()
    target = values if section is None else values.setdefault(section, {})
    target[key] = 1
    with pytest.raises(OpenGLMError, match=f"'{key}'.*{hint}") as caught:
        Recipe.from_dict(values)
    assert f"'{hint}'" in str(caught.value)


def test_round_trip(tmp_path: Path) -> None:
    data = {"train": {"zh": "data/zh", "en": {"paths": ["a.txt", "b.txt"], "weight": 2}}, "hold_out": 0.1}
    recipe = Recipe.from_dict({**recipe_values(), "data": data})
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(json.loads(json.dumps(recipe.to_dict()))), encoding="utf-8")
    assert Recipe.read(path) == recipe


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_recipes_of_the_package(path: Path) -> None:
    """All can be read, and a model of each can be built and trained in its stages."""
    recipe = Recipe.read(path)
    assert max(stage.length for stage in recipe.run.stages) <= recipe.model.max_sequence_length
    # Values by name, so that nobody changes what the embedded model was trained with by accident.
    if path.stem == "mini":
        assert recipe.model.num_parameters == 9_130_496
        assert (recipe.optimizer.muon_learning_rate, recipe.objectives.token_ratio) == (6e-3, 0.3)
    if path.stem == "modern":
        assert recipe.model.num_parameters == 14_998_144
        assert recipe.model.architecture == "modern"
    if path.stem == "large":
        assert recipe.model.num_parameters == 355_659_776, "glm-large-chinese"


@pytest.mark.parametrize("content", ["", "- 1", "model: [", "run: {}", "model: {num_layers: 1}", "model: 3"])
def test_bad_recipes_name_the_file(tmp_path: Path, content: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(TrainingError, match=r"recipe\.yaml"):
        Recipe.read(path)


@pytest.mark.parametrize(
    "run",
    [
        {"steps": 0},
        {"steps": 2.5},
        {"steps": "many"},
        {"steps": True},
        {"precision": "fp8"},
        {"stages": [{"share": 0.5, "rows": 1, "length": 64}]},
        {"stages": [{"share": 1.0, "rows": 1, "lenght": 64}]},
        {"stages": [{"share": 1.0, "rows": 1}]},
        {"stages": [{"share": 1.0, "rows": "two", "length": 64}]},
        {"stages": [{"share": 1.0, "rows": 1, "length": 64, "objectives": {"tokens": 1.0}}]},
        {"stages": [3]},
        {"stages": []},
        {"stages": 3},
        {"accumulate": 0},
        {"log_every": 0},
        {"evaluate_every": 0},
        {"save_every": -1},
        {"evaluation_rows": 0},
        {"workers": -1},
        {"spike": -0.5},
        {"spike": None},
        {"compile": "yes, please"},
        {"short_probability": "often"},
    ],
)
def test_impossible_runs_are_refused(run: dict[str, Any]) -> None:
    with pytest.raises(TrainingError) as caught:
        Recipe.from_dict(recipe_values(**run))
    assert next(iter(run)) in str(caught.value)


@pytest.mark.parametrize(
    "data",
    [
        {"train": "corpus.txt"},
        {"train": {"en": 3}},
        {"train": {"en": {"path": "a.txt"}}},
        {"train": {"en": {"paths": [], "weight": 1}}},
        {"train": {"en": {"paths": "a.txt", "weight": 0}}},
        {"valid": {"en": [1]}},
        {"hold_out": 1.0},
        {"tokenizer": 3, "field": None},
    ],
)
def test_impossible_data_are_refused(data: dict[str, Any]) -> None:
    with pytest.raises(TrainingError):
        Recipe.from_dict({**recipe_values(), "data": data})


def test_forms_of_a_corpus() -> None:
    data = CorporaOptions(
        train={"a": "x/*.txt", "b": ["x.txt", "y.txt"], "c": {"paths": "z", "weight": 2.5}}  # type: ignore[dict-item]
    )
    assert data.train == {
        "a": CorpusOptions(("x/*.txt",), 1.0),
        "b": CorpusOptions(("x.txt", "y.txt"), 1.0),
        "c": CorpusOptions(("z",), 2.5),
    }


def test_settings_win_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe_values()), encoding="utf-8")
    settings = ["run.compile=true", "optimizer.learning_rate=4e-4", "data.train.zh=a.txt", "optimizer.betas=[0.8, 0.9]"]
    recipe = Recipe.read(path, [*settings, "run.stages=[{share: 1, rows: 3, length: 32}]"])
    assert recipe.run.compile
    assert recipe.optimizer.learning_rate == 4e-4
    assert recipe.optimizer.betas == (0.8, 0.9)
    assert recipe.data.train["zh"].paths == ("a.txt",)
    assert [(stage.rows, stage.length) for stage in recipe.run.stages] == [(3, 32)]
    assert recipe.run.steps == 6


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("run.compil=true", "compile"),
        ("rum.compile=true", "run"),
        ("compile=true", "SECTION.KEY=VALUE"),
        ("run.compile", "SECTION.KEY=VALUE"),
        ("run.=3", "SECTION.KEY=VALUE"),
        ("run.steps=[", "YAML"),
        ("run.steps.more=1", "steps"),
        ("run.steps=ten", "steps"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, setting: str, message: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe_values()), encoding="utf-8")
    with pytest.raises(TrainingError, match=message):
        Recipe.read(path, [setting])


def test_stages_follow_each_other() -> None:
    run = Recipe.from_dict(recipe_values()).run
    assert [run.stage(step).length for step in range(6)] == [48, 48, 48, 64, 64, 64]


@pytest.mark.parametrize("schedule", ["cosine", "wsd", "constant"])
def test_schedules(schedule: str) -> None:
    options = OptimizerOptions(schedule=schedule, warmup=0.1, decay=0.25, final=0.05)
    rates = [rate_factor(step, 100, options) for step in range(101)]
    assert rates[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert max(rates) <= 1 + 1e-12
    assert all(later <= earlier + 1e-12 for earlier, later in itertools.pairwise(rates[10:]))
    assert rates[100] == pytest.approx(1.0 if schedule == "constant" else 0.05)
    if schedule == "cosine":
        assert rates[55] == pytest.approx(0.05 + 0.95 * (1 + math.cos(math.pi / 2)) / 2)
    else:
        assert rates[75] == pytest.approx(1.0)


@pytest.mark.parametrize("schedule", ["cosine", "wsd"])
def test_a_schedule_may_end_before_the_run(schedule: str) -> None:
    short = OptimizerOptions(schedule=schedule, warmup=0.1, final=0.05)
    long = OptimizerOptions(schedule=schedule, warmup=0.1, final=0.05, schedule_share=0.8)
    for step in range(80):
        assert rate_factor(step, 100, long) == rate_factor(step, 80, short)
        assert rate_factor(20 + step, 100, long) >= 0.05 - 1e-12
    assert [rate_factor(step, 100, long) for step in range(80, 100)] == pytest.approx([0.05] * 20)


@pytest.mark.parametrize(
    "options",
    [
        {"name": "sgd"},
        {"schedule": "stairs"},
        {"learning_rate": 0},
        {"clip": -1.0},
        {"schedule_share": 0.0},
        {"betas": [0.9]},
        {"betas": 0.9},
        {"betas": [0.9, 1.0]},
    ],
)
def test_impossible_optimizers_are_refused(options: dict[str, Any]) -> None:
    value = str(next(iter(options.values())))
    with pytest.raises(OptionError, match=rf"{re.escape(value)}|above 0"):
        OptimizerOptions(**options)


def test_biases_and_norms_do_not_decay(tiny_config: Any) -> None:
    model = GLMModel(tiny_config)
    for name in ("adamw", "muon"):
        decays = {
            id(parameter): group["weight_decay"]
            for optimizer in build_optimizers(model, OptimizerOptions(name=name, weight_decay=0.1))
            for group in optimizer.param_groups
            for parameter in group["params"]
        }
        assert len(decays) == len(list(model.parameters()))
        for key, parameter in model.named_parameters():
            plain = "layernorm" in key or key.endswith(".bias")
            assert decays[id(parameter)] == (0.0 if plain else 0.1), key


def test_the_linear_schedule_has_a_floor() -> None:
    options = OptimizerOptions(schedule="linear", warmup=0.1, final=0.2)
    assert rate_factor(10, 110, options) == 1.0
    assert rate_factor(60, 110, options) == pytest.approx(0.2 + 0.8 * (1 - (60 - 11) / 99))
    assert rate_factor(110, 110, options) == rate_factor(500, 110, options) == pytest.approx(0.2)


def test_a_stage_may_have_objectives_of_its_own() -> None:
    values = recipe_values()
    values["run"]["stages"][1]["objectives"] = {"token": 0.1, "sentence": 0.1, "document": 0.8}
    recipe = Recipe.from_dict(values)
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    first, second = (stage.mixture(recipe.objectives) for stage in recipe.run.stages)
    assert first == recipe.objectives
    assert (second.document, second.token_ratio) == (0.8, recipe.objectives.token_ratio)
    values["run"]["stages"][1]["objectives"] = {"token": 0.9}
    with pytest.raises(OptionError, match="probabilities that sum to 1"):
        Recipe.from_dict(values)


def test_recipes_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from openglm.cli.main import main
    from openglm.pretraining.recipe import find_recipe, recipe_names

    monkeypatch.chdir(tmp_path)
    assert {"mini", "base", "large", "modern"} <= set(recipe_names())
    assert find_recipe("mini").parent == RECIPES
    (tmp_path / "mini").write_text("mine", encoding="utf-8")
    assert find_recipe("mini") == Path("mini"), "a file of one's own wins"
    with pytest.raises(TrainingError, match="Did you mean 'modern'"):
        find_recipe("moderm")
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == recipe_names()
    assert all("M parameters" in line for line in lines)
    assert main(["recipes", "base"]) == 0
    assert capsys.readouterr().out == (RECIPES / "base.yaml").read_text(encoding="utf-8")
