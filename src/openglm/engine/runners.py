"""The choice of a model runner."""

from __future__ import annotations

from ..network.model import GLMModel
from .model_runner import ModelRunner
from .paged_runner import PagedRunner


def runner_for(model: GLMModel, pad_id: int, *, compile: bool = False) -> ModelRunner:
    """The fastest way to run a model on its device.

    Args:
        pad_id: fills up shorter rows; nobody attends to it.
        compile: compile the network, or the step where sequences are kept in slots.

    Raises:
        OptionError: as `PagedRunner`.
    """
    if model.word_embeddings.weight.device.type == "cpu":
        return PagedRunner(model, pad_id, compile=compile)
    from .slot_runner import SlotRunner

    return SlotRunner(model, pad_id, compile=compile)
