"""The training loop: batches in, a model folder out; resumes where it stopped.

Every update depends on the recipe, the data and the update's number alone, so a run that
was killed and resumed gives the numbers of one that never stopped.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from ..checkpoints.native import save_model
from ..errors import TrainingError
from ..model import GLMModel
from ..pretraining.spans import SampleMaker
from ..pretraining.stream import OBJECTIVE_NAMES, BatchStream, Source
from ..tokenizer import Tokenizer
from .evaluate import validation_losses
from .initialise import start_from_neighbours
from .optim import build_optimizers, rate_factor, set_rate
from .recipe import Recipe
from .state import load_state, save_state
from .step import forward_losses

SKIPS_ALLOWED = 20  # updates in a row with a non-finite gradient before the run stops


class Trainer:
    """One pretraining run.

    Args:
        recipe: model, objectives, optimizer, run options.
        tokenizer: must fit the model's vocabulary.
        train, valid: prepared corpora.
        output: folder for states, the log `log.jsonl` and the finished model (`model/`).
        device: where to compute.

    Raises:
        TrainingError: the vocabulary does not fit the model, or the batches its context.
    """

    def __init__(
        self,
        recipe: Recipe,
        tokenizer: Tokenizer,
        train: Sequence[Source],
        valid: Sequence[Source],
        output: Path,
        *,
        device: str = "cpu",
    ) -> None:
        if tokenizer.num_tokens > recipe.model.vocab_size:
            raise TrainingError(
                f"the vocabulary has {tokenizer.num_tokens} tokens, the model only {recipe.model.vocab_size} rows; "
                f"set model.vocab_size to {-(-tokenizer.num_tokens // 128) * 128}"
            )
        longest = max(stage.length for stage in recipe.run.stages)
        if longest > recipe.model.max_sequence_length:
            raise TrainingError(
                f"batches of length {longest} exceed model.max_sequence_length {recipe.model.max_sequence_length}"
            )
        self.recipe, self.tokenizer, self.valid, self.output = recipe, tokenizer, list(valid), output
        torch.manual_seed(recipe.run.seed)
        self.model = GLMModel(recipe.model)
        if recipe.run.neighbour_start:
            start_from_neighbours(self.model)
        self.model.to(device)
        self.optimizers = build_optimizers(self.model, recipe.optimizer)
        maker = SampleMaker(tokenizer, recipe.objectives)
        self.streams = {
            stage: BatchStream(
                train,
                maker,
                rows=stage.rows,
                length=stage.length,
                short_probability=recipe.run.short_probability,
                seed=recipe.run.seed,
            )
            for stage in recipe.run.stages
        }
        self.done = 0
        self.tokens_seen = 0
        self._skipped = 0
        self._stop = False

    def run(self, *, stop_at: int | None = None) -> bool:
        """Train to the end of the recipe (or to update `stop_at`); True if it is finished.

        SIGINT and SIGTERM finish the current update, save and return False.
        """
        run = self.recipe.run
        self.output.mkdir(parents=True, exist_ok=True)
        restored = load_state(self.output, self.model, self.optimizers)
        if restored is not None:
            self.done, self.tokens_seen = restored[0], int(restored[1]["tokens_seen"])
        self.model.train()
        end = run.steps if stop_at is None else min(stop_at, run.steps)
        before = {s: signal.signal(s, self._request_stop) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            recent: list[dict[str, float]] = []
            since = time.monotonic()
            while self.done < end and not self._stop:
                recent.append(self._update())
                if self.done % run.log_every == 0 or self.done == end:
                    now = time.monotonic()
                    self._log_training(recent, now - since)
                    recent, since = [], now
                if self.valid and (self.done % run.evaluate_every == 0 or self.done == run.steps):
                    self._log_validation()
                    since = time.monotonic()
                if self.done % run.save_every == 0 or self.done == end:
                    self._save()
            if self._stop:
                self._save()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        finished = self.done >= run.steps
        if finished:
            save_model(self.output / "model", self.model, self.tokenizer, dtype=torch.bfloat16)
        return finished

    def _update(self) -> dict[str, float]:
        run, step = self.recipe.run, self.done
        set_rate(self.optimizers, rate_factor(step, run.steps, self.recipe.optimizer))
        stream = self.streams[run.stage(step)]
        batches = [stream.batch(step * run.accumulate + i) for i in range(run.accumulate)]
        count = sum(int(b.batch.loss_mask.sum()) for b in batches)
        sums = dict.fromkeys(OBJECTIVE_NAMES, 0.0)
        counts = dict.fromkeys(OBJECTIVE_NAMES, 0)
        for batch in batches:
            total, losses, objectives = forward_losses(self.model, batch, run.precision)
            (total / count).backward()  # type: ignore[no-untyped-call]
            for number, name in enumerate(OBJECTIVE_NAMES):
                mine = losses[objectives == number]
                sums[name] += float(mine.sum())
                counts[name] += len(mine)
            self.tokens_seen += int((batch.objectives >= 0).sum())
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.optimizer.clip)
        if torch.isfinite(norm):
            self._skipped = 0
            for optimizer in self.optimizers:
                optimizer.step()
        else:
            self._skipped += 1
            if self._skipped >= SKIPS_ALLOWED:
                raise TrainingError(
                    f"the gradient was not finite for {self._skipped} updates in a row, up to update {step}; "
                    "lower the learning rate and resume from the last state"
                )
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        self.done += 1
        out = {"loss": sum(sums.values()) / max(1, count), "norm": float(norm), "targets": float(count)}
        return out | {f"loss/{n}": sums[n] / counts[n] for n in OBJECTIVE_NAMES if counts[n]}

    def _log_training(self, recent: list[dict[str, float]], seconds: float) -> None:
        keys = {key for entry in recent for key in entry}
        mean = {k: sum(e[k] for e in recent if k in e) / sum(k in e for e in recent) for k in sorted(keys)}
        stage = self.recipe.run.stage(self.done - 1)
        positions = len(recent) * stage.rows * stage.length * self.recipe.run.accumulate
        rate = self.optimizers[0].param_groups[0]["lr"]
        self._log({"step": self.done, "lr": rate, "tokens_per_second": positions / max(seconds, 1e-9), **mean})

    def _log_validation(self) -> None:
        run = self.recipe.run
        length = min(stage.length for stage in run.stages)
        losses = validation_losses(
            self.model, self.tokenizer, self.valid, rows=run.evaluation_rows, length=length, precision=run.precision
        )
        self._log({"step": self.done, "tokens_seen": self.tokens_seen, "validation": losses})

    def _log(self, entry: dict[str, Any]) -> None:
        with (self.output / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(entry) + "\n")
        if "validation" in entry:
            text = "  ".join(f"{k} {v:.3f}" for k, v in entry["validation"].items())
            line = f"update {entry['step']}  validation  {text}"
        else:
            line = (
                f"update {entry['step']}/{self.recipe.run.steps}  loss {entry['loss']:.3f}  lr {entry['lr']:.2e}  "
                f"{entry['tokens_per_second']:,.0f} tokens/s"
            )
        print(line, file=sys.stderr, flush=True)

    def _save(self) -> None:
        save_state(self.output, self.done, self.model, self.optimizers, {"tokens_seen": self.tokens_seen})

    def _request_stop(self, number: int, frame: FrameType | None) -> None:
        self._stop = True
