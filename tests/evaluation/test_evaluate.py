"""Named tasks and files from beginning to end, on a small model with random weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from openglm.checkpoints.native import save_model
from openglm.errors import DataError, OpenGLMError, OptionError
from openglm.evaluation import cloze_tasks
from openglm.evaluation.evaluate import names, run_evaluation, targets
from openglm.evaluation.options import EvalOptions
from openglm.evaluation.results import Result, ResultFile
from openglm.infill.infiller import Infiller
from openglm.network.model import GLMModel
from openglm.scoring.predict import predict
from openglm.tasks.renderer import QuestionRenderer
from openglm.tasks.splits import task_examples
from openglm.tasks.task_files import load_task
from openglm.tokenizer import BilingualTokenizer

TASK = """
kind: choice
patterns: ["{text:shorten} 是[MASK]。"]
verbalizer: {good: 老师, bad: 医生}
label: label
metrics: [accuracy, macro_f1]
files: {train: reviews/train.jsonl, dev: reviews/dev.jsonl, test: reviews/test.jsonl}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with a task of one's own, and small files for rows of the catalogue."""
    root = tmp_path_factory.mktemp("data")
    (root / "task.yaml").write_text(TASK, encoding="utf-8")
    for split, count in (("train", 6), ("dev", 4), ("test", 9)):
        rows = [{"text": f"老师昨天走到了河边{i}{split}", "label": ("good", "bad")[i % 3 == 0]} for i in range(count)]
        write_lines(root / "reviews" / f"{split}.jsonl", rows)
    write_lines(root / "lambada" / "test.jsonl", [{"text": "the old teacher walked to the river"}] * 3)
    (root / "wikitext2").mkdir()
    (root / "wikitext2" / "test.txt").write_text(
        " = The river = \n the teacher walked to the river , and wrote 2 @,@ 000 letters . \n", encoding="utf-8"
    )
    titles = [{"abstract": "老师写了关于河边的一封信。" * k, "title": "一封信"} for k in (1, 12)]
    write_lines(root / "csl_title" / "test.jsonl", titles)
    question = {"question": "谁走到了河边？", "context": "老师昨天走到了河边。", "answers": ["老师", "一位老师"]}
    write_lines(root / "xquad" / "zh.jsonl", [question])
    (root / "lines.txt").write_text("the old teacher walked to the river\n\n老师昨天走到了河边\n", encoding="utf-8")
    return root


def write_lines(path: Path, rows: list[dict[str, object]]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n", encoding="utf-8")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tiny_model: GLMModel, tokenizer: BilingualTokenizer) -> str:
    path = tmp_path_factory.mktemp("model") / "tiny"
    save_model(path, tiny_model, tokenizer)
    return str(path)


@pytest.fixture
def options(folder: Path, model: str) -> EvalOptions:
    return EvalOptions(
        model=model, data_dir=folder, device="cpu", generate={"max_new_tokens": 4}, ratios=(0.5,),
        sequence_length=24, stride=8,
    )  # fmt: skip


def test_names_are_tasks_and_rows() -> None:
    found = names()
    assert {
        "fewclue/eprstmt",
        "superglue/boolq",
        "cmrc2019",
        "lambada",
        "wikitext",
        "csl_title",
        "infilling=FILE",
    } <= set(found)


def test_a_folder_of_tasks_is_all_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cloze_tasks, "task_paths", lambda task, split, data_dir: [tmp_path])
    found = [target.name for target in targets(["fewclue", "xcopa", "fewclue/tnews"], EvalOptions(data_dir=tmp_path))]
    assert len(found) == 10
    assert all(name.startswith("fewclue/") for name in found[:9])
    assert found[9] == "xcopa"


def test_everything_is_looked_for_before_any_work(options: EvalOptions) -> None:
    with pytest.raises(DataError, match="no such file"):
        run_evaluation(
            ["lambada", "fewclue"], options, notify=lambda result, known: pytest.fail("something was measured")
        )


def test_a_task_of_ones_own(folder: Path, options: EvalOptions, infiller: Infiller) -> None:
    name = str(folder / "task.yaml")
    (result,) = run_evaluation([name], options)
    task = load_task(name)
    questions = QuestionRenderer(task, infiller.tokenizer, infiller.model.config).questions(
        task_examples(task, "test", folder)
    )
    predictions = predict(infiller.model, infiller.tokenizer, questions, scoring=task.scoring)
    assert result.metrics == task.evaluate(predictions)
    assert (result.count, result.method, result.cut) == (9, "zero-shot", 0)
    assert result.majority["accuracy"] == pytest.approx(100 * 6 / 9)
    assert result.chance["accuracy"] == 50
    assert 0 < result.chance["macro_f1"] < 60


def test_limits_and_calibration(folder: Path, options: EvalOptions) -> None:
    import dataclasses

    name = str(folder / "task.yaml")
    (result,) = run_evaluation([name], dataclasses.replace(options, limit=3, calibrate=True))
    assert (result.count, result.method) == (3, "zero-shot, calibrated")


def test_rows_of_the_catalogue(folder: Path, options: EvalOptions) -> None:
    found = run_evaluation(
        ["lambada", "wikitext", "csl_title", "xquad/zh", f"infilling={folder / 'lines.txt'}"], options
    )
    lambada, wikitext, titles, xquad, infilling = found
    assert list(lambada.metrics) == ["accuracy (bi)", "accuracy (uni)"]
    assert lambada.count == 3
    assert set(wikitext.metrics) == {f"per {unit} ({way})" for unit in ("word", "token") for way in ("bi", "uni")}
    assert min(wikitext.metrics.values()) > 1
    assert {"rouge1", "rouge2", "rougeL", "bleu", "length"} == set(titles.metrics)
    assert titles.cut == 1  # the second abstract is longer than the context
    assert set(xquad.metrics) == {"em", "f1", "length"}
    assert {"BLEU at 50 %", "BLEU unfilled at 50 %", "exact match at 50 %"} == set(infilling.metrics)
    assert infilling.count == 2


def test_what_is_done_is_not_done_again(folder: Path, options: EvalOptions, tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    told: list[tuple[str, bool]] = []

    def tell(result: Result, known: bool) -> None:
        told.append((result.task, known))

    run_evaluation(["lambada"], options, file=ResultFile(path), notify=tell)
    again = run_evaluation(["lambada", "wikitext"], options, file=ResultFile(path), notify=tell)
    assert told == [("lambada", False), ("lambada", True), ("wikitext", False)]
    assert [each.task for each in ResultFile(path).results] == [each.task for each in again]


def test_another_model_is_measured_again(
    folder: Path, options: EvalOptions, tmp_path: Path, tiny_model: GLMModel, tokenizer: BilingualTokenizer
) -> None:
    """Of the same name, with other weights."""
    import copy
    import dataclasses

    other = copy.deepcopy(tiny_model)
    for parameter in other.parameters():
        parameter.data.add_(0.01)
    place = tmp_path / "model"
    chosen = dataclasses.replace(options, model=str(place))
    told: list[bool] = []
    for network in (tiny_model, other, other):
        save_model(place, network, tokenizer)
        run_evaluation(
            ["lambada"], chosen, file=ResultFile(tmp_path / "out.json"), notify=lambda _, known: told.append(known)
        )
    assert told == [False, False, True]


def test_few_shot(folder: Path, options: EvalOptions) -> None:
    import dataclasses

    chosen = dataclasses.replace(
        options, method="few-shot", seeds=(0, 1), limit=5, finetune={"run": {"steps": 2, "batch_size": 2}}
    )
    (result,) = run_evaluation([str(folder / "task.yaml")], chosen)
    assert (result.method, result.seeds, result.count, len(result.runs)) == ("few-shot", (0, 1), 5, 2)
    values = [run["accuracy"] for run in result.runs]
    assert result.metrics["accuracy"] == pytest.approx(sum(values) / 2)
    assert {round(value, 6) % 20 for value in values} == {0}  # of five examples
    assert "accuracy" in result.deviations


@pytest.mark.parametrize("kind", ["cloze", "classify"])
def test_a_fine_tuned_model_answers_as_it_was_trained_to(folder: Path, options: EvalOptions, kind: str) -> None:
    """What the run says of its test file is what evaluation finds, from the run's folder and the model's."""
    import dataclasses

    from openglm.finetuning import FinetuneRecipe, run

    name, output = str(folder / "task.yaml"), folder / f"run-{kind}"
    data = {split: str(folder / "reviews" / f"{split}.jsonl") for split in ("train", "dev", "test")}
    values = {"kind": kind, "model": options.model, "task": name, "data": data, "output": str(output)}
    result = run(FinetuneRecipe.from_dict(values | {"run": {"steps": 6, "batch_size": 2}}), quiet=True)
    for place in (output, output / "model"):
        (found,) = run_evaluation([name], dataclasses.replace(options, model=str(place)))
        assert found.method == "fine-tuned"
        assert found.metrics["accuracy"] == pytest.approx(result.test["accuracy"].mean)
    (other,) = run_evaluation(["lambada"], dataclasses.replace(options, model=str(output)))
    assert other.method == "fine-tuned for something else"


def test_several_patterns(folder: Path, options: EvalOptions, infiller: Infiller, tmp_path: Path) -> None:
    """Averaged, under numbers that say which they were; a model that has learnt some asks by those."""
    import dataclasses

    from openglm.finetuning import FinetuneRecipe, run

    path = tmp_path / "three.yaml"
    more = '["{text:shorten} 是[MASK]。", "[MASK]：{text:shorten}", "{text:shorten}（[MASK]）"]'
    path.write_text(TASK.replace('["{text:shorten} 是[MASK]。"]', more), encoding="utf-8")
    task, name = load_task(path), str(path)
    (every,) = run_evaluation([name], dataclasses.replace(options, pattern="all"))
    assert every.settings["pattern"] == [0, 1, 2]
    (some,) = run_evaluation([name], dataclasses.replace(options, pattern="2,0", calibrate=True))
    assert some.settings["pattern"] == [0, 2]
    renderer = QuestionRenderer(task, infiller.tokenizer, infiller.model.config, (0, 2))
    questions = renderer.questions(task_examples(task, "test", folder))
    scoring = dataclasses.replace(task.scoring, calibrate=True)
    predictions = predict(infiller.model, infiller.tokenizer, questions, scoring=scoring)
    assert some.metrics == task.evaluate(predictions)
    (one,) = run_evaluation([str(folder / "task.yaml")], dataclasses.replace(options, pattern="all"))
    assert one.settings["pattern"] == 0, "all of one are that one"

    finetune = {"run": {"steps": 2, "batch_size": 2}}
    (shots,) = run_evaluation(
        [name],
        dataclasses.replace(
            options, method="few-shot", seeds=(0,), pattern=(0, 2), finetune=finetune, runs_dir=tmp_path
        ),
    )
    (recipe,) = [json.loads(each.read_text())["recipe"] for each in tmp_path.rglob("report.json")]
    assert (shots.settings["pattern"], recipe["pattern"]) == ([0, 2], [0, 2])

    data = {split: str(folder / "reviews" / f"{split}.jsonl") for split in ("train", "test")}
    values = {"kind": "cloze", "model": options.model, "task": name, "pattern": [1, 2], "data": data, **finetune}
    result = run(FinetuneRecipe.from_dict({**values, "output": str(tmp_path / "run")}), quiet=True)
    path.write_text(path.read_text(encoding="utf-8").replace('）"]', '）", "{text}[MASK]"]'), encoding="utf-8")
    assert len(load_task(path).templates) == 4, "one was added since"
    (tuned,) = run_evaluation([name], dataclasses.replace(options, model=str(tmp_path / "run")))
    assert (tuned.method, tuned.settings["pattern"]) == ("fine-tuned", [1, 2])
    assert tuned.metrics["accuracy"] == pytest.approx(result.test["accuracy"].mean)


@pytest.mark.parametrize(
    ("given", "changes", "message"),
    [
        ([], {}, "name what to evaluate"),
        (["fewclue/eprstm"], {}, "fewclue/eprstmt"),
        (["nothing.yaml"], {}, "nothing.yaml"),
        (["infilling"], {}, "infilling=FILE"),
        (["infilling=absent.txt"], {}, "absent.txt: no such file"),
        (["xquad/en"], {}, "no such file"),
        (["fewclue/eprstmt"], {}, "no such file"),
        (["lambada"], {"method": "few-shot"}, "no training data"),
        (["lambada"], {"model": "no/such/folder"}, "no/such/folder"),
    ],
)
def test_bad_input(options: EvalOptions, given: list[str], changes: dict[str, str], message: str) -> None:
    import dataclasses

    with pytest.raises(OpenGLMError, match=message):
        run_evaluation(given, dataclasses.replace(options, **changes))


def test_no_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENGLM_EVAL", raising=False)
    for name in ("lambada", "fewclue/eprstmt"):
        with pytest.raises(DataError, match="--data-dir or OPENGLM_EVAL"):
            targets([name], EvalOptions())


def test_the_data_folder_may_come_from_the_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENGLM_EVAL", str(folder))
    assert targets(["lambada"], EvalOptions())[0].paths() == [folder / "lambada" / "test.jsonl"]


def test_bad_options() -> None:
    for changes in ({"method": "guess"}, {"limit": 0}, {"seeds": ()}, {"ratios": ()}):
        with pytest.raises(OptionError):
            EvalOptions(**changes)


def test_bad_files(folder: Path, options: EvalOptions, tmp_path: Path) -> None:
    broken, empty, lacking = tmp_path / "a.txt", tmp_path / "b.txt", tmp_path / "c.jsonl"
    broken.write_bytes(b"\xff\xfe")
    empty.write_text("\n", encoding="utf-8")
    lacking.write_text('{"text": "a letter"}\n{"body": "x"}\n', encoding="utf-8")
    for path, message in ((broken, "not UTF-8"), (empty, "no text"), (lacking, "line 2")):
        with pytest.raises(DataError, match=message):
            run_evaluation([f"perplexity={path}"], options)
    with pytest.raises(DataError, match='line 1: no field "source"'):
        run_evaluation([f"generation={lacking}"], options)
