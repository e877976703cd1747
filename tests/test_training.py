"""Training: exact losses, data that depend on the step alone, runs that resume to the bit."""

from __future__ import annotations

import itertools
import json
import math
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch.nn import functional as F

from openglm.blanks import NO_DOCUMENT, Layout, put_back
from openglm.checkpoints.native import load_model
from openglm.errors import DataError, OpenGLMError, OptionError, TrainingError
from openglm.model import GLMModel
from openglm.pretraining.shards import Shard, prepare
from openglm.pretraining.spans import Objectives, SampleMaker
from openglm.pretraining.stream import OBJECTIVE_NAMES, BatchStream, Source, TrainingBatch
from openglm.tokenizer import BilingualTokenizer, load_tokenizer
from openglm.tokenizer_training import train_vocabulary
from openglm.training.evaluate import validation_losses
from openglm.training.loop import Trainer
from openglm.training.loss import ROWS_AT_ONCE, linear_cross_entropy
from openglm.training.optim import OptimizerOptions, build_optimizers, rate_factor
from openglm.training.recipe import Recipe
from openglm.training.state import KEEP, load_state, save_state, states
from openglm.training.step import forward_losses

# --- loss ----------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 7, ROWS_AT_ONCE, 2 * ROWS_AT_ONCE + 3])
@pytest.mark.parametrize("scale", [1.0, 0.37])
def test_loss_and_gradients_are_exact(count: int, scale: float) -> None:
    hidden = torch.randn(count, 24, requires_grad=True)
    weight = torch.randn(101, 24, requires_grad=True)
    targets = torch.randint(0, 101, (count,))
    expected = F.cross_entropy(hidden @ weight.t(), targets, reduction="none")
    expected_gradients = torch.autograd.grad(expected.sum() * scale, (hidden, weight))
    total, losses = linear_cross_entropy(hidden, weight, targets)
    gradients = torch.autograd.grad(total * scale, (hidden, weight))
    torch.testing.assert_close(losses, expected.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(total, expected.sum(), rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert not losses.requires_grad


def test_loss_of_extreme_scores() -> None:
    """Finite where the naive exponential would overflow."""
    hidden, weight = torch.tensor([[1000.0, 0.0]]), torch.eye(2)
    total, _ = linear_cross_entropy(hidden, weight, torch.tensor([1]))
    assert total.item() == pytest.approx(1000.0)


def test_loss_without_targets() -> None:
    hidden, weight = torch.randn(0, 8, requires_grad=True), torch.randn(5, 8, requires_grad=True)
    total, losses = linear_cross_entropy(hidden, weight, torch.empty(0, dtype=torch.long))
    total.backward()  # type: ignore[no-untyped-call]
    assert total.item() == 0
    assert losses.shape == (0,)
    assert weight.grad is not None
    assert not weight.grad.any()


# --- corpora -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def documents(text_lines: list[str]) -> list[str]:
    return ["\n".join(text_lines[i : i + 1 + i % 9]) for i in range(0, 300, 5)]


@pytest.fixture(scope="module")
def shard_folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: BilingualTokenizer, documents: list[str]) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    lines = "".join(json.dumps({"text": text}) + "\n" for text in documents)
    (folder / "text.jsonl").write_text(lines, encoding="utf-8")
    prepare([folder / "text.jsonl"], tokenizer, folder / "shard")
    return folder / "shard"


@pytest.fixture(scope="module")
def source(shard_folder: Path, tokenizer: BilingualTokenizer) -> Source:
    return Source("text", Shard.open(shard_folder, tokenizer), 1.0)


def test_shard_holds_the_documents(source: Source, tokenizer: BilingualTokenizer, documents: list[str]) -> None:
    shard = source.shard
    assert shard.manifest["documents"] == len(documents)
    assert [tokenizer.decode(shard.document(i).tolist()) for i in range(len(documents))] == documents
    assert shard.bounds[-1] == len(shard.tokens) == shard.manifest["tokens"]


def copy_of(folder: Path, target: Path) -> Path:
    target.mkdir()
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


def test_shard_refuses_another_tokenizer(shard_folder: Path, tmp_path: Path, text_lines: list[str]) -> None:
    path = tmp_path / "other.txt"
    path.write_text("\n\n".join(text_lines), encoding="utf-8")
    other = BilingualTokenizer(train_vocabulary([[path]], vocab_size=560, threads=1))
    with pytest.raises(DataError, match="another tokenizer"):
        Shard.open(shard_folder, other)


@pytest.mark.parametrize("name", ["tokens.bin", "bounds.npy", "manifest.json"])
@pytest.mark.parametrize("kept", [0.0, 0.5, -2])
def test_shard_refuses_a_truncated_file(
    shard_folder: Path, tmp_path: Path, tokenizer: BilingualTokenizer, name: str, kept: float
) -> None:
    path = copy_of(shard_folder, tmp_path / "copy") / name
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept) if kept >= 0 else int(kept)])
    with pytest.raises(DataError, match="copy"):
        Shard.open(path.parent, tokenizer)


@pytest.mark.parametrize("name", ["tokens.bin", "bounds.npy", "manifest.json"])
def test_shard_refuses_a_missing_file(
    shard_folder: Path, tmp_path: Path, tokenizer: BilingualTokenizer, name: str
) -> None:
    path = copy_of(shard_folder, tmp_path / "copy") / name
    path.unlink()
    with pytest.raises(DataError, match="copy"):
        Shard.open(path.parent, tokenizer)


def test_finished_shard_is_not_overwritten(shard_folder: Path, tokenizer: BilingualTokenizer) -> None:
    before = (shard_folder / "tokens.bin").read_bytes()
    with pytest.raises(DataError, match="already"):
        prepare([shard_folder.parent / "text.jsonl"], tokenizer, shard_folder)
    assert (shard_folder / "tokens.bin").read_bytes() == before


def test_empty_corpus_is_refused(tmp_path: Path, tokenizer: BilingualTokenizer) -> None:
    (tmp_path / "empty.txt").write_text("\n\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"empty\.txt"):
        prepare([tmp_path / "empty.txt"], tokenizer, tmp_path / "shard")
    with pytest.raises(DataError):
        Shard.open(tmp_path / "shard", tokenizer)


# --- batches -------------------------------------------------------------------------


def stream_of(source: Source, tokenizer: BilingualTokenizer, **settings: Any) -> BatchStream:
    maker = SampleMaker(tokenizer, Objectives())
    return BatchStream([source], maker, **{"rows": 4, "length": 96, "short_probability": 0.2, "seed": 3, **settings})


def content(batch: TrainingBatch) -> list[bytes]:
    parts = [batch.objectives, *(getattr(batch.batch, n) for n in ("input_ids", "targets", "loss_mask"))]
    parts += [getattr(batch.batch, n) for n in ("position_ids", "documents", "in_part_a")]
    return [part.tobytes() for part in parts]


def test_batches_depend_on_the_step_alone(source: Source, tokenizer: BilingualTokenizer) -> None:
    stream = stream_of(source, tokenizer)
    forwards = [content(stream.batch(step)) for step in range(5)]
    backwards = [content(stream.batch(step)) for step in reversed(range(5))][::-1]
    fresh = content(stream_of(source, tokenizer).batch(3))
    assert forwards == backwards
    assert forwards[3] == fresh
    assert len({parts[1] for parts in forwards}) == 5, "every step has data of its own"
    assert content(stream_of(source, tokenizer, seed=4).batch(3)) != fresh


def layouts_of(batch: TrainingBatch) -> list[tuple[Layout, str]]:
    out = []
    arrays = batch.batch
    for row in range(len(arrays.input_ids)):
        for number in range(arrays.documents[row].max() + 1):
            here = arrays.documents[row] == number
            names = set(batch.objectives[row, here].tolist())
            assert len(names) == 1
            layout = Layout(
                arrays.input_ids[row, here],
                arrays.targets[row, here],
                arrays.loss_mask[row, here],
                arrays.position_ids[row, 0, here],
                arrays.position_ids[row, 1, here],
                int(arrays.in_part_a[row, here].sum()),
            )
            out.append((layout, OBJECTIVE_NAMES[names.pop()]))
    return out


@pytest.mark.parametrize("length", [32, 64, 200])
def test_batches_hold_windows_of_the_corpus(
    source: Source, tokenizer: BilingualTokenizer, documents: list[str], length: int
) -> None:
    """Every sample, put back, is a piece of one document between [CLS] and (mostly) eos."""
    whole = [source.shard.document(i).tolist() for i in range(len(documents))]
    stream = stream_of(source, tokenizer, length=length)
    seen = set()
    for step in range(6):
        batch = stream.batch(step)
        assert batch.batch.input_ids.shape == (4, length)
        assert ((batch.objectives == -1) == (batch.batch.documents == NO_DOCUMENT)).all()
        assert (batch.batch.position_ids < length).all()
        for layout, objective in layouts_of(batch):
            seen.add(objective)
            closed = layout.targets[-1] == tokenizer.markers.eop
            object.__setattr__(layout, "ends_with_eop", bool(closed))
            text = put_back(layout).tolist()
            assert text[0] == tokenizer.cls
            ended = text[-1] == tokenizer.eos
            assert ended or objective == "document"
            inner = text[1 : -1 if ended else None]
            assert inner
            assert any(inner == d[i : i + len(inner)] for d in whole for i in range(len(d) - len(inner) + 1))
    assert seen == set(OBJECTIVE_NAMES)


def test_rows_are_nearly_full(source: Source, tokenizer: BilingualTokenizer) -> None:
    stream = stream_of(source, tokenizer, length=256, short_probability=0.0)
    assert np.mean([stream.batch(step).batch.used for step in range(4)]) > 0.85


def test_sources_are_drawn_by_weight(source: Source, tmp_path: Path, tokenizer: BilingualTokenizer) -> None:
    (tmp_path / "other.txt").write_text("\n\n".join(["zzzz zzzz zzzz. zzzz zzzz!"] * 20), encoding="utf-8")
    prepare([tmp_path / "other.txt"], tokenizer, tmp_path / "shard")
    other = Source("other", Shard.open(tmp_path / "shard", tokenizer), 3.0)
    z = tokenizer.encode("zzzz")[0]
    stream = BatchStream(
        [source, other], SampleMaker(tokenizer, Objectives()), rows=8, length=64, short_probability=1.0, seed=0
    )
    samples = [layout for step in range(20) for layout, _ in layouts_of(stream.batch(step))]
    share = sum(z in layout.targets.tolist() for layout in samples) / len(samples)
    assert 0.68 < share < 0.82


def test_corpus_of_crumbs_is_refused(
    tmp_path: Path, tokenizer: BilingualTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Documents of one token give no sample at all; that must be said, not tried for ever."""
    (tmp_path / "crumbs.txt").write_text("a\n\n.\n\nb", encoding="utf-8")
    prepare([tmp_path / "crumbs.txt"], tokenizer, tmp_path / "shard")
    crumbs = Source("crumbs", Shard.open(tmp_path / "shard", tokenizer), 1.0)
    assert (np.diff(crumbs.shard.bounds) == 1).all()
    stream = stream_of(crumbs, tokenizer)
    monkeypatch.setattr("openglm.pretraining.stream.TRIES", 100)

    def give_up(number: int, frame: object) -> None:
        raise TimeoutError("still looking for a sample")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(60)  # only to end a search that would never end
    try:
        with pytest.raises(DataError, match="crumbs"):
            stream.batch(0)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("settings", [{"rows": 0}, {"length": 31}])
def test_impossible_batches_are_refused(source: Source, tokenizer: BilingualTokenizer, settings: Any) -> None:
    with pytest.raises(OptionError):
        stream_of(source, tokenizer, **settings)


def test_streams_need_sources_of_some_weight(source: Source, tokenizer: BilingualTokenizer) -> None:
    maker = SampleMaker(tokenizer, Objectives())
    with pytest.raises(DataError):
        BatchStream([], maker, rows=1, length=64)
    with pytest.raises(OptionError, match="weight"):
        BatchStream([Source("none", source.shard, 0.0)], maker, rows=1, length=64)


def test_losses_of_a_batch_are_those_of_the_logits(
    source: Source, tokenizer: BilingualTokenizer, tiny_model: GLMModel
) -> None:
    from openglm.attention import dense_mask

    batch = stream_of(source, tokenizer, length=64).batch(0)
    total, losses, objectives = forward_losses(tiny_model, batch, "fp32")
    arrays = batch.batch
    mask = dense_mask(torch.from_numpy(arrays.documents), torch.from_numpy(arrays.in_part_a))
    logits = tiny_model(torch.from_numpy(arrays.input_ids), torch.from_numpy(arrays.position_ids), mask)
    chosen = torch.from_numpy(arrays.loss_mask)
    expected = F.cross_entropy(logits[chosen], torch.from_numpy(arrays.targets)[chosen], reduction="none")
    torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(total, expected.sum(), rtol=1e-4, atol=1e-3)
    assert objectives.tolist() == batch.objectives[arrays.loss_mask].tolist()


# --- recipes and schedules -----------------------------------------------------------


def recipe_values(tokenizer: BilingualTokenizer, **run: Any) -> dict[str, Any]:
    return {
        "model": {
            "num_layers": 2,
            "hidden_size": 32,
            "num_attention_heads": 4,
            "vocab_size": 640,
            "max_sequence_length": 64,
        },
        "optimizer": {"learning_rate": 0.003},
        "run": {
            "steps": 6,
            "stages": [{"share": 0.5, "rows": 2, "length": 48}, {"share": 0.5, "rows": 2, "length": 64}],
            "precision": "fp32",
            "log_every": 1,
            "evaluate_every": 2,
            "save_every": 100,
            "evaluation_rows": 2,
            **run,
        },
    }


@pytest.mark.parametrize(
    ("section", "key", "hint"),
    [
        ("run", "step", "steps"),
        ("optimizer", "learning_rat", "learning_rate"),
        ("objectives", "tokens", "token"),
        ("model", "hiden_size", "hidden_size"),
        (None, "optimiser", "optimizer"),
    ],
)
def test_unknown_keys_are_refused(tokenizer: BilingualTokenizer, section: str | None, key: str, hint: str) -> None:
    values = recipe_values(tokenizer)
    target = values if section is None else values.setdefault(section, {})
    target[key] = 1
    with pytest.raises(OpenGLMError, match=f"'{key}'.*{hint}") as caught:
        Recipe.from_dict(values)
    assert f"'{hint}'" in str(caught.value)


def test_recipe_round_trip(tokenizer: BilingualTokenizer, tmp_path: Path) -> None:
    recipe = Recipe.from_dict(recipe_values(tokenizer))
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(json.loads(json.dumps(recipe.to_dict()))), encoding="utf-8")
    assert Recipe.read(path) == recipe


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
        {"precision": "fp8"},
        {"stages": [{"share": 0.5, "rows": 1, "length": 64}]},
        {"stages": [{"share": 1.0, "rows": 1, "lenght": 64}]},
        {"stages": [{"share": 1.0, "rows": 1}]},
        {"stages": [3]},
        {"accumulate": 0},
        {"log_every": 0},
        {"evaluate_every": 0},
        {"save_every": -1},
        {"evaluation_rows": 0},
    ],
)
def test_impossible_runs_are_refused(tokenizer: BilingualTokenizer, run: dict[str, Any]) -> None:
    with pytest.raises(TrainingError):
        Recipe.from_dict(recipe_values(tokenizer, **run))


def test_stages_follow_each_other(tokenizer: BilingualTokenizer) -> None:
    run = Recipe.from_dict(recipe_values(tokenizer)).run
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


# --- runs ----------------------------------------------------------------------------


def trainer_for(
    values: dict[str, Any], tokenizer: BilingualTokenizer, source: Source, output: Path, *, valid: bool = False
) -> Trainer:
    return Trainer(Recipe.from_dict(values), tokenizer, [source], [source] if valid else [], output)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_resumed_run_is_the_run_that_never_stopped(
    tokenizer: BilingualTokenizer, source: Source, tmp_path: Path, optimizer: str
) -> None:
    """With dropout, warmup, two stages, accumulation and a validation in between."""
    values = recipe_values(tokenizer, accumulate=2)
    values["optimizer"]["name"] = optimizer
    whole = trainer_for(values, tokenizer, source, tmp_path / "whole")
    assert whole.run()

    first = trainer_for(values, tokenizer, source, tmp_path / "parts", valid=True)
    assert not first.run(stop_at=3)
    assert first.done == 3
    half = {name: tensor.clone() for name, tensor in first.model.state_dict().items()}
    torch.manual_seed(12345)
    torch.rand(7)
    second = trainer_for(values, tokenizer, source, tmp_path / "parts", valid=True)
    assert second.run()

    assert second.done == whole.done == 6
    assert second.tokens_seen == whole.tokens_seen > 0
    for name, expected in whole.model.state_dict().items():
        assert torch.equal(second.model.state_dict()[name], expected), name
    assert any(not torch.equal(half[name], tensor) for name, tensor in second.model.state_dict().items())

    losses = {
        part: [entry["loss"] for entry in map(json.loads, log.read_text().splitlines()) if "loss" in entry]
        for part in ("whole", "parts")
        if (log := tmp_path / part / "log.jsonl").exists()
    }
    assert len(losses["whole"]) == 6
    assert losses["parts"] == losses["whole"]


def test_finished_run_leaves_a_model(tokenizer: BilingualTokenizer, source: Source, tmp_path: Path) -> None:
    trainer = trainer_for(recipe_values(tokenizer, steps=2), tokenizer, source, tmp_path)
    assert trainer.run()
    model = load_model(tmp_path / "model")
    for name, expected in trainer.model.state_dict().items():
        assert torch.equal(model.state_dict()[name], expected.bfloat16().float()), name
    assert load_tokenizer(tmp_path / "model").identity == tokenizer.identity
    # Asked again, the run has nothing left to do and changes nothing.
    again = trainer_for(recipe_values(tokenizer, steps=2), tokenizer, source, tmp_path)
    assert again.run()
    assert again.done == 2


def test_loss_goes_down(tmp_path: Path, tokenizer: BilingualTokenizer, text_lines: list[str]) -> None:
    path = tmp_path / "text.txt"
    path.write_text("\n\n".join([" ".join(text_lines[:2])] * 8), encoding="utf-8")
    prepare([path], tokenizer, tmp_path / "shard")
    repeated = Source("repeated", Shard.open(tmp_path / "shard", tokenizer), 1.0)
    values = recipe_values(tokenizer, steps=30, stages=[{"share": 1.0, "rows": 4, "length": 64}])
    values["optimizer"] |= {"learning_rate": 0.01, "schedule": "constant"}
    trainer = trainer_for(values, tokenizer, repeated, tmp_path / "run")
    before = validation_losses(trainer.model, tokenizer, [repeated], rows=4, length=64, precision="fp32")
    assert trainer.run()
    after = validation_losses(trainer.model, tokenizer, [repeated], rows=4, length=64, precision="fp32")
    assert set(before) == {f"repeated/{name}" for name in OBJECTIVE_NAMES}
    for name, loss in before.items():
        assert loss == pytest.approx(math.log(640), abs=0.5), "a fresh model knows nothing"
        assert after[name] < loss - 1.5, name
    logged = [json.loads(line)["loss"] for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert np.mean(logged[-5:]) < np.mean(logged[:5]) - 1.5


def test_validation_changes_nothing(tokenizer: BilingualTokenizer, source: Source, tiny_config: Any) -> None:
    model = GLMModel(tiny_config).train()
    state = torch.get_rng_state()
    first, second = (
        validation_losses(model, tokenizer, [source], rows=2, length=64, precision="fp32") for _ in range(2)
    )
    assert first == second
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_run_saves_and_resumes(
    tokenizer: BilingualTokenizer, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    values = recipe_values(tokenizer)
    whole = trainer_for(values, tokenizer, source, tmp_path / "whole")
    whole.run()
    interrupted = trainer_for(values, tokenizer, source, tmp_path / "parts")
    update = interrupted._update

    def update_and_signal() -> dict[str, float]:
        if interrupted.done == 1:
            os.kill(os.getpid(), number)
        return update()

    monkeypatch.setattr(interrupted, "_update", update_and_signal)
    handler = signal.getsignal(number)
    assert not interrupted.run()
    assert signal.getsignal(number) == handler
    assert interrupted.done == 2
    assert [step for step, _ in states(tmp_path / "parts")] == [2]
    resumed = trainer_for(values, tokenizer, source, tmp_path / "parts")
    assert resumed.run()
    for name, expected in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], expected), name


def test_vocabulary_and_context_must_fit(tokenizer: BilingualTokenizer, source: Source, tmp_path: Path) -> None:
    values = recipe_values(tokenizer)
    values["model"]["vocab_size"] = 512
    with pytest.raises(TrainingError, match="640"):
        trainer_for(values, tokenizer, source, tmp_path)
    values = recipe_values(tokenizer)
    values["model"]["max_sequence_length"] = 32
    with pytest.raises(TrainingError, match="max_sequence_length 32"):
        trainer_for(values, tokenizer, source, tmp_path)


def test_endless_bad_gradients_stop_the_run(tokenizer: BilingualTokenizer, source: Source, tmp_path: Path) -> None:
    """One such update is skipped and leaves the weights alone; many in a row are an error."""
    trainer = trainer_for(recipe_values(tokenizer, steps=100), tokenizer, source, tmp_path)
    with torch.no_grad():
        trainer.model.transformer.final_layernorm.weight[0] = math.nan
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    with pytest.raises(TrainingError, match="not finite"):
        trainer.run()
    for name, tensor in trainer.model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0, equal_nan=True)


# --- states --------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path: Path, tiny_config: Any) -> tuple[Path, GLMModel, list[torch.optim.Optimizer]]:
    model = GLMModel(tiny_config)
    optimizers = build_optimizers(model, OptimizerOptions())
    save_state(tmp_path, 5, model, optimizers, {"tokens_seen": 9})
    return tmp_path, model, optimizers


def test_state_round_trip(saved: tuple[Path, GLMModel, list[torch.optim.Optimizer]], tiny_config: Any) -> None:
    folder, model, _ = saved
    expected_random = torch.rand(3)
    other = GLMModel(tiny_config)
    assert load_state(folder, other, build_optimizers(other, OptimizerOptions())) == (5, {"tokens_seen": 9})
    assert torch.equal(torch.rand(3), expected_random)
    for name, tensor in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor)


def test_no_state_is_no_error(tmp_path: Path, tiny_model: GLMModel) -> None:
    assert load_state(tmp_path, tiny_model, []) is None


@pytest.mark.parametrize("kept", [0, 100, 0.5, 0.99])
def test_truncated_state_is_refused(saved: tuple[Path, GLMModel, list[torch.optim.Optimizer]], kept: float) -> None:
    folder, model, optimizers = saved
    path = states(folder)[0][1]
    content = path.read_bytes()
    path.write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
    with pytest.raises(TrainingError, match=path.name):
        load_state(folder, model, optimizers)


def test_state_of_another_model_is_refused(
    saved: tuple[Path, GLMModel, list[torch.optim.Optimizer]], tiny_config: Any
) -> None:
    import dataclasses

    other = GLMModel(dataclasses.replace(tiny_config, num_layers=3))
    with pytest.raises(TrainingError, match="state-"):
        load_state(saved[0], other, build_optimizers(other, OptimizerOptions()))


def test_state_with_code_in_it_is_refused(tmp_path: Path, tiny_model: GLMModel) -> None:
    import pickle

    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "exploded",))

    (tmp_path / "state-00000001.pt").write_bytes(pickle.dumps(Bomb(), protocol=2))
    with pytest.raises(TrainingError):
        load_state(tmp_path, tiny_model, [])
    assert not (tmp_path / "exploded").exists()


def test_old_states_are_removed(saved: tuple[Path, GLMModel, list[torch.optim.Optimizer]]) -> None:
    folder, model, optimizers = saved
    for step in (6, 7, 100):
        save_state(folder, step, model, optimizers, {"tokens_seen": step})
    assert [step for step, _ in states(folder)] == [100, 7][:KEEP]
    assert len(list(folder.iterdir())) == KEEP, "nothing else is left behind"


def test_new_rates_win_over_saved_ones(
    saved: tuple[Path, GLMModel, list[torch.optim.Optimizer]], tiny_config: Any
) -> None:
    other = GLMModel(tiny_config)
    optimizers = build_optimizers(other, OptimizerOptions(learning_rate=0.5))
    load_state(saved[0], other, optimizers)
    assert {group["peak_lr"] for optimizer in optimizers for group in optimizer.param_groups} == {0.5}
