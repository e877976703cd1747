"""What `training_step.py` compares: openglm and BERT in transformers, each as something that trains.

Makes the models, their optimizers and their batches, and counts operations; knows nothing
about clocks, memory or tables.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import openglm
from openglm import GLMConfig, GLMModel
from openglm.batches import Arrays, Batch
from openglm.data.samples import SampleMaker
from openglm.data.spans import Objectives
from openglm.data.stream import BatchStream, Source
from openglm.tensors import to_tensors
from openglm.tokenizer import load_tokenizer
from openglm.training.loop import compile_layers
from openglm.training.optim import OptimizerOptions, build_optimizers, clip_gradients
from openglm.training.options import PRECISIONS
from openglm.training.peak import training_flops
from openglm.training.step import LossModule
from sampler import random_corpus

OURS, PEER = "openglm", "transformers BertForMaskedLM"
OBJECTIVES = {"token": Objectives().only("token"), "mixture": Objectives()}
ADAMW = OptimizerOptions(name="adamw")
MASKED = 0.15  # of the peer's tokens
VOCABULARY = Path(openglm.__file__).parent / "default_model"  # models here have at least as many rows


@dataclass(frozen=True)
class Settings:
    """One configuration of model, batch and machine."""

    config: GLMConfig
    rows: int
    length: int
    objective: str
    device: str
    threads: int
    compiled: bool

    @property
    def positions(self) -> int:
        """Of one batch."""
        return self.rows * self.length

    @property
    def smallest(self) -> Settings:
        """The same with a model and batch that cost little, to load what is only loaded on first use."""
        config = replace(self.config, num_layers=1, hidden_size=64, num_attention_heads=4)
        return replace(self, config=config, rows=1, length=64)


@dataclass(frozen=True)
class Contestant:
    """Something that trains.

    Attributes:
        model: for its parameters.
        step: trains in a precision ("fp32" or "bf16") on batch number i.
        operations: of a step on batch number i.
    """

    model: nn.Module
    step: Callable[[str, int], object]
    operations: Callable[[int], float]


def packed_batches(settings: Settings, count: int) -> list[Batch[Arrays]]:
    """Batches of openglm's own sampler, over documents of random ids."""
    tokenizer = load_tokenizer(VOCABULARY)
    source = Source("random", random_corpus(tokenizer, documents=400), 1.0)
    maker = SampleMaker(tokenizer, OBJECTIVES[settings.objective])
    stream = BatchStream([source], maker, rows=settings.rows, length=settings.length)
    return [stream.batch(number) for number in range(count)]


def masked_batches(settings: Settings, count: int) -> list[tuple[Tensor, Tensor]]:
    """Ids of which some are the last id instead, and labels (-100 where nothing was replaced), [B, S] each."""
    rng, last = np.random.default_rng(0), settings.config.vocab_size - 1
    batches = []
    for _ in range(count):
        ids = rng.integers(0, last, (settings.rows, settings.length))
        hidden = rng.random(ids.shape) < MASKED
        arrays = np.where(hidden, last, ids), np.where(hidden, ids, -100)
        batches.append((torch.from_numpy(arrays[0]), torch.from_numpy(arrays[1])))
    return batches


def build_openglm(settings: Settings, count: int, checkpointing: bool = False) -> Contestant:
    """openglm, trained by the parts of its own loop, with `count` batches."""
    config, device = settings.config, torch.device(settings.device)
    model = GLMModel(config).to(device).train()
    model.transformer.activation_checkpointing = checkpointing
    if settings.compiled:
        compile_layers(list(model.transformer.layers))
    optimizers = build_optimizers(model, ADAMW, fused=settings.compiled)
    losses = {precision: LossModule(model, precision, compile=settings.compiled) for precision in PRECISIONS}
    batches = [to_tensors(batch) for batch in packed_batches(settings, count)]
    if device.type == "cuda":
        batches = [batch.pin_memory() for batch in batches]

    def step(precision: str, number: int) -> None:
        batch = batches[number]
        total, _ = losses[precision](batch.to(device))
        (total / sum(batch.counts)).backward()
        clip_gradients(model.parameters(), ADAMW.clip)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def operations(number: int) -> float:
        share = sum(batches[number].counts) / settings.positions
        return settings.positions * training_flops(config, settings.length, share)

    return Contestant(model, step, operations)


def build_peer(settings: Settings, count: int, checkpointing: bool = False) -> Contestant:
    """BERT in transformers, with `count` batches and the optimizer that its trainer takes by default."""
    transformers = importlib.import_module("transformers")
    config, device = settings.config, settings.device
    shape = transformers.BertConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_attention_heads,
        intermediate_size=4 * config.hidden_size,
        max_position_embeddings=settings.length,
        hidden_dropout_prob=config.output_dropout_prob,
        attention_probs_dropout_prob=config.attention_dropout_prob,
        use_cache=False,
    )
    model = transformers.BertForMaskedLM(shape).to(device).train()
    if checkpointing and hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable()
    elif checkpointing:  # as older versions call it
        model.gradient_checkpointing_enable()
    if settings.compiled:
        compile_layers(list(model.bert.encoder.layer))
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=ADAMW.learning_rate,
        betas=ADAMW.betas,
        eps=ADAMW.epsilon,
        weight_decay=ADAMW.weight_decay,
        fused=True,
    )
    batches = masked_batches(settings, count)
    if device == "cuda":
        batches = [(ids.pin_memory(), labels.pin_memory()) for ids, labels in batches]

    def step(precision: str, number: int) -> None:
        ids, labels = (tensor.to(device, non_blocking=True) for tensor in batches[number])
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), ADAMW.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def operations(number: int) -> float:
        # Logits of every position, and in front of them one more square matrix.
        per_position = training_flops(config, settings.length, 1.0) + 6.0 * config.hidden_size**2
        return settings.positions * per_position

    return Contestant(model, step, operations)


BUILD = {OURS: build_openglm, PEER: build_peer}


def missing_peer() -> str:
    """Why there is no peer; empty if there is one."""
    try:
        importlib.import_module("transformers").BertForMaskedLM  # noqa: B018 (only now is it imported)
    except ImportError as error:
        return f"{PEER}: transformers cannot be imported ({error}); install it with pip install '.[benchmarks]'"
    return ""
