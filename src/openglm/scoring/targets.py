"""What a network says about given targets: their log-probabilities, and whether each was its first choice.

Knows nothing about text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ..batches import group_by_length, pad
from ..errors import OptionError
from ..layouts import Layout
from ..network.attention import dense_mask
from ..network.model import GLMModel
from ..tensors import to_tensors

TOKENS_AT_ONCE = 8192  # positions of a forward pass, padding included: bounds memory
WAITING = 256  # layouts that are sorted by length together

OnDone = Callable[[int], None]  # is told how many more items are done


def target_logprobs(
    model: GLMModel, layouts: Iterable[Layout], pad_id: int, *, tokens_at_once: int = TOKENS_AT_ONCE
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.bool_]]]:
    """For each layout, in order: log-probability in nats and first choice of its scored targets.

    Args:
        layouts: those positions are scored whose `loss_mask` is True; read as they are needed.

    Yields:
        ([n] float64, [n] bool) with n the scored positions of the layout.

    Raises:
        OptionError: the network has a trained prompt, which fits into no window of the full context.
    """
    if model.prompt_ids:
        raise OptionError("this model has a trained prompt; perplexity and last words are measured without one")
    waiting: list[Layout] = []
    for layout in layouts:
        waiting.append(layout)
        if len(waiting) == WAITING:
            yield from _logprobs_of_all(model, waiting, pad_id, tokens_at_once)
            waiting = []
    yield from _logprobs_of_all(model, waiting, pad_id, tokens_at_once)


def _logprobs_of_all(
    model: GLMModel, layouts: Sequence[Layout], pad_id: int, tokens_at_once: int
) -> list[tuple[NDArray[np.float64], NDArray[np.bool_]]]:
    out: dict[int, tuple[NDArray[np.float64], NDArray[np.bool_]]] = {}
    for group in group_by_length([len(layout) for layout in layouts], tokens_at_once):
        out.update(zip(group, _one_batch(model, [layouts[i] for i in group], pad_id), strict=True))
    return [out[i] for i in range(len(layouts))]


@torch.inference_mode()
def _one_batch(
    model: GLMModel, layouts: Sequence[Layout], pad_id: int
) -> list[tuple[NDArray[np.float64], NDArray[np.bool_]]]:
    batch = to_tensors(pad(layouts, pad_id), model.word_embeddings.weight.device)
    mask = dense_mask(batch.documents, batch.in_part_a)
    logits = model(batch.input_ids, batch.position_ids, mask, logits_for=batch.loss_mask).float()
    targets = batch.targets[batch.loss_mask]
    logprobs = logits.gather(1, targets[:, None])[:, 0] - logits.logsumexp(-1)
    first = logits.argmax(-1) == targets
    ends = np.cumsum([int(layout.loss_mask.sum()) for layout in layouts])[:-1]
    return list(zip(np.split(logprobs.cpu().double().numpy(), ends), np.split(first.cpu().numpy(), ends), strict=True))
