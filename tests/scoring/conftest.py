"""A model with its vocabulary, and questions made at random."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from hypothesis import strategies as st

from openglm.batches import pad
from openglm.blanks import PartA
from openglm.layouts import Layout, lay_out
from openglm.network.attention import dense_mask
from openglm.network.model import GLMModel
from openglm.scoring.question import Question
from openglm.tensors import to_tensors
from openglm.tokenizer import BilingualTokenizer


def plain_logprobs(model: GLMModel, tokenizer: BilingualTokenizer, question: Question, ends: bool) -> list[float]:
    """One layout and one forward pass per candidate, summed over what counts."""
    out = []
    for fills in question.candidates:
        layout = lay_out(question.part_a, fills, tokenizer.markers)
        values = _token_logprobs(model, layout, tokenizer.eos)
        spans = [values[span] if ends else values[span][:-1] for span in layout.spans]
        out.append(float(sum(each.sum() for each in spans)))
    return out


def _token_logprobs(model: GLMModel, layout: Layout, pad_id: int) -> np.ndarray:
    tensors = to_tensors(pad([layout], pad_id), torch.device("cpu"))
    mask = dense_mask(tensors.documents, tensors.in_part_a)
    with torch.no_grad():
        logits = model(tensors.input_ids, tensors.position_ids, mask)[0, layout.separator :]
    wanted = torch.from_numpy(layout.targets[layout.separator :])
    return logits.log_softmax(-1).gather(1, wanted[:, None])[:, 0].double().numpy()


@st.composite
def questions(draw: st.DrawFn, tokenizer: BilingualTokenizer, *, empty: bool = True) -> Question:
    """A question of ordinary tokens, one to three blanks, candidates with common beginnings."""
    ordinary = st.integers(20, 400)
    blanks = draw(st.integers(1, 3))
    part_a = draw(st.lists(ordinary, min_size=blanks, max_size=20))
    places = draw(st.lists(st.integers(0, len(part_a) - 1), min_size=blanks, max_size=blanks, unique=True))
    few = st.integers(30, 33)  # so that answers begin alike
    fill = st.lists(few, min_size=0 if empty else 1, max_size=4).map(tuple)
    fills: st.SearchStrategy[tuple[tuple[int, ...], ...]] = st.tuples(*[fill] * blanks)
    candidates = draw(st.lists(fills, min_size=1, max_size=7))
    ids: Sequence[int] = [tokenizer.cls, *part_a, tokenizer.eos]
    return Question(
        part_a=PartA(np.array(ids), np.array(sorted(place + 1 for place in places))),
        candidates=tuple(candidates),
        owner=(*(draw(st.integers(0, 2)) for _ in candidates[:-1]), 2),
        labels=("a", "b", "c"),
        gold=0,
        golds=(0,),
    )
