"""The model folder of a pretraining run: weights, vocabulary, curves and a card.

Made of a finished run, of one that was stopped on the way, or of a state on disk alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..checkpoints.native import save_model
from ..errors import OpenGLMError, TrainingError
from ..network.model import GLMModel
from ..reporting.card import describe_environment, write_card
from ..reporting.curves import draw_curves
from ..reporting.report import LOG_FILE, read_log
from ..tokenizer import Tokenizer
from ..training.parallel import Processes
from ..training.state import load_state
from .recipe import Recipe

MODEL_FOLDER, CURVES_FILE = "model", "curves.png"


@dataclass(frozen=True)
class RunFacts:
    """What a card says about a run.

    Attributes:
        steps, tokens_seen: updates made, and positions that held a token in them.
        data: a mapping per source, see `reporting.card`.
        device: that trained.
        processes: that trained together.
    """

    steps: int
    tokens_seen: int
    data: Sequence[Mapping[str, Any]]
    device: torch.device
    processes: int = 1


def leave_model(run: Path, model: GLMModel, recipe: Recipe, tokenizer: Tokenizer, facts: RunFacts) -> str:
    """Write `model/` of a run folder, in place of an earlier one; returns why there are no curves, or "".

    Args:
        run: folder of the run.
        model: with all its weights.
    """
    folder, log, curves = run / MODEL_FOLDER, run / LOG_FILE, run / CURVES_FILE
    save_model(folder, model, tokenizer, dtype=torch.bfloat16)
    problem = "" if log.exists() else "there is no log yet"
    try:
        if not problem:
            draw_curves(log, curves, title=run.resolve().name)
    except OpenGLMError as error:  # no matplotlib, or a run without losses
        problem = str(error)
    entries = read_log(log) if log.exists() else []
    validated = [entry["validation"] for entry in entries if isinstance(entry.get("validation"), dict)]
    write_card(
        folder,
        recipe=recipe.to_dict(),
        data=facts.data,
        validation=validated[-1] if validated else {},
        steps=facts.steps,
        tokens_seen=facts.tokens_seen,
        parameters=recipe.model.num_parameters,
        curves=curves if curves.exists() else None,
        environment=describe_environment(facts.device, recipe.run.precision, processes=facts.processes),
        name=run.resolve().name,
        blanks=recipe.model.blanks,
    )
    return problem


def export_state(run: Path, recipe: Recipe, tokenizer: Tokenizer) -> int:
    """Write `model/` from the newest state of a run, without its data; returns the updates it has made.

    Args:
        run: folder of the run, which may be going on elsewhere.
        recipe: that the run was begun with; only its model must be the same.

    Raises:
        TrainingError: no state there that can be read, or one of another model.
    """
    model = GLMModel(recipe.model)
    alone = Processes(torch.device("cpu"))
    found = load_state(run, model, (), alone, set_aside=False)
    if found is None:
        raise TrainingError(f"{run}: there is no state to make a model of; train first, or give another --output")
    _, meta = found
    facts = RunFacts(int(meta["step"]), int(meta["tokens_seen"]), (), alone.device)
    leave_model(run, model.eval(), recipe, tokenizer, facts)
    return facts.steps
