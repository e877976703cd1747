"""lm-evaluation-harness measures what `openglm eval` measures."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("lm_eval", reason="needs lm-evaluation-harness: pip install 'openglm[lm-eval]'")

import lm_eval
from lm_eval.api.task import ConfigurableTask

import openglm
from openglm.errors import InputError
from openglm.infill.infiller import Infiller
from openglm.integrations.lm_eval import OpenGLM

WORDS = ["the", "old", "teacher", "walked", "to", "a", "river", "and", "wrote", "three", "letters", "about", "him"]
TEXTS = [" ".join(WORDS[i % 7 :] + WORDS[: i % 5 + 1]) for i in range(12)]


@pytest.fixture(scope="module")
def model(infiller: Infiller) -> OpenGLM:
    return OpenGLM(infiller)


def asked(*args: Any) -> list[Any]:
    """Requests, of which a model reads nothing but the arguments."""
    return [SimpleNamespace(args=each) for each in args]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    return path


def harness(model: OpenGLM, path: Path, **config: Any) -> float:
    """Accuracy that the harness finds with a task on a file, in percent."""
    values = {
        "task": "mine", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(path)}},
        "test_split": "test", "metric_list": [{"metric": "acc"}], **config,
    }  # fmt: skip
    found = lm_eval.simple_evaluate(model=model, tasks=[ConfigurableTask(config=values)], bootstrap_iters=0)
    return 100 * float(found["results"]["mine"]["acc,none"])


def test_last_words_are_those_of_our_own_command(model: OpenGLM, infiller: Infiller, tmp_path: Path) -> None:
    path = write(tmp_path / "lambada" / "test.jsonl", [{"text": text} for text in TEXTS])
    (ours,) = openglm.evaluate("lambada", infiller, data_dir=tmp_path, predictions=tmp_path / "rows")
    theirs = harness(
        model, path, output_type="loglikelihood", doc_to_text="{{text.split(' ')[:-1]|join(' ')}}",
        doc_to_target="{{' '+text.split(' ')[-1]}}",
    )  # fmt: skip
    assert theirs == pytest.approx(ours.metrics["accuracy (bi)"])
    rows = [json.loads(line) for line in (tmp_path / "rows" / "lambada.jsonl").read_text().splitlines()]
    pairs = [(" ".join(text.split()[:-1]), " " + text.split()[-1]) for text in TEXTS]
    assert [greedy for _, greedy in model.loglikelihood(asked(*pairs))] == [row["correct (bi)"] for row in rows]


def test_minimal_pairs_are_those_of_our_own_command(model: OpenGLM, infiller: Infiller, tmp_path: Path) -> None:
    rows = [
        {"good": good, "bad": bad, "paradigm": "p", "phenomenon": "q"}
        for good, bad in zip(TEXTS, [*TEXTS[3:], *TEXTS[:3]], strict=True)
    ]
    path = write(tmp_path / "blimp" / "pairs.jsonl", rows)
    (ours,) = openglm.evaluate("blimp", infiller, data_dir=tmp_path)
    assert 0 < ours.metrics["group_accuracy"] < 100
    theirs = harness(
        model, path, output_type="multiple_choice", doc_to_text="", doc_to_target=0, doc_to_choice="{{[good, bad]}}"
    )
    assert theirs == pytest.approx(ours.metrics["group_accuracy"])


def test_the_chain_rule_holds(model: OpenGLM) -> None:
    """A text in a window is worth what it is worth as a continuation of nothing."""
    rolling = model.loglikelihood_rolling(asked(*[(text,) for text in TEXTS]))
    whole = [value for value, _ in model.loglikelihood(asked(*[("", text) for text in TEXTS]))]
    assert rolling == pytest.approx(whole, abs=1e-4)


def test_nothing_of_a_long_text_is_left_out(model: OpenGLM, infiller: Infiller) -> None:
    long = " ".join(TEXTS * 3)
    ids = infiller.tokenizer.encode(long)
    assert len(ids) > 3 * model.context
    layouts = list(model._windows(long))
    scored = [int(target) for layout in layouts for target in layout.targets[layout.loss_mask]]
    assert scored == ids
    (value,) = model.loglikelihood_rolling(asked((long,)))
    assert math.isfinite(value)
    assert value < model.loglikelihood_rolling(asked((TEXTS[0],)))[0]


def test_what_is_written_stops_where_it_is_told(model: OpenGLM, infiller: Infiller) -> None:
    contexts = ["the old teacher", "a river and", "the old teacher"]
    free = model.generate_until(asked(*[(context, {"until": [], "max_gen_toks": 6}) for context in contexts]))
    fills = infiller.fill([f"{context}[gMASK]" for context in contexts], max_new_tokens=6)
    assert free == [each.blanks[0].text for each in fills]
    stop = next(c for c in free[0] if c.strip())
    requests = [(contexts[0], {"until": [stop], "max_gen_toks": 6}), (contexts[1], {"until": "§", "max_gen_toks": 6})]
    assert model.generate_until(asked(*requests)) == [free[0].split(stop)[0], free[1]]


def test_a_context_that_is_too_long_loses_its_beginning(model: OpenGLM) -> None:
    long, end = " ".join(TEXTS * 3), " teacher"
    (found,) = model.loglikelihood(asked((long, end)))
    kept = model.tokenizer.decode(model.tokenizer.encode(long)[-(model.context - 3) :])
    assert found == pytest.approx(model.loglikelihood(asked((kept, end)))[0], abs=1e-3)


def test_bad_input(model: OpenGLM) -> None:
    with pytest.raises(InputError, match="no tokens"):
        model.loglikelihood(asked(("a", "")))
    with pytest.raises(InputError, match="at most"):
        model.loglikelihood(asked(("", " ".join(TEXTS * 3))))
    with pytest.raises(InputError, match="no tokens"):
        model.loglikelihood_rolling(asked(("",)))


def test_the_harness_finds_it_by_name() -> None:
    from lm_eval.api.registry import get_model

    assert get_model("openglm") is OpenGLM
