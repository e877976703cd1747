"""Tasks: files, flags, examples, and every mistake before anything runs."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from openglm.errors import DataError, OptionError, UnsupportedBlankError
from openglm.infill.infiller import Infiller
from openglm.network.model import GLMConfig
from openglm.scoring.predict import predict
from openglm.tasks.examples import Example, read_examples
from openglm.tasks.renderer import QuestionRenderer
from openglm.tasks.splits import task_examples
from openglm.tasks.task_files import from_values, load_task, task_from_flags, task_names
from openglm.tasks.transforms import prepared
from openglm.tasks.verbalizer import Verbalizer
from openglm.tokenizer import BilingualTokenizer

FLAGS = ["Positive=老师", "Positive=医生", "Negative=河边"]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def test_from_flags_to_predictions(infiller: Infiller, tmp_path: Path) -> None:
    rows = [{"sentence": f"老师走到了河边{i}", "label": ["Positive", "Negative"][i % 2]} for i in range(5)]
    task = task_from_flags("{sentence:shorten} 总的来说[MASK]。", FLAGS)
    examples = task_examples(task, write(tmp_path / "train.jsonl", rows))
    questions = QuestionRenderer(task, infiller.tokenizer, infiller.model.config).questions(examples)
    assert task.labels == ("Positive", "Negative")
    assert [question.gold for question in questions] == [0, 1, 0, 1, 0]
    assert questions[0].owner == (0, 0, 1)
    assert [question.number for question in questions] == [1, 2, 3, 4, 5]
    predictions = predict(infiller.model, infiller.tokenizer, questions)
    assert predictions[0].probabilities.sum() == pytest.approx(1)
    assert task.evaluate(predictions)["accuracy"] in [0, 20, 40, 60, 80, 100]


def test_all_tasks_that_come_along_can_be_read() -> None:
    names = task_names()
    fewclue = {"eprstmt", "csldcp", "tnews", "iflytek", "ocnli", "bustm", "chid", "csl", "cluewsc"}
    superglue = {"boolq", "cb", "copa", "multirc", "record", "rte", "wic", "wsc"}
    assert {f"fewclue/{n}" for n in fewclue} | {f"superglue/{n}" for n in superglue} | {"cmrc2019", "xcopa"} <= set(
        names
    )
    for name in names:
        task = load_task(name)
        assert task.name == name
        assert task.title
        assert all(figure.metric in task.metrics for figure in task.published)
    assert len(load_task("fewclue/iflytek").labels) == 119
    assert len(load_task("csldcp").labels) == 67
    with pytest.raises(DataError, match="eprstmt"):
        load_task("fewclue/eprstm")


EXAMPLES: dict[str, dict[str, Any]] = {
    "superglue/boolq": {"question": "is it", "passage": "It is.", "label": True},
    "superglue/cb": {"premise": "It rains.", "hypothesis": "it is wet", "label": "neutral"},
    "superglue/rte": {"premise": "It rains.", "hypothesis": "It is wet.", "label": "entailment"},
    "superglue/wic": {"word": "run", "sentence1": "We run.", "sentence2": "A long run.", "label": False},
    "superglue/copa": {"premise": "It fell.", "choice1": "Ice.", "choice2": "Sun.", "question": "cause", "label": 1},
    "superglue/wsc": {
        "text": "Mark told Pete that he won .", "label": True,
        "target": {"span1_text": "Mark", "span2_text": "he", "span1_index": 0, "span2_index": 4},
    },
    "superglue/multirc": {
        "passage": {"text": "Tom ran.", "questions": [{"question": "Who?", "idx": 0, "answers": [
            {"text": "Tom", "label": 1}, {"text": "Ann", "label": 0}]}]},
    },
    "superglue/record": {
        "passage": {"text": "Tom met Ann.\n@highlight\nThey won.", "entities": [
            {"start": 0, "end": 2}, {"start": 8, "end": 10}, {"start": 0, "end": 2}]},
        "qas": [{"query": "Then @placeholder won.", "answers": [{"text": "Tom"}]}],
    },
    "xcopa": {"premise": "老师走了。", "choice1": "河边。", "choice2": "市场。", "question": "effect", "label": 0},
    "fewclue/chid": {"content": "老师#idiom#河边", "candidates": ["走到了", "卖掉了"], "answer": 1},
    "fewclue/cluewsc": {
        "text": "老师走了，他在河边", "label": "true",
        "target": {"span1_text": "老师", "span1_index": 0, "span2_text": "他", "span2_index": 5},
    },
    "cmrc2019": {
        "context_id": "A", "context": "老师[BLANK1]，医生[BLANK2]。",
        "choices": ["走了", "来了", "在"], "answers": [2, 0],
    },
}  # fmt: skip


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_in_the_official_form(name: str, tokenizer: BilingualTokenizer) -> None:
    task = load_task(name)
    config = GLMConfig(1, 4, 1, 1024)
    examples = prepared([Example(EXAMPLES[name], "x.jsonl", 1)], task.prepare)
    for number in range(len(task.templates)):
        for question in QuestionRenderer(task, tokenizer, config, number).questions(examples):
            assert question.gold is not None
            assert question.prior is not None
            text = tokenizer.decode(question.part_a.ids.tolist())
            assert "[MASK]" in text
            assert "{" not in text


def test_what_transforms_make(tokenizer: BilingualTokenizer) -> None:
    config = GLMConfig(1, 4, 1, 1024)

    def ask(name: str) -> list[Any]:
        task = load_task(name)
        made = prepared([Example(EXAMPLES[name], "x.jsonl", 1)], task.prepare)
        return QuestionRenderer(task, tokenizer, config).questions(made)

    record = ask("superglue/record")[0]
    assert record.labels == ("Tom", "Ann")
    assert record.golds == (0,)
    assert "- They won. Then[MASK] won." in tokenizer.decode(record.part_a.ids.tolist())
    first, second = ask("cmrc2019")
    assert (first.gold, second.gold, first.group) == (2, 0, "A")
    assert "老师[MASK]，医生……。" in tokenizer.decode(first.part_a.ids.tolist())
    assert [question.gold for question in ask("superglue/multirc")] == [1, 0]
    assert "#老师#走了，*他*在河边" in tokenizer.decode(ask("fewclue/cluewsc")[0].part_a.ids.tolist())
    assert "Mark told Pete that *he* won ." in tokenizer.decode(ask("superglue/wsc")[0].part_a.ids.tolist())


def test_shortening_is_counted(infiller: Infiller) -> None:
    task = task_from_flags("{sentence:shorten}[MASK]", FLAGS)
    long = Example({"sentence": "老师走到了河边。" * 40})
    question = QuestionRenderer(task, infiller.tokenizer, infiller.model.config).question(long)
    assert len(question.part_a) == infiller.model.config.max_sequence_length
    assert question.cut == question.cut_from["sentence"] > 0
    less = QuestionRenderer(task, infiller.tokenizer, infiller.model.config, max_tokens=30).question(long)
    assert len(less.part_a) == 30
    assert less.cut == question.cut + infiller.model.config.max_sequence_length - 30


def test_examples_that_do_not_fit(infiller: Infiller, tmp_path: Path) -> None:
    task = task_from_flags("{sentence}[MASK]", FLAGS)
    tokenizer, config = infiller.tokenizer, infiller.model.config

    def ask(*rows: dict[str, Any]) -> None:
        path = write(tmp_path / "train.jsonl", [{"sentence": "老师", "label": "Positive"}, *rows])
        QuestionRenderer(task, tokenizer, config).questions(task_examples(task, path))

    with pytest.raises(DataError, match=r'train.jsonl, line 2: no field "sentence"; it has text'):
        ask({"text": "x", "label": "Positive"})
    with pytest.raises(DataError, match="line 2: no word stands for the label 'Neutral'"):
        ask({"sentence": "x", "label": "Neutral"})
    with pytest.raises(DataError, match='line 2: no field "label"'):
        ask({"sentence": "x"})
    with pytest.raises(DataError, match=r"line 2: the text has .* tokens, the context holds 61"):
        ask({"sentence": "老师" * 100, "label": "Positive"})
    with pytest.raises(DataError, match="no examples"):
        QuestionRenderer(task, tokenizer, config).questions([])
    with pytest.raises(OptionError, match="one pattern, 0; there is no pattern 1"):
        QuestionRenderer(task, tokenizer, config, 1)
    with pytest.raises(UnsupportedBlankError, match=r"without \[sMASK\]"):
        QuestionRenderer(task_from_flags("{a}[sMASK]", FLAGS), tokenizer, GLMConfig(1, 4, 1, 9, blanks=("[MASK]",)))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["A=老师", "B=老师"], "'老师' of the label 'B' is the same word as '老师' of the label 'A'"),
        (["A=老师", "B= "], "comes to no tokens"),
        (["A=老师", "B=x|y"], "has 2 parts, but the pattern 1 blanks"),
    ],
)
def test_verbalizers_that_cannot_be_told_apart(
    words: list[str], message: str, tokenizer: BilingualTokenizer, tiny_config: GLMConfig
) -> None:
    task = task_from_flags("{a}[MASK]", words)
    with pytest.raises(DataError) as error:
        QuestionRenderer(task, tokenizer, tiny_config).question(Example({"a": "x"}))
    assert message in str(error.value)


def test_several_blanks(tokenizer: BilingualTokenizer, tiny_config: GLMConfig) -> None:
    task = task_from_flags("[MASK]{a} [MASK]", ["A=老师|teacher", "B=医生|doctor"])
    question = QuestionRenderer(task, tokenizer, tiny_config).question(Example({"a": "x"}))
    assert question.candidates[0] == (tuple(tokenizer.encode("老师")), tuple(tokenizer.encode(" teacher")))
    assert Verbalizer.of({"A": [["老师", "teacher"]]}).words["A"] == (("老师", "teacher"),)
    for bad in (["A"], ["=x"], ["A="]):
        with pytest.raises(DataError, match="LABEL=WORD"):
            Verbalizer.from_flags(bad)


GOOD: dict[str, Any] = {"name": "t", "patterns": ["{a}[MASK]"], "verbalizer": {"A": "x", "B": "y"}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pattern": "x"}, "unknown key 'pattern'. Did you mean 'patterns'"),
        ({"patterns": []}, "patterns: missing"),
        ({"patterns": ["{a}"]}, "no blank"),
        ({"kind": "regression"}, "choice"),
        ({"verbalizer": {"A": True}}, "has no word"),
        ({"verbalizer": {"A": [True]}}, "in quotes"),
        ({"verbalizer": {"A": [["x", "y"]]}}, "2 parts for the 1 blanks"),
        ({"verbalizer": {}}, "expected labels"),
        ({"metrics": ["acc"]}, "no metric 'acc'"),
        ({"prepare": ["recrd"]}, "Did you mean 'record'"),
        ({"scoring": {"length_penalyt": 1}}, "Did you mean 'length_penalty'"),
        ({"scoring": {"normalize": "avg"}}, "length_penalty: 0 for sum, 1 for mean"),
        ({"kind": "options"}, "options: missing"),
        ({"options": "choices"}, "of no use with kind: choice"),
        ({"patterns": [{"pattern": "[MASK]", "verbalizer": {"C": "x"}}]}, "other labels"),
        ({"fields": {"x": "y"}}, "expected {from"),
        ({"published": [{"system": "x", "setting": "y", "source": "z", "acc": 1}]}, "no metric 'acc'"),
    ],
)
def test_mistakes_in_task_files(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    from_values(GOOD)
    path = tmp_path / "mine.yaml"
    path.write_text(json.dumps({**GOOD, **change}), encoding="utf-8")  # JSON is YAML
    with pytest.raises(DataError) as error:
        load_task(path)
    assert message in str(error.value)
    assert "mine.yaml" in str(error.value)


def test_task_files_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "patterns: '{a}[MASK]'\nverbalizer: {true: 是, 3: [不, 否]}\nfiles: {dev: d.jsonl}\n", encoding="utf-8"
    )
    task = load_task(path)
    assert task.name == "mine"
    assert task.labels == ("true", "3")
    write(tmp_path / "d.jsonl", [{"a": "x", "label": True}, {"a": "y", "label": 3}])
    examples = task_examples(task, "dev", tmp_path)
    assert [task.label_of(example) for example in examples] == ["true", "3"]
    with pytest.raises(DataError, match="no 'train' data"):
        task_examples(task, "train", tmp_path)
    with pytest.raises(DataError, match="no such file"):
        task_examples(task, "dev", tmp_path / "elsewhere")
    with pytest.raises(DataError, match="no such task file"):
        load_task(tmp_path / "other.yaml")
    path.write_text("patterns: [", encoding="utf-8")
    with pytest.raises(DataError, match="not a readable task file"):
        load_task(path)


def test_no_data_folder_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENGLM_EVAL", raising=False)
    with pytest.raises(DataError, match="--data-dir or OPENGLM_EVAL"):
        task_examples(load_task("fewclue/eprstmt"), "train")


def test_reading_examples(tmp_path: Path) -> None:
    rows = [{"a": 1}, {"a": {"b": 2}}]
    lines = write(tmp_path / "x.jsonl", rows)
    assert [(e.number, e.where) for e in read_examples(lines)] == [(1, f"{lines}, line 1"), (2, f"{lines}, line 2")]
    packed = tmp_path / "x.jsonl.gz"
    packed.write_bytes(gzip.compress(lines.read_bytes()))
    assert [e.values for e in read_examples([packed, lines])] == rows + rows
    for content in (json.dumps(rows), json.dumps({"data": rows}), json.dumps({"data": rows}, indent=1)):
        (tmp_path / "x.json").write_text(content, encoding="utf-8")
        found = read_examples(tmp_path / "x.json")
        assert [e.values for e in found] == rows
        assert found[1].where.endswith("item 2")
        assert found[1].get("a.b") == 2
    for content, message in (("", "is empty"), ('{"a": 1}\n[1]\n', "line 2: expected"), ("{a}\n", "line 1: not JSON")):
        (tmp_path / "y.json").write_text(content, encoding="utf-8")
        with pytest.raises(DataError, match=message):
            read_examples(tmp_path / "y.json")
    with pytest.raises(DataError, match=r"missing.json"):
        read_examples(tmp_path / "missing.json")


def test_examples_of_tables(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('text,label\n"one, two",007\n\n"three\nfour",b\n', encoding="utf-8-sig")
    (tmp_path / "b.tsv").write_text('text\tlabel\n"one\t1\n', encoding="utf-8")
    rows = read_examples([tmp_path / "a.csv", tmp_path / "b.tsv"])
    assert [dict(each.values) for each in rows] == [
        {"text": "one, two", "label": "007"},
        {"text": "three\nfour", "label": "b"},
        {"text": '"one', "label": "1"},
    ]
    assert [each.number for each in rows] == [2, 4, 2]
    for content, words in (("text,label\na\n", "line 2: 1 cells"), ("text,label\n", "is empty"), ("a,a\n", "twice")):
        (tmp_path / "c.csv").write_text(content, encoding="utf-8")
        with pytest.raises(DataError, match=words):
            read_examples(tmp_path / "c.csv")


def test_equal_tokenizers_of_other_vocabularies_do_not_share_words(
    tokenizer: BilingualTokenizer, tiny_config: GLMConfig
) -> None:
    """What is made once belongs to one vocabulary and one length of context."""

    class Shifted:
        """The tokenizer with other ids."""

        def __getattr__(self, name: str) -> Any:
            return getattr(tokenizer, name)

        def encode(self, text: str) -> list[int]:
            return [token + 1 for token in tokenizer.encode(text)]

    task = task_from_flags("{a}[MASK]", FLAGS)
    for _ in range(20):  # objects that come and go, at the same address perhaps
        plain = QuestionRenderer(task, tokenizer, tiny_config).question(Example({"a": "x"}))
        other = QuestionRenderer(task, Shifted(), tiny_config).question(Example({"a": "x"}))  # type: ignore[arg-type]
        assert other.candidates == tuple(
            tuple(tuple(token + 1 for token in ids) for ids in candidate) for candidate in plain.candidates
        )
