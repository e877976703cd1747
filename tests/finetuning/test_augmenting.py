"""More examples from few: what may change, what must stay, what is kept, and that a seed decides it all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openglm.cli.main import main
from openglm.errors import DataError, OptionError
from openglm.finetuning.augmenting import Augmenter, AugmentOptions, _alike
from openglm.infill.infiller import Infiller
from openglm.network.model import GLMModel
from openglm.tokenizer import BilingualTokenizer

EXAMPLES = [
    {"id": 7, "text": "the old teacher found the river near the bridge", "label": "yes", "who": "old teacher"},
    {"id": 8, "text": "我的邻居走到了河边，卖掉了木桥。", "label": "no", "who": "邻居"},
    {"id": 9, "text": "a young doctor sold a letter to the captain", "label": "no", "who": "doctor"},
]
PATTERN, WORDS = "{text} ({who}) That is [MASK].", {"yes": "found", "no": "sold"}


@pytest.fixture(scope="module")
def infiller(tiny_model: GLMModel, tokenizer: BilingualTokenizer) -> Infiller:
    return Infiller(tiny_model, tokenizer)


class Judge:
    """A classifier whose answers are made up: by the parity of the length of a text."""

    labels = ("yes", "no")

    def predict(self, examples: list[Mapping[str, Any]]) -> list[SimpleNamespace]:
        shares = [0.8 if len(str(each["text"])) % 2 else 0.3 for each in examples]
        return [
            SimpleNamespace(label="yes" if share > 0.5 else "no", probabilities={"yes": share, "no": 1 - share})
            for share in shares
        ]


def augmenter(infiller: Infiller, classifier: Any = None, **options: Any) -> Augmenter:
    template, words = (PATTERN, WORDS) if options.pop("template", True) else (None, {})
    return Augmenter(infiller, AugmentOptions(**options), template=template, words=words, classifier=classifier)


def test_only_blanks_change_and_what_changed_is_told(infiller: Infiller) -> None:
    made = list(augmenter(infiller, candidates=6, similarity=1.0)(EXAMPLES))
    assert len(made) > 10
    assert [each.source for each in made] == sorted(each.source for each in made)
    for each in made:
        old = EXAMPLES[each.source]
        assert {name: each.values[name] for name in ("id", "who", "label")} == {
            name: old[name] for name in ("id", "who", "label")
        }
        before, text, rebuilt, end = str(old["text"]), str(each.values["text"]), "", 0
        for place, was, now in each.changed:
            assert before[place : place + len(was)] == was
            rebuilt += before[end:place] + now
            end = place + len(was)
        assert rebuilt + before[end:] == text
        assert "That is" not in text, "the pattern is not part of the example"


def test_protected_wording_stays(infiller: Infiller) -> None:
    for each in augmenter(infiller, candidates=8, share=1.0, protect=("who",))(EXAMPLES):
        assert str(each.values["who"]) in str(each.values["text"])


def test_a_seed_decides_everything(infiller: Infiller) -> None:
    first, again, other = (
        [(each.values, each.changed) for each in augmenter(infiller, seed=seed)(EXAMPLES)] for seed in (3, 3, 4)
    )
    assert first == again
    assert first != other
    alone = [each.values for each in augmenter(infiller, seed=3)(EXAMPLES[:1])]
    assert alone == [values for values, _ in first if values["id"] == 7], "an example's own do not depend on others"


def test_the_classifier_keeps_what_it_agrees_with(infiller: Infiller) -> None:
    judge = Judge()
    made = augmenter(infiller, judge, candidates=8, confidence=0.75)
    kept = list(made(EXAMPLES))
    assert kept
    assert made.tally.doubted > 0
    assert made.tally.kept == len(kept)
    assert made.tally.kept + made.tally.doubted + made.tally.alike == 8 * len(EXAMPLES)
    for each in kept:
        [answer] = judge.predict([each.values])
        assert answer.label == each.values["label"]
        assert each.probability == answer.probabilities[answer.label]
        assert each.probability is not None
        assert each.probability >= 0.75 or each.values["label"] == "no"


def test_flipped_labels_are_said_by_the_pattern_and_checked(infiller: Infiller) -> None:
    made = list(augmenter(infiller, Judge(), candidates=6, flip=True)(EXAMPLES))
    assert made
    assert all(each.values["label"] != EXAMPLES[each.source]["label"] for each in made)
    with pytest.raises(OptionError, match=r"need a pattern that says them .* and a classifier"):
        augmenter(infiller, flip=True)


def test_texts_that_are_too_alike_count_once(infiller: Infiller) -> None:
    strict = augmenter(infiller, candidates=10, share=0.1, similarity=0.3)
    texts = [str(each.values["text"]) for each in strict(EXAMPLES)]
    assert strict.tally.alike > 0
    everything = [*texts, *(str(example["text"]) for example in EXAMPLES)]
    assert len(set(everything)) == len(everything)
    assert _alike("abcdef", "abcdef") == 1.0
    assert _alike("abcdef", "uvwxyz") == 0.0


@settings(max_examples=60, deadline=None)
@given(text=st.text("abc de，。的了是 ", min_size=1, max_size=40), seed=st.integers(0, 99), share=st.floats(0.05, 1.0))
def test_spans_are_words_apart_from_each_other(text: str, seed: int, share: float) -> None:
    maker = Augmenter.__new__(Augmenter)
    maker.options = AugmentOptions(share=share)
    spans = maker._spans(text, ["的了"], np.random.default_rng(seed))
    for start, end in spans:
        assert start < end
        assert not set(text[start:end]) & set("，。"), "a blank does not reach beyond a comma"
        assert text[start:end].strip() == text[start:end]
    for (_, end), (start, _) in pairwise(spans):
        assert any(sign.isalnum() for sign in text[end:start]), "a word stays between two blanks"
    for place in range(len(text)):
        if text.startswith("的了", place):
            assert not any(start < place + 2 and place < end for start, end in spans)


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([{"text": 5, "label": "yes", "who": "x"}], "example 1: the field 'text' must be text, not 5"),
        ([{"text": "a b", "who": "x"}], "no word stands for the label 'None'|the field 'label' is missing"),
        ([{"text": "a b", "label": "maybe", "who": "x"}], "no word stands for the label 'maybe'"),
    ],
)
def test_bad_examples_are_named(infiller: Infiller, examples: list[Mapping[str, Any]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        list(augmenter(infiller)(examples))


@pytest.mark.parametrize(
    "wrong",
    [{"share": 0.0}, {"share": 1.5}, {"candidates": 0}, {"span": 0.5}, {"confidence": 1.0}, {"temperature": 0.0}],
    ids=str,
)
def test_options_out_of_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        AugmentOptions(**wrong)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """JSON Lines and a table: the examples stay, new ones stand behind theirs and say how they were made."""
    source = tmp_path / "few.jsonl"
    source.write_text("".join(json.dumps(each, ensure_ascii=False) + "\n" for each in EXAMPLES), encoding="utf-8")
    command = ["augment", str(source), "--candidates", "2", "--protect", "who", "--pattern", PATTERN]
    command += ["--verbalizer", "yes=found", "--verbalizer", "no=sold"]
    assert main([*command, "--output", str(tmp_path / "more.jsonl")]) == 0
    assert "new examples from 3" in capsys.readouterr().err
    rows = [json.loads(line) for line in (tmp_path / "more.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row for row in rows if "augmented" not in row] == EXAMPLES
    new = [row for row in rows if "augmented" in row]
    assert new
    assert all(row["augmented"]["id"] == row["id"] for row in new)
    assert main([*command, "--only-new", "--output", str(tmp_path / "new.jsonl")]) == 0
    assert [json.loads(line) for line in (tmp_path / "new.jsonl").read_text(encoding="utf-8").splitlines()] == new
    table = tmp_path / "few.csv"
    table.write_text("text,label\nthe old teacher found the river,yes\n", encoding="utf-8")
    assert main(["augment", str(table), "--output", str(tmp_path / "more.csv")]) == 0
    heading, first, *_ = (tmp_path / "more.csv").read_text(encoding="utf-8").splitlines()
    assert (heading, first) == ("text,label,augmented", "the old teacher found the river,yes,")
    capsys.readouterr()
    for flags, message in (
        (["--flip"], "need a pattern"),
        (["--field", "body"], "the field 'body' must be text"),
        (["--verbalizer", "yes=found"], "add --pattern"),
        (["--classifier", str(tmp_path)], "not the folder of a fine-tuned model"),
        (["--share", "2"], "share must be"),
    ):
        assert main(["augment", str(source), "--output", str(tmp_path / "x.jsonl"), *flags]) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "x.jsonl").exists()
