"""The loop in one process: what an update is, what stops it, what a run leaves behind."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from openglm.checkpoints.native import load_model
from openglm.data.shards import Shard
from openglm.data.stream import OBJECTIVE_NAMES, Source
from openglm.errors import TrainingError
from openglm.network.model import GLMModel
from openglm.pretraining.evaluate import Evaluator, validation_losses
from openglm.pretraining.pretrainer import Trainer, notes_on
from openglm.pretraining.recipe import Recipe
from openglm.tokenizer import BilingualTokenizer, load_tokenizer
from openglm.training.guard import IN_A_ROW
from openglm.training.loop import compile_layers, dropout_seed
from openglm.training.parallel import Processes
from openglm.training.state import states
from openglm.training.step import LossModule

from .runs import logged, recipe_values, trainer_for

pytestmark = pytest.mark.usefixtures("no_curves")


def test_a_finished_run_leaves_a_model(tokenizer: BilingualTokenizer, source: Source, tmp_path: Path) -> None:
    trainer = trainer_for(recipe_values(steps=2), tokenizer, source, tmp_path, valid=True)
    assert trainer.run()
    model = load_model(tmp_path / "model")
    for name, expected in trainer.model.state_dict().items():
        assert torch.equal(model.state_dict()[name], expected.bfloat16().float()), name
    assert load_tokenizer(tmp_path / "model").identity == tokenizer.identity
    log = logged(tmp_path)
    assert [entry["step"] for entry in log if "loss" in entry] == [1, 2]
    [validation] = [entry for entry in log if "validation" in entry]
    assert validation["validation"].keys() == validation["validation_without_ends"].keys()
    assert validation["validation"] != validation["validation_without_ends"]
    assert [entry for entry in log if "fills" in entry]
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert f"{validation['validation']['text/token']:.4f}" in card
    assert f"{trainer.tokens_seen:,} tokens" in card
    # Asked again, the run has nothing left to do and changes nothing.
    again = trainer_for(recipe_values(steps=2), tokenizer, source, tmp_path, valid=True)
    assert again.run()
    assert again.done == 2
    assert logged(tmp_path) == log
    assert (tmp_path / "model" / "README.md").read_text(encoding="utf-8") == card


def test_loss_goes_down(tmp_path: Path, tokenizer: BilingualTokenizer, text_lines: list[str]) -> None:
    ids = np.array(tokenizer.encode(" ".join(text_lines[:2])))
    repeated = Source("repeated", Shard.from_documents([ids] * 8, tokenizer), 1.0)
    values = recipe_values(steps=30, stages=[{"share": 1.0, "rows": 4, "length": 64}])
    values["optimizer"] |= {"learning_rate": 0.01, "schedule": "constant"}
    trainer = trainer_for(values, tokenizer, repeated, tmp_path / "run")
    before = validation_losses(trainer.model, tokenizer, [repeated], rows=4, length=64, precision="fp32")
    assert trainer.run()
    after = validation_losses(trainer.model, tokenizer, [repeated], rows=4, length=64, precision="fp32")
    assert set(before) == {f"repeated/{name}" for name in OBJECTIVE_NAMES}
    for name, loss in before.items():
        assert loss == pytest.approx(math.log(640), abs=0.5), "a fresh model knows nothing"
        assert after[name] < loss - 1.5, name
    losses = [entry["loss"] for entry in logged(tmp_path / "run")]
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 1.5


def test_an_update_is_that_of_the_mean_loss(tokenizer: BilingualTokenizer, source: Source, tmp_path: Path) -> None:
    """The gradient of all micro-batches together, computed here the plain way."""
    values = recipe_values(steps=1, accumulate=3)
    values["optimizer"] |= {"clip": 1e9, "schedule": "constant", "warmup": 0.0}
    trainer = trainer_for(values, tokenizer, source, tmp_path)
    model = GLMModel(trainer.recipe.model).train()
    model.load_state_dict(trainer.model.state_dict())
    module, batches = LossModule(model, "fp32"), [trainer.batches(number) for number in range(3)]
    totals = []
    for number, batch in enumerate(batches):
        torch.manual_seed(dropout_seed(1, number))
        totals.append(module(batch)[0])
    loss = sum(totals) / sum(sum(batch.counts) for batch in batches)
    loss.backward()
    norm = math.sqrt(sum(float(p.grad.square().sum()) for p in model.parameters() if p.grad is not None))
    assert trainer.run()
    [entry] = logged(tmp_path)
    assert entry["loss"] == pytest.approx(loss.item(), rel=1e-6)
    assert entry["norm"] == pytest.approx(norm, rel=1e-5)
    assert entry["targets"] == sum(sum(batch.counts) for batch in batches)
    assert entry["tokens_seen"] == sum(batch.tokens for batch in batches)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_checkpointing_activations_changes_no_gradient(tiny_config: Any, stream_batch: Any, dropout: float) -> None:
    import dataclasses

    names = ("embedding_dropout_prob", "attention_dropout_prob", "output_dropout_prob")
    model = GLMModel(dataclasses.replace(tiny_config, **dict.fromkeys(names, dropout))).train()
    gradients = []
    for checkpointing in (False, True):
        model.transformer.activation_checkpointing = checkpointing
        model.zero_grad()
        torch.manual_seed(7)
        LossModule(model, "fp32")(stream_batch)[0].backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert len(gradients[0]) == len(list(model.parameters()))
    for name, expected in gradients[0].items():
        assert torch.equal(gradients[1][name], expected), name


@pytest.fixture
def stream_batch(tokenizer: BilingualTokenizer, source: Source, tmp_path: Path) -> Any:
    return trainer_for(recipe_values(), tokenizer, source, tmp_path).batches(0)


def test_checkpointing_keeps_less(tiny_config: Any, stream_batch: Any) -> None:
    """It does what it is for: fewer bytes wait for the backward pass."""
    model = GLMModel(tiny_config).train()
    kept = []
    for checkpointing in (False, True):
        model.transformer.activation_checkpointing = checkpointing
        sizes: list[int] = []

        def keep(tensor: torch.Tensor, sizes: list[int] = sizes) -> torch.Tensor:
            sizes.append(tensor.numel() * tensor.element_size())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            total, _ = LossModule(model, "fp32")(stream_batch)
        kept.append(sum(sizes))
        del total
    assert kept[1] < kept[0] / 2


@pytest.mark.slow
def test_compiled_layers_give_the_same(tiny_config: Any, stream_batch: Any) -> None:
    """One compilation for all layers, since they are alike."""
    import dataclasses

    names = ("embedding_dropout_prob", "attention_dropout_prob", "output_dropout_prob")
    config = dataclasses.replace(tiny_config, num_layers=3, **dict.fromkeys(names, 0.0))
    model = GLMModel(config).train()
    module, gradients = LossModule(model, "fp32"), []
    for compiled in (False, True):
        if compiled:
            torch._dynamo.reset()
            torch._dynamo.utils.counters.clear()
            compile_layers(model.transformer.layers)
        model.zero_grad()
        module(stream_batch)[0].backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert not torch._dynamo.utils.counters["graph_break"]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("change", [{"vocab_size": 512}, {"max_sequence_length": 32}])
def test_vocabulary_and_context_must_fit(
    tokenizer: BilingualTokenizer, source: Source, tmp_path: Path, change: dict[str, int]
) -> None:
    values = recipe_values()
    values["model"] |= change
    with pytest.raises(TrainingError, match="640" if "vocab_size" in change else "max_sequence_length 32"):
        trainer_for(values, tokenizer, source, tmp_path)
    assert not list(tmp_path.iterdir())


def test_batches_must_be_shared_out_evenly(tokenizer: BilingualTokenizer, source: Source, tmp_path: Path) -> None:
    four = Processes(torch.device("cpu"), rank=1, count=4)
    with pytest.raises(TrainingError, match=r"set run\.accumulate to 8"):
        trainer_for(recipe_values(accumulate=6), tokenizer, source, tmp_path, processes=four)


# --- what goes wrong -------------------------------------------------------------------


def weights_of(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}


def test_endless_bad_gradients_stop_the_run(tokenizer: BilingualTokenizer, source: Source, tmp_path: Path) -> None:
    """One such update is left out and leaves the weights alone; many in a row are an error."""
    trainer = trainer_for(recipe_values(steps=100, save_every=3), tokenizer, source, tmp_path)
    with torch.no_grad():
        trainer.model.transformer.final_layernorm.weight[0] = math.nan
    before = weights_of(trainer)
    with pytest.raises(TrainingError, match=f"updates 1 to {IN_A_ROW} .*finite.*no state yet"):
        trainer.run()
    for name, tensor in trainer.model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0, equal_nan=True)
    assert not states(tmp_path), "broken weights are not saved"
    notes = [entry for entry in logged(tmp_path) if entry.get("note") == "skipped"]
    assert [entry["step"] for entry in notes] == list(range(1, IN_A_ROW + 1))


class Spoilt(nn.Module):
    """A module whose loss is made larger in chosen calls."""

    def __init__(self, inner: nn.Module, calls: set[int]) -> None:
        super().__init__()
        self.inner, self.calls, self.number = inner, calls, 0

    def forward(self, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        total, sums = self.inner(batch)
        self.number += 1
        factor = 5.0 if self.number in self.calls else 1.0
        return factor * total, factor * sums


def test_a_spike_is_left_out(
    tokenizer: BilingualTokenizer, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("openglm.training.guard.WINDOW", 4)
    spoilt = lambda *args, **options: Spoilt(LossModule(*args, **options), {6})  # noqa: E731
    monkeypatch.setattr("openglm.pretraining.pretrainer.LossModule", spoilt)
    weights: list[dict[str, torch.Tensor]] = []
    trainer = trainer_for(recipe_values(steps=8, log_every=2), tokenizer, source, tmp_path)
    original = trainer.loop._update

    def update(batches: Any, size: Any) -> None:
        sixth = trainer.done == 5
        if sixth:
            weights.append(weights_of(trainer))
        original(batches, size)
        if sixth:
            weights.append(weights_of(trainer))

    monkeypatch.setattr(trainer.loop, "_update", update)
    assert trainer.run()
    before, after = weights
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    [note] = [entry for entry in logged(tmp_path) if entry.get("note") == "skipped"]
    assert note["step"] == 6
    entry = next(entry for entry in logged(tmp_path) if "loss" in entry and entry["step"] == 6)
    assert entry["skipped"] == 1
    assert entry["loss"] < 8, "the loss of the update that was left out is not in the mean"


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried ..."),
        MemoryError(),
    ],
)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_batch_that_does_not_fit(
    tokenizer: BilingualTokenizer,
    source: Source,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    checkpointing: bool,
) -> None:
    values = recipe_values(accumulate=4, activation_checkpointing=checkpointing)
    trainer = trainer_for(values, tokenizer, source, tmp_path)

    def fail(batch: Any) -> Any:
        raise error

    monkeypatch.setattr(trainer.module, "forward", fail)
    with pytest.raises(TrainingError) as caught:
        trainer.run()
    for part in ("update 1", "2 rows of 48 tokens", "run.accumulate to 8", "cpu"):
        assert part in str(caught.value)
    assert ("run.activation_checkpointing to true" in str(caught.value)) is not checkpointing


def test_choices_that_do_not_go_together_are_noted() -> None:
    """Only where it matters: FlexAttention and fast bf16 are a GPU's."""
    recipe = Recipe.from_dict(recipe_values())
    assert not notes_on(recipe, torch.device("cpu"))
    notes = notes_on(recipe, torch.device("cuda"))
    assert ["attention_dropout_prob" in note for note in notes] == [True, False]
    assert ["precision" in note for note in notes] == [False, True]
    values = recipe_values(precision="bf16")
    values["model"]["attention_dropout_prob"] = 0.0
    assert not notes_on(Recipe.from_dict(values), torch.device("cuda"))


def test_other_errors_stay_what_they_are(
    tokenizer: BilingualTokenizer, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_for(recipe_values(), tokenizer, source, tmp_path)

    def fail(batch: Any) -> Any:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(trainer.module, "forward", fail)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        trainer.run()


def test_the_time_given_ends_the_run(tokenizer: BilingualTokenizer, source: Source, tmp_path: Path) -> None:
    trainer = trainer_for(recipe_values(steps=1_000_000, log_every=1000), tokenizer, source, tmp_path)
    assert not trainer.run(max_seconds=0.5)
    assert 0 < trainer.done < 1_000_000
    assert [step for step, _ in states(tmp_path)] == [trainer.done]
    late = trainer_for(recipe_values(steps=1_000_000, log_every=1000), tokenizer, source, tmp_path)
    assert not late.run(max_seconds=1e-9)
    assert late.done == trainer.done


# --- validation --------------------------------------------------------------------------


def test_validation_changes_nothing(tokenizer: BilingualTokenizer, source: Source, tiny_config: Any) -> None:
    model = GLMModel(tiny_config).train()
    state = torch.get_rng_state()
    first, second = (
        validation_losses(model, tokenizer, [source], rows=2, length=64, precision="fp32") for _ in range(2)
    )
    assert first == second
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)


def test_processes_share_out_validation(tokenizer: BilingualTokenizer, source: Source, tiny_model: GLMModel) -> None:
    """However many there are, together they have the losses of one; all make as many passes."""
    module = LossModule(tiny_model, "fp32").eval()
    sources = [source, Source("other", source.shard.split(10)[1], 1.0)]  # type: ignore[attr-defined]
    alone = Evaluator(tokenizer, sources, Processes(torch.device("cpu")), rows=1, length=64).losses(module)
    assert len(alone.losses) == 6

    class Recorded(Processes):
        def sum(self, values: Any) -> list[float]:
            received.append(list(values))
            return [float(value) for value in values]

    for count in (4, 8):
        received: list[list[float]] = []
        passes = []
        for rank in range(count):
            evaluator = Evaluator(tokenizer, sources, Recorded(torch.device("cpu"), rank, count), rows=1, length=64)
            evaluator.losses(module)
            passes.append(len(evaluator._mine))
        assert len(set(passes)) == 1
        totals = np.sum(received, axis=0).reshape(-1, 4)
        for (name, loss), (a, b, c, d) in zip(alone.losses.items(), totals, strict=True):
            assert (a + c) / (b + d) == pytest.approx(loss, rel=1e-6), name
            assert a / b == pytest.approx(alone.without_ends[name], rel=1e-6), name


def test_the_log_is_json(tokenizer: BilingualTokenizer, source: Source, tmp_path: Path) -> None:
    trainer_for(recipe_values(steps=2), tokenizer, source, tmp_path).run()
    for line in (tmp_path / "log.jsonl").read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        assert {"step", "loss", "lr", "norm", "targets", "tokens_per_second", "tokens_seen"} <= entry.keys()
