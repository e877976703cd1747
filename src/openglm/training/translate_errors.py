"""What goes wrong deep inside an update, said in terms of the recipe.

Knows the errors of torch that a user can do something about; nothing about models.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..errors import TrainingError
from .options import LoopOptions
from .parallel import LOST

# Parts of the messages of plain RuntimeErrors.
NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
NO_COMPILER = ("compiler", "C++ compile", "gcc", "cl is not found")
NO_PEER = ("Connection closed by peer", "Connection reset by peer", "Socket closed", "gloo", "NCCL")


@contextmanager
def translate_errors(update: int, batch: str, device: torch.device, options: LoopOptions) -> Iterator[None]:
    """Turn errors of an update that a user can mend into `TrainingError`s.

    Args:
        update: its number, counted from 1, for the message.
        batch: how large its batches are, in words.
    """
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise TrainingError(_memory(update, batch, device, options)) from error
    except RuntimeError as error:
        text = str(error)
        if any(part in text for part in NO_MEMORY):
            raise TrainingError(_memory(update, batch, device, options)) from error
        if options.compile and type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            first = text.strip().split("\n")[0]
            hint = "it needs a C++ compiler on a CPU; " if any(part in text for part in NO_COMPILER) else ""
            raise TrainingError(f"run.compile: true does not work here ({first}); {hint}set it to false") from error
        if any(part in text for part in NO_PEER):
            raise TrainingError(LOST) from error
        raise


def _memory(update: int, batch: str, device: torch.device, options: LoopOptions) -> str:
    remedies = [
        f"halve the rows of run.stages and set run.accumulate to {2 * options.accumulate} (an update of the same size)"
    ]
    if not options.activation_checkpointing:
        remedies.insert(0, "set run.activation_checkpointing to true (the same update, about a third slower)")
    return (
        f"update {update}: a batch of {batch} does not fit into the memory of {device}; "
        f"{', or '.join(remedies)}, and start the run anew or go on with the same command"
    )
