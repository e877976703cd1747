"""Log-probabilities of given fills: one forward pass over Part A and the answers.

    log p(answer) = sum over its tokens and the `eop` that closes it   (paper, equation 1)

Answers may have any number of tokens; none is ever cut.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..attention import dense_mask
from ..blanks import Ids, Layout, Markers, lay_out, pad
from ..model import GLMModel


def lay_out_answers(part_a: Ids, blank_positions: Ids, answers: Sequence[Sequence[int]], markers: Markers) -> Layout:
    """Part A with one answer per blank, in text order."""
    return lay_out(part_a, blank_positions, [np.array(answer, np.int64) for answer in answers], markers)


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
            begins = np.flatnonzero(layouts[i].block_position_ids[layouts[i].separator :] == 1)[1:]
            out[i] = [part.tolist() for part in np.split(values, begins)]
    return out


def _one_batch(model: GLMModel, layouts: Sequence[Layout], pad_id: int) -> list[np.ndarray]:
    batch = pad(layouts, pad_id)
    device = model.word_embeddings.weight.device
    ids, targets, positions, documents, in_part_a, chosen = (
        torch.from_numpy(array).to(device)
        for array in (
            batch.input_ids,
            batch.targets,
            batch.position_ids,
            batch.documents,
            batch.in_part_a,
            batch.loss_mask,
        )
    )
    if not model.config.block_position_encoding:
        positions = positions[:, 0]
    logits = model(ids, positions, dense_mask(documents, in_part_a), logits_for=chosen).float()
    values = logits.gather(1, targets[chosen][:, None])[:, 0] - logits.logsumexp(-1)
    sizes = [len(layout) - layout.separator for layout in layouts]
    return np.split(values.cpu().double().numpy(), np.cumsum(sizes)[:-1])
