"""Figures say what they are: of which sample, of which task and data, of a run asked as it was trained."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import openglm
from openglm.checkpoints.native import save_model
from openglm.errors import OptionError
from openglm.evaluation.results import Result
from openglm.evaluation.sample import sampled, stretch
from openglm.evaluation.tables import render
from openglm.finetuning import FinetuneRecipe, load_classifier
from openglm.finetuning import run as finetune
from openglm.infill.infiller import Infiller
from openglm.network.model import GLMModel
from openglm.tokenizer import BilingualTokenizer

TASK = """
patterns: ["{text:shorten} 是[MASK]。", "[MASK]！{text:shorten}"]
verbalizer: {good: 老师, bad: 医生}
metrics: [accuracy, f1]
files: {train: reviews/train.jsonl, dev: reviews/dev.jsonl, test: reviews/test.jsonl}
published:
  - {system: Somebody, setting: zero-shot, accuracy: 80.5, source: a paper}
  - {system: Somebody, setting: few-shot, accuracy: 81.5, source: a paper}
  - {system: Somebody, setting: "fine-tuned, all data", accuracy: 82.5, source: a paper}
  - {system: people, setting: five of them, accuracy: 99.5, source: a paper}
"""
OWN = {"pattern": "{text:shorten}，真[MASK]", "verbalizer": {"bad": "船长", "good": ["河边", "桥"]}}
FEW = {"run": {"steps": 12, "batch_size": 2, "untuned": False}, "optimizer": {"learning_rate": 0.003}}


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n", encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_model: GLMModel, tokenizer: BilingualTokenizer) -> Path:
    root = tmp_path_factory.mktemp("honest")
    (root / "task.yaml").write_text(TASK, encoding="utf-8")
    for split, count in (("train", 8), ("dev", 4), ("test", 40)):
        rows = [
            {"text": f"老师昨天走到了河边{i}", "label": "good" if i < count // 2 else "bad", "id": f"{split}-{i}"}
            for i in range(count)
        ]
        write_lines(root / "reviews" / f"{split}.jsonl", rows)
    write_lines(root / "lambada" / "test.jsonl", [{"text": f"the old teacher walked to {w}"} for w in "abcdefgh"])
    save_model(root / "model", tiny_model, tokenizer)
    return root


@pytest.fixture(scope="module")
def runs(folder: Path) -> dict[str, Path]:
    """Runs of several kinds: with a pattern of their own, the task's, a head, and texts written."""
    data = {split: str(folder / "reviews" / f"{split}.jsonl") for split in ("train", "test")}
    pairs = folder / "pairs.jsonl"
    write_lines(pairs, [{"abstract": "老师昨天走到了河边", "title": "河边"}] * 4)
    kinds: dict[str, dict[str, Any]] = {
        "own": {"kind": "cloze", "task": OWN, "data": data},
        "task": {"kind": "cloze", "task": str(folder / "task.yaml"), "pattern": 1, "data": {"folder": str(folder)}},
        "prompt": {"kind": "cloze", "task": OWN, "data": data, "method": {"name": "prompt", "tokens": 3}},
        "head": {"kind": "classify", "task": {"text_fields": ["text"]}, "data": data},
        "written": {
            "kind": "seq2seq", "task": {"pattern": "{abstract:shorten}。标题：[MASK]"},
            "data": {"train": str(pairs), "target": "title"},
        },
    }  # fmt: skip
    for name, values in kinds.items():
        recipe = {"model": str(folder / "model"), "output": str(folder / name), **FEW, **values}
        finetune(FinetuneRecipe.from_dict(recipe), quiet=True)
    return {name: folder / name for name in kinds}


def measured(folder: Path, names: str | list[str] = "", model: object = None, **options: Any) -> Result:
    given = model or folder / "model"
    (result,) = openglm.evaluate(names or str(folder / "task.yaml"), given, data_dir=folder, device="cpu", **options)  # type: ignore[arg-type]
    return result


# --- a run is asked by its own pattern, and called what it is ---------------------------------


@pytest.mark.parametrize("name", ["own", "task", "prompt", "head"])
def test_a_run_answers_as_it_was_trained_and_is_called_fine_tuned(
    folder: Path, runs: dict[str, Path], name: str
) -> None:
    found = measured(folder, model=runs[name], predictions=folder / f"rows-{name}")
    rows = read_rows(folder / f"rows-{name}")
    classifier = load_classifier(runs[name])
    answers = classifier.predict([{"text": f"老师昨天走到了河边{i}"} for i in range(40)])
    assert [row["predicted"] for row in rows] == [answer.label for answer in answers]
    for row, answer in zip(rows, answers, strict=True):
        assert row["probabilities"] == pytest.approx(answer.probabilities, abs=1e-4)
    assert found.method == "fine-tuned"
    assert found.metrics["accuracy"] == 100 * sum(row["correct"] for row in rows) / 40
    assert found.metrics["f1"] == f1_of([r["label"] for r in rows], [r["predicted"] for r in rows], "bad")


def f1_of(right: list[str], said: list[str], label: str) -> float:
    both = sum(r == s == label for r, s in zip(right, said, strict=True))
    either = right.count(label) + said.count(label)
    return pytest.approx(200 * both / either) if either else 0  # type: ignore[no-any-return]


def test_its_own_pattern_is_what_is_asked(folder: Path, runs: dict[str, Path]) -> None:
    measured(folder, model=runs["own"], predictions=folder / "asked")
    assert read_rows(folder / "asked")[3]["text"] == "老师昨天走到了河边3，真[MASK]"
    measured(folder, model=runs["task"], predictions=folder / "asked-task")
    assert read_rows(folder / "asked-task")[3]["text"] == "[MASK]！老师昨天走到了河边3"


def test_the_tasks_pattern_may_be_asked_for(folder: Path, runs: dict[str, Path]) -> None:
    found = measured(folder, model=runs["own"], pattern=0, predictions=folder / "asked-for")
    assert found.method == "fine-tuned, asked by the task's pattern"
    assert read_rows(folder / "asked-for")[3]["text"] == "老师昨天走到了河边3 是[MASK]。"
    with pytest.raises(OptionError, match="classification head"):
        measured(folder, model=runs["head"], pattern=0)


@pytest.mark.parametrize("name", ["own", "head", "written"])
def test_what_a_run_was_not_trained_for_is_never_called_zero_shot(
    folder: Path, runs: dict[str, Path], name: str
) -> None:
    (folder / "other.yaml").write_text(TASK.replace("good:", "fine:").replace("bad:", "poor:"), encoding="utf-8")
    rows = [{"text": f"老师{i}", "label": "fine"} for i in range(3)]
    write_lines(folder / "others" / "test.jsonl", rows)
    text = (folder / "other.yaml").read_text(encoding="utf-8").replace("reviews/", "others/")
    (folder / "other.yaml").write_text(text, encoding="utf-8")
    for names in (str(folder / "other.yaml"), "lambada"):
        found = measured(folder, names, runs[name])
        assert found.method == "fine-tuned for something else"
        assert found.published == ()


def test_a_task_with_other_fields_is_not_answered_by_a_run(folder: Path, runs: dict[str, Path]) -> None:
    """The labels are the same, the text is not where the run looks for it."""
    write_lines(folder / "bodies" / "test.jsonl", [{"body": "老师", "label": "good"}])
    text = TASK.replace("{text", "{body").replace("reviews/", "bodies/")
    (folder / "bodies.yaml").write_text(text, encoding="utf-8")
    for name in ("own", "head"):
        assert measured(folder, str(folder / "bodies.yaml"), runs[name]).method == "fine-tuned for something else"


def test_a_run_that_writes_is_asked_by_its_own_pattern(folder: Path, runs: dict[str, Path]) -> None:
    write_lines(folder / "titles.jsonl", [{"abstract": "一封信", "source": "一封信", "target": "信"}] * 2)
    name = f"generation={folder / 'titles.jsonl'}"
    found = measured(folder, name, runs["written"], predictions=folder / "titles", generate={"max_new_tokens": 2})
    (path,) = (folder / "titles").iterdir()
    assert found.method == "fine-tuned"
    assert json.loads(path.read_text(encoding="utf-8").splitlines()[0])["text"] == "一封信。标题：[MASK]"
    plain = measured(folder, name, generate={"max_new_tokens": 2})
    assert plain.method == "zero-shot"


# --- published figures -----------------------------------------------------------------------


def test_published_figures_stand_beside_the_same_protocol_alone(folder: Path, runs: dict[str, Path]) -> None:
    def shown(**options: Any) -> list[float]:
        return [each.value for each in measured(folder, **options).published]

    assert shown() == [80.5, 99.5]
    assert shown(calibrate=True) == [80.5, 99.5]
    assert shown(method="few-shot", seeds=(0,), finetune=FEW) == [81.5, 99.5]
    assert shown(method="few-shot", seeds=(0,), finetune={**FEW, "data": {"dev": []}}) == []
    assert shown(model=runs["own"]) == [], "nobody knows what it was trained on"
    assert shown(model=runs["task"]) == [82.5, 99.5], "the task's own training file"
    assert shown(model=runs["task"], pattern=0) == []
    assert shown(limit=5) == []
    assert shown(limit=40) == [80.5, 99.5], "all of them are no sample"


# --- samples -----------------------------------------------------------------------------------


def test_a_sample_is_drawn_from_the_whole_file(folder: Path) -> None:
    found = measured(folder, limit=20, predictions=folder / "sample")
    rows = read_rows(folder / "sample")
    counts = Counter(row["label"] for row in rows)
    assert min(counts["good"], counts["bad"]) >= 5, "the file is sorted by labels"
    assert [row["number"] for row in rows] == sorted(row["number"] for row in rows)
    assert (found.count, found.population) == (20, 40)
    assert "20, a sample" in render([found])
    again = measured(folder, limit=20, predictions=folder / "again")
    assert read_rows(folder / "again") == rows
    assert again.identity == found.identity
    other = measured(folder, limit=20, sample_seed=1, predictions=folder / "other-seed")
    assert [r["id"] for r in read_rows(folder / "other-seed")] != [r["id"] for r in rows]
    assert other.identity != found.identity


def test_every_item_is_drawn_equally_often() -> None:
    counts = Counter(item for seed in range(3000) for item in sampled("abcdef", 2, seed))
    assert all(900 < counts[item] < 1100 for item in "abcdef")
    assert sampled("abc", None, 0) == sampled("abc", 3, 0) == ["a", "b", "c"]
    for seed in range(20):
        (first, *others) = stretch(range(50), 7, seed)
        assert others == list(range(first + 1, first + 7))
    assert len({stretch(range(50), 7, seed)[0] for seed in range(20)}) > 5


def test_lines_of_a_text_are_taken_from_anywhere(folder: Path) -> None:
    path = folder / "long.txt"
    path.write_text("".join(f"line {i} of the old teacher\n" for i in range(60)), encoding="utf-8")
    found = measured(folder, f"perplexity={path}", limit=6, sequence_length=24)
    assert found.population == 60
    assert found.published == ()


def test_few_shot_tests_the_same_sample(folder: Path) -> None:
    found = measured(folder, method="few-shot", seeds=(0,), finetune=FEW, limit=6)
    assert (found.count, found.population) == (6, 40)
    assert round(found.metrics["accuracy"] * 6 / 100, 6) % 1 == 0


def test_answers_that_the_vocabulary_cannot_tell_apart_are_counted(folder: Path, infiller: Infiller) -> None:
    (folder / "alike.yaml").write_text(
        "kind: options\npatterns: ['{text}[MASK]']\noptions: answers\nfiles: {test: alike/test.jsonl}\n",
        encoding="utf-8",
    )
    answers = [["河边", "医生"], ["河边", "河边"], ["医生", "老师", "医生"]]
    write_lines(folder / "alike" / "test.jsonl", [{"text": "老师", "answers": each, "label": 0} for each in answers])
    found = measured(folder, str(folder / "alike.yaml"))
    assert found.alike == 2
    assert "3, 2 with equal answers" in render([found])
    assert "equal answers" not in render([measured(folder)])


# --- what is kept --------------------------------------------------------------------------------


def kept(folder: Path, output: Path, name: str, model: Path | None = None) -> bool:
    """Whether a result was there already."""
    told: list[bool] = []
    given = model or folder / "model"
    openglm.evaluate(
        name, given, data_dir=folder, device="cpu", output=output, notify=lambda _, known: told.append(known)
    )
    return told[0]


CHANGES = {
    "pattern": ("是[MASK]", "是位[MASK]"),
    "words": ("good: 老师", "good: 船长"),
    "metric": ("[accuracy, f1]", "[accuracy]"),
    "scoring": ("metrics:", "scoring: {ends: false}\nmetrics:"),
    "version": ("metrics:", "version: 2\nmetrics:"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_an_edited_task_is_measured_again(folder: Path, tmp_path: Path, change: str) -> None:
    path, output = tmp_path / "mine.yaml", tmp_path / "out.json"
    path.write_text(TASK, encoding="utf-8")
    assert not kept(folder, output, str(path))
    assert kept(folder, output, str(path))
    path.write_text("title: Another title\n" + TASK, encoding="utf-8")
    assert kept(folder, output, str(path)), "what people read decides no figure"
    path.write_text(TASK.replace(*CHANGES[change]), encoding="utf-8")
    assert not kept(folder, output, str(path))


def test_edited_data_are_measured_again(folder: Path, tmp_path: Path) -> None:
    path, output = tmp_path / "texts.jsonl", tmp_path / "out.json"
    for text, known in (("the old teacher", False), ("the old teacher", True), ("the odd teacher", False)):
        write_lines(path, [{"text": text}])  # of the same size each time
        assert kept(folder, output, f"last_word={path}") == known


def test_one_changed_number_in_the_weights_is_measured_again(
    folder: Path, tmp_path: Path, tiny_model: GLMModel, tokenizer: BilingualTokenizer
) -> None:
    import copy

    other, output, place = copy.deepcopy(tiny_model), tmp_path / "out.json", tmp_path / "model"
    save_model(place, other, tokenizer)
    assert not kept(folder, output, "lambada", place)
    assert kept(folder, output, "lambada", place)
    other.word_embeddings.weight.data[-1, -1] += 0.5  # the very last number of a large table
    save_model(place, other, tokenizer)
    assert not kept(folder, output, "lambada", place)


def test_a_changed_head_is_measured_again(folder: Path, runs: dict[str, Path], tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    place, output = tmp_path / "head", tmp_path / "out.json"
    shutil.copytree(runs["head"], place)
    task = str(folder / "task.yaml")
    assert not kept(folder, output, task, place)
    assert kept(folder, output, task, place)
    weights = place / "model" / "head.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(weights).items()}
    next(iter(tensors.values())).view(-1)[-1] += 1
    save_file(tensors, weights)
    (place / "model" / "checksums.json").unlink()  # which would call this damage
    assert not kept(folder, output, task, place)


def test_results_written_before_are_read_and_not_taken_for_these(folder: Path, tmp_path: Path) -> None:
    output, name = tmp_path / "out.json", str(folder / "task.yaml")
    old = {"task": name, "model": "default", "method": "zero-shot", "metrics": {"accuracy": 42.0}, "count": 9,
           "settings": {"limit": None, "pattern": 0, "split": "test", "weights": "0123456789abcdef"}}  # fmt: skip
    output.write_text(json.dumps({"format": "openglm-results", "results": [old]}), encoding="utf-8")
    assert not kept(folder, output, name)
    assert len(json.loads(output.read_text(encoding="utf-8"))["results"]) == 2


# --- predictions, and the function ---------------------------------------------------------------


def read_rows(place: Path) -> list[dict[str, Any]]:
    (path,) = place.iterdir()
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_predictions_have_text_and_id(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.json"
    measured(folder, predictions=tmp_path / "rows", output=output)
    rows = read_rows(tmp_path / "rows")
    assert len(rows) == 40
    first = rows[0]
    assert (first["id"], first["number"], first["label"]) == ("test-0", 1, "good")
    assert first["text"] == "老师昨天走到了河边0 是[MASK]。"
    assert first["predicted"] in ("good", "bad")
    assert sum(first["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    (path,) = (tmp_path / "rows").iterdir()
    path.unlink()
    measured(folder, predictions=tmp_path / "rows", output=output)  # known, but its predictions are not there
    assert path.exists()


def test_predictions_of_rows_of_the_catalogue(folder: Path, tmp_path: Path) -> None:
    write_lines(folder / "csl_title" / "test.jsonl", [{"abstract": "老师写了一封信。", "title": "一封信", "id": "x7"}])
    (folder / "lines.txt").write_text("the old teacher walked to the river\n", encoding="utf-8")
    (row,) = rows_of(folder, tmp_path / "a", "csl_title", generate={"max_new_tokens": 3})
    assert (row["id"], row["references"]) == ("x7", ["一封信"])
    assert row["text"].startswith("老师写了一封信。[")
    assert isinstance(row["predicted"], str)
    last = rows_of(folder, tmp_path / "b", "lambada")
    assert last[0]["text"] == "the old teacher walked to a"
    assert {type(row["correct (bi)"]) for row in last} == {bool}
    (filled,) = rows_of(
        folder, tmp_path / "c", f"infilling={folder / 'lines.txt'}", ratios=(0.5,), generate={"max_new_tokens": 2}
    )
    assert filled["text"].count("[MASK]") == len(filled["predicted"]) == len(filled["references"])


def rows_of(folder: Path, place: Path, name: str, **options: Any) -> list[dict[str, Any]]:
    measured(folder, name, predictions=place, **options)
    return read_rows(place)


def test_a_loaded_model_may_be_given(folder: Path, infiller: Infiller) -> None:
    by_name, loaded = measured(folder), measured(folder, model=infiller)
    assert loaded.metrics == by_name.metrics
    assert loaded.settings["weights"] == by_name.settings["weights"]
    with pytest.raises(OptionError, match="few-shot"):
        measured(folder, model=infiller, method="few-shot")


def test_the_command_and_the_function_agree(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from openglm.cli.main import main

    command = ["eval", str(folder / "task.yaml"), "--model", str(folder / "model"), "--data-dir", str(folder)]
    assert main([*command, "--limit", "7", "--json", "--device", "cpu"]) == 0
    printed = json.loads(capsys.readouterr().out)
    found = measured(folder, limit=7)
    assert printed["metrics"] == {name: round(value, 4) for name, value in found.metrics.items()}
    assert printed["population"] == 40
