"""/v1/classify: what a fine-tuned run or a task says, over HTTP and on the page."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from openglm.checkpoints.native import save_model
from openglm.errors import DataError
from openglm.finetuning import load_classifier, run
from openglm.finetuning.recipe import FinetuneRecipe
from openglm.infill.infiller import Infiller
from openglm.infill.loading import load
from openglm.network.model import GLMModel
from openglm.serve.app import build_app
from openglm.serve.classifying import open_served
from openglm.serve.settings import Settings
from openglm.tokenizer import BilingualTokenizer

from ..finetuning.conftest import TASK, examples, write_lines
from .test_page import CHROMIUM, browser, pytestmark  # noqa: F401

TEXT = "Did the old teacher say that?"


@pytest.fixture(scope="module")
def runs(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: GLMModel, tokenizer: BilingualTokenizer, text_lines: list[str]
) -> dict[str, Path]:
    """A run of each kind, and the model that they began with."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "base").mkdir()
    save_model(folder / "base", tiny_model, tokenizer)
    data = {
        split: write_lines(folder / f"{split}.jsonl", examples(text_lines, start, 8))
        for split, start in (("train", 0), ("dev", 8))
    }
    found = {"base": folder / "base"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("openglm.finetuning.report.draw_curves", lambda *arguments, **options: None)
        patch.setattr("openglm.finetuning.report.draw_confusion", lambda *arguments, **options: True)
        for kind, task in (("cloze", TASK), ("classify", None)):
            found[kind] = folder / kind
            values: dict[str, Any] = {
                "kind": kind, "model": str(folder / "base"), "output": str(folder / kind), "data": data,
                "run": {"batch_size": 4, "steps": 4, "evaluations": 2, "log_every": 1},
                "optimizer": {"learning_rate": 0.005},
            }  # fmt: skip
            run(FinetuneRecipe.from_dict(values if task is None else {**values, "task": task}))
    return found


@pytest.fixture(scope="module", params=["cloze", "classify"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def served(runs: dict[str, Path], kind: str) -> Iterator[TestClient]:
    model = open_served(str(runs[kind]), None, "cpu", lambda: load(runs[kind]))
    with TestClient(build_app(model, Settings(name="run")), raise_server_exceptions=False) as client:
        yield client


def test_labels_are_the_classifiers(served: TestClient, runs: dict[str, Path], kind: str) -> None:
    direct = load_classifier(runs[kind])
    one = served.post("/v1/classify", json={"text": TEXT}).json()
    assert one["label"] == direct.predict(TEXT).label
    assert one["probabilities"] == pytest.approx(dict(direct.predict(TEXT).probabilities), abs=1e-5)
    assert served.post("/v1/classify", json={"text": {"sentence": TEXT}}).json() == one
    texts = [TEXT, {"sentence": "the river"}, "老师"]
    several = served.post("/v1/classify", json={"texts": texts}).json()["results"]
    assert [each["label"] for each in several] == [answer.label for answer in direct.predict(texts)]
    card = served.get("/v1/models/run").json()
    assert card["capabilities"]["classify"]
    assert card["fields"] == ["sentence"]
    assert sorted(card["labels"]) == ["no", "yes"]


def test_what_is_below_a_head_does_not_write(served: TestClient, kind: str) -> None:
    answer = served.post("/v1/fill", json={"text": "the [MASK] bridge", "max_new_tokens": 2})
    assert answer.status_code == (200 if kind == "cloze" else 400)
    assert served.get("/v1/models/run").json()["capabilities"]["fill"] == (kind == "cloze")
    if kind == "classify":
        assert answer.json()["error"]["code"] == "not_supported"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "text"),
        ({"text": "a", "texts": ["b"]}, "text"),
        ({"texts": []}, "texts"),
        ({"texts": ["a"] * 257}, "257 texts"),
        ({"text": {"other": "a"}}, "sentence"),
        ({"text": 5}, "text"),
        ({"text": {"sentence": None}}, "text"),
        ({"text": "a", "labels": ["b"]}, "labels"),
    ],
)
def test_bad_requests(served: TestClient, body: Any, words: str) -> None:
    answer = served.post("/v1/classify", json=body)
    assert answer.status_code == 400
    assert words in answer.json()["error"]["message"]


def test_a_task_asks_any_model(runs: dict[str, Path], tmp_path: Path) -> None:
    import yaml

    task = tmp_path / "task.yaml"
    values = {"name": "said", **{name: value for name, value in TASK.items() if name != "pattern"}}
    task.write_text(yaml.safe_dump({**values, "patterns": [TASK["pattern"]]}), encoding="utf-8")
    with TestClient(build_app(open_served(str(runs["base"]), str(task), "cpu", lambda: load(runs["base"])))) as client:
        found = client.post("/v1/classify", json={"text": TEXT}).json()
    assert set(found["probabilities"]) == {"yes", "no"}
    with pytest.raises(DataError, match="no-such-task"):
        open_served(str(runs["base"]), "no-such-task", "cpu", pytest.fail)


def test_without_labels(client: TestClient, infiller: Infiller) -> None:
    answer = client.post("/v1/classify", json={"text": "a"})
    assert answer.status_code == 400
    assert "--task" in answer.json()["error"]["message"]


def test_the_page_shows_labels(
    browser: Any,  # noqa: F811
    serving: Callable[..., Any],
    runs: dict[str, Path],
    kind: str,
) -> None:
    with serving(Settings(name="run"), open_served(str(runs[kind]), None, "cpu", lambda: load(runs[kind]))) as live:
        page = browser.new_page(locale="en-US", viewport={"width": 360, "height": 800})
        complaints: list[str] = []
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(live.url)
        page.wait_for_selector("#tab-classify", state="visible")
        assert page.locator("#tab-fill").is_visible() == (kind == "cloze")
        page.click("#tab-classify")
        page.click("#classify-form .main")
        assert "text" in page.inner_text("#status")
        page.fill("#fields textarea", TEXT)
        page.press("#fields textarea", "Control+Enter")
        page.wait_for_selector("#labels li")
        direct = load_classifier(runs[kind]).predict(TEXT)
        assert page.locator("#labels .words").first.inner_text() == direct.label
        assert page.locator("#labels li").count() == 2
        page.locator("#tab-classify").focus()
        page.keyboard.press("ArrowRight")
        assert page.locator("#tab-classify").get_attribute("aria-selected") == str(kind != "cloze").lower()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        page.close()
        assert complaints == []
