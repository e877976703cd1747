"""`openglm.pretrain`: models on the way, models of states alone, and what is refused before anything is built."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import pytest
import torch

import openglm
from openglm.errors import DataError, OpenGLMError, OptionError, TrainingError
from openglm.pretraining import pretrainer
from openglm.pretraining.corpora import CONTENT
from openglm.pretraining.run import export
from openglm.tokenizer import BilingualTokenizer
from openglm.training.state import states

MODEL = {"num_layers": 1, "hidden_size": 32, "num_attention_heads": 2, "vocab_size": 640, "max_sequence_length": 64}
RUN = {
    "steps": 4,
    "stages": [{"share": 1.0, "rows": 2, "length": 48}],
    "precision": "fp32",
    "log_every": 1,
    "evaluate_every": 100,
    "evaluation_rows": 1,
    "save_every": 100,
}
RECIPE: dict[str, Any] = {"model": MODEL, "run": RUN}


@pytest.fixture
def given(tmp_path: Path, tokenizer: BilingualTokenizer, text_lines: list[str]) -> dict[str, Any]:
    """Text, vocabulary and a folder for the run."""
    vocabulary = tmp_path / "vocabulary"
    vocabulary.mkdir()
    for name, content in tokenizer.files().items():
        (vocabulary / name).write_bytes(content)
    (tmp_path / "text.txt").write_text("\n\n".join(text_lines[:60]), encoding="utf-8")
    return {
        "data": tmp_path / "text.txt",
        "tokenizer": vocabulary,
        "output": tmp_path / "run",
        "device": "cpu",
    }


def weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


@pytest.mark.usefixtures("no_curves")
def test_a_run_leaves_a_model_wherever_it_was_to_stop(given: dict[str, Any]) -> None:
    part = openglm.pretrain(RECIPE, **given, steps=2)
    assert (part.steps, part.finished, part.model) == (2, False, given["output"] / "model")
    assert "2 updates" in (part.model / "README.md").read_text(encoding="utf-8")
    assert openglm.load(part.model, device="cpu").fill("The [MASK].", max_new_tokens=2).blanks
    early = weights(part.model)
    whole = openglm.pretrain(RECIPE, **given)
    assert (whole.steps, whole.finished) == (4, True)
    assert any(not torch.equal(tensor, early[name]) for name, tensor in weights(whole.model).items())
    again = openglm.pretrain(RECIPE, **given, max_seconds=1e-9)
    assert (again.steps, again.finished) == (4, True)


@pytest.mark.usefixtures("no_curves")
def test_a_model_is_made_of_a_state_alone(given: dict[str, Any], tmp_path: Path) -> None:
    made = openglm.pretrain(RECIPE, **given, steps=3).model
    assert made is not None
    expected = weights(made)
    for file in made.iterdir():
        file.unlink()
    given["data"].unlink()
    found = export(RECIPE, tokenizer=given["tokenizer"], output=given["output"])
    assert (found.steps, found.finished, found.model) == (3, False, made)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(made).items())
    with pytest.raises(TrainingError, match="no state"):
        export(RECIPE, tokenizer=given["tokenizer"], output=tmp_path / "empty")
    wide = {**RECIPE, "model": {**MODEL, "hidden_size": 64}}
    with pytest.raises(TrainingError, match="of another model"):
        export(wide, tokenizer=given["tokenizer"], output=given["output"])


@pytest.mark.usefixtures("no_curves")
def test_an_edit_of_equal_size_is_noticed(given: dict[str, Any]) -> None:
    openglm.pretrain(RECIPE, **given, steps=2)
    text: Path = given["data"]
    before = text.stat()
    os.utime(text, ns=(before.st_atime_ns, before.st_mtime_ns + 10**9))  # touched, but the same
    openglm.pretrain(RECIPE, **given, steps=3)
    content = text.read_bytes()
    text.write_bytes(content.replace(b"the ", b"thy ", 1))
    assert text.stat().st_size == before.st_size
    with pytest.raises(TrainingError, match=r"data\.0\.content"):
        openglm.pretrain(RECIPE, **given)
    text.write_bytes(content)
    assert openglm.pretrain(RECIPE, **given).finished


@pytest.mark.usefixtures("no_curves")
def test_states_of_earlier_versions_go_on(given: dict[str, Any]) -> None:
    """They do not say which tensors they have, what the text holds, or what could not be chosen then."""
    openglm.pretrain(RECIPE, **given, steps=2)
    ((_, path),) = states(given["output"])
    payload = torch.load(path, weights_only=True)
    identity = payload["meta"]["identity"]
    del payload["meta"]["tensors"], identity["data"][0][CONTENT], identity["objectives"]["single_words"]
    identity["model"].pop("architecture", None)
    for stage in identity["run"]["stages"]:
        del stage["objectives"]
    torch.save(payload, path)
    with pytest.raises(TrainingError, match=r"objectives\.single_words was absent and is 0\.5"):
        openglm.pretrain(RECIPE, **given, settings={"objectives.single_words": 0.5})
    assert openglm.pretrain(RECIPE, **given).finished


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"model.num_layers": 10**12}, "num_layers"),
        ({"model.num_layers": 10**4, "model.hidden_size": 10**5}, "the weights of the model would take"),
        ({"run.accumulate": 10**11}, "run.accumulate"),
        ({"run.evaluation_rows": 10**12}, "run.evaluation_rows"),
        ({"run.workers": 10**6}, "run.workers"),
        ({"optimizer.lr": 1}, "learning_rate, muon_learning_rate"),
        ({"data.tokenizer": 5}, "data.tokenizer must be text"),
        ({"data.train": {"a": 5}}, "data.train.a"),
        ({"objectives": 0}, "SECTION.KEY"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_built(
    given: dict[str, Any], monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], named: str
) -> None:
    def build(recipe: Any) -> None:
        raise AssertionError("a model is built")

    monkeypatch.setattr(pretrainer, "fresh_model", build)
    with pytest.raises(OpenGLMError, match=named):
        openglm.pretrain(RECIPE, **given, settings=settings)
    assert not (given["output"] / "model").exists()


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"steps": -3}, OptionError),
        ({"steps": 0}, OptionError),
        ({"max_seconds": 0}, OptionError),
        ({"max_seconds": float("nan")}, OptionError),
        ({"data": "nowhere.txt"}, DataError),
        ({"output": None}, OptionError),
    ],
)
def test_impossible_arguments(given: dict[str, Any], options: dict[str, Any], kind: type[Exception]) -> None:
    with pytest.raises(kind):
        openglm.pretrain(RECIPE, **{**given, **options})


@pytest.mark.usefixtures("no_curves")
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_event_files_on_a_full_disk_do_not_keep_a_run(
    given: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """More entries than a queue holds: a writer in a thread would wait for ever."""
    monkeypatch.setattr("tensorboardX.record_writer.open_file", lambda path: io.FileIO("/dev/full", "w"))
    run = {**RUN, "steps": 30, "evaluate_every": 5}
    assert openglm.pretrain({"model": MODEL, "run": run}, **given).finished
    assert capsys.readouterr().err.count("goes on without TensorBoard") == 1
