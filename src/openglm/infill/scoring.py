"""Log-probabilities of given fills: one forward pass over Part A and the answers.

    log p(answer) = sum over its tokens and the `eop` that closes it   (paper, equation 1)

Answers may have any number of tokens; none is ever cut.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..attention import dense_mask
from ..batches import pad
from ..blanks import Layout
from ..model import GLMModel
from ..tensors import BatchTensors


@torch.inference_mode()
def token_logprobs(
    model: GLMModel, layouts: Sequence[Layout], pad_id: int, *, tokens_at_once: int
) -> list[list[list[float]]]:
    """Log-probability in nats of every Part B target.

    Args:
        layouts: texts with their answers; rows of one batch are padded to the longest.
        tokens_at_once: positions per forward pass, padding included (bounds memory).

    Returns:
        For each layout, for each of its spans in order, the values of its tokens and its end.
    """
    out: list[list[list[float]]] = [[] for _ in layouts]
    order = sorted(range(len(layouts)), key=lambda i: len(layouts[i]))
    while order:
        count = 1
        while count < len(order) and (count + 1) * len(layouts[order[count]]) <= tokens_at_once:
            count += 1
        group, order = order[:count], order[count:]
        for i, values in zip(group, _one_batch(model, [layouts[i] for i in group], pad_id), strict=True):
            out[i] = [values[span].tolist() for span in layouts[i].spans]
    return out


def _one_batch(model: GLMModel, layouts: Sequence[Layout], pad_id: int) -> list[np.ndarray]:
    batch = pad(layouts, pad_id)
    tensors = BatchTensors.of(batch, model.word_embeddings.weight.device)
    mask, chosen = dense_mask(tensors.documents, tensors.in_part_a), tensors.loss_mask
    logits = model(tensors.input_ids, tensors.position_ids, mask, logits_for=chosen).float()
    values = logits.gather(1, tensors.targets[chosen][:, None])[:, 0] - logits.logsumexp(-1)
    sizes = [len(layout) - layout.separator for layout in layouts]
    return np.split(values.cpu().double().numpy(), np.cumsum(sizes)[:-1])
