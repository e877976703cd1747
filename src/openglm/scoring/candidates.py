"""`CandidateBatch`: exact log-probabilities of many answers to many questions, in one pass.

Every row holds the Part A of one question, then the tree of all its candidates (`tree.py`):
what answers have in common is computed once, `<sop>` for all of them. Single tokens without
their end need nothing but `<sop>`; the short way falls out. Differentiable; fine-tuning uses
the same code.

    log p(answer) = sum over its tokens and, with `ends`, the `eop` that closes each blank

Knows nothing about text, the names of labels, or what the numbers are for.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..batches import group_by_length
from ..blanks import Ids, Markers
from ..layouts import lay_out
from ..network.model import GLMModel
from ..network.native import exact_attention
from .question import Question
from .tree import Tree, tree_of

LOGITS_AT_ONCE = 1 << 22  # logits that exist together: 16 MiB of them, near the size of caches
LOGITS_AT_ONCE_ON_GPU = 1 << 27
NODES_AT_ONCE = 4096  # of one tree; its mask grows with their square


@dataclass(frozen=True)
class CandidateBatch:
    """Q questions with C candidates in all, rows of S tokens.

    Attributes:
        input_ids: [Q, S] int64, Part A padded on its right, then the tree, padded too.
        position_ids: [Q, 2, S] int64, positions and block positions; 0 on padding.
        mask: [Q, 1, S, S] bool, True where a token may attend. Padding sees Part A and is
            seen by nobody.
        nodes: [M] int64, the places (row * S + column) where logits are needed.
        read_of: [R] int64, for each read the index into `nodes`; ascending.
        targets: [R] int64, the token read there.
        candidate_of: [R] int64, the candidate that a read belongs to, 0 .. C-1.
        order: [R] int64, puts the reads in the order of the candidates, each in its own order.
        lengths: [C] int64, tokens scored of each candidate, ends included where they count.
        question_of: [C] int64, the question of each candidate.
        owner: [C] int64, the label a candidate speaks for, within its question.
        gold: [Q] int64, index of the right label, -1 where it is not known.
        num_labels: [Q] int64.
        offsets: [Q + 1] int64; candidates offsets[q] : offsets[q + 1] are those of question q.
    """

    input_ids: Tensor
    position_ids: Tensor
    mask: Tensor
    nodes: Tensor
    read_of: Tensor
    targets: Tensor
    candidate_of: Tensor
    order: Tensor
    lengths: Tensor
    question_of: Tensor
    owner: Tensor
    gold: Tensor
    num_labels: Tensor
    offsets: Tensor

    @classmethod
    def of(cls, questions: Sequence[Question], markers: Markers, pad_id: int, *, ends: bool = True) -> CandidateBatch:
        """Lay questions out side by side.

        Args:
            markers: ids of `sop` and `eop`.
            pad_id: the id on padding.
            ends: score the `eop` that closes each fill (the multi-token scores of the published
                code do; its single-token ones do not).

        Raises:
            InputError: as `tree_of`.
        """
        trees = [tree_of(question.candidates, markers, ends) for question in questions]
        widest_a = max(len(question.part_a) for question in questions)
        length = widest_a + max(map(len, trees))
        ids, positions, mask = _rows(questions, trees, markers, widest_a, length, pad_id)
        # Reads are sorted by the place they are read at, so that a run of places has a run of reads.
        at = np.concatenate([row * length + widest_a + tree.read_at for row, tree in enumerate(trees)])
        sort = np.argsort(at, kind="stable")
        nodes, read_of = np.unique(at[sort], return_inverse=True)
        lengths = np.concatenate([tree.lengths for tree in trees])
        counts = np.array([len(tree.lengths) for tree in trees], np.int64)
        return cls(
            input_ids=torch.from_numpy(ids),
            position_ids=torch.from_numpy(positions),
            mask=torch.from_numpy(mask),
            nodes=torch.from_numpy(nodes),
            read_of=torch.from_numpy(read_of.reshape(-1)),
            targets=torch.from_numpy(np.concatenate([tree.targets for tree in trees])[sort]),
            candidate_of=torch.from_numpy(np.repeat(np.arange(len(lengths)), lengths)[sort]),
            order=torch.from_numpy(np.argsort(sort)),
            lengths=torch.from_numpy(lengths),
            question_of=torch.from_numpy(np.repeat(np.arange(len(questions)), counts)),
            owner=torch.tensor([index for question in questions for index in question.owner]),
            gold=torch.tensor([-1 if question.gold is None else question.gold for question in questions]),
            num_labels=torch.tensor([len(question.labels) for question in questions]),
            offsets=torch.from_numpy(np.concatenate([[0], np.cumsum(counts)])),
        )

    def __len__(self) -> int:
        return len(self.gold)

    def to(self, device: torch.device | str) -> CandidateBatch:
        """The same batch on `device`."""
        return replace(self, **{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def hidden_states(self, model: GLMModel) -> Tensor:
        """Final hidden states, [Q, S, D]."""
        cache = exact_attention(model)
        return model.hidden_states(self.input_ids, self.position_ids, self.mask, cache=cache)

    def token_logprobs(self, model: GLMModel, *, hidden: Tensor | None = None) -> Tensor:
        """Log-probability in nats of every token read, candidate after candidate, [R] float32.

        Arguments as in `candidate_logprobs`.
        """
        return self._reads(model, hidden)[self.order]

    def candidate_logprobs(self, model: GLMModel, *, hidden: Tensor | None = None) -> Tensor:
        """Log-probability in nats of every candidate, [C] float32, differentiable.

        Args:
            hidden: final hidden states of the rows, [Q, S, D], if they were made in another way
                (with prompt embeddings, say).
        """
        values = self._reads(model, hidden)
        return values.new_zeros(len(self.lengths)).index_add(0, self.candidate_of, values)

    def _reads(self, model: GLMModel, hidden: Tensor | None) -> Tensor:
        """Log-probabilities in the order of `read_of`; logits exist for some of the nodes at a time."""
        states = self.hidden_states(model) if hidden is None else hidden
        read = states.reshape(-1, states.shape[-1])[self.nodes]

        def some(rows: Tensor, within: Tensor, targets: Tensor) -> Tensor:
            logits = model.logits(rows).float()
            return logits[within, targets] - logits.logsumexp(-1)[within]

        step = max(16, (LOGITS_AT_ONCE_ON_GPU if read.is_cuda else LOGITS_AT_ONCE) // model.config.vocab_size)
        starts = range(0, len(read), step)
        edges = torch.tensor([*starts, len(read)], device=self.read_of.device)
        bounds = torch.searchsorted(self.read_of, edges).tolist()
        values = []
        for start, begin, end in zip(starts, bounds, bounds[1:], strict=False):
            rows, within, targets = read[start : start + step], self.read_of[begin:end] - start, self.targets[begin:end]
            if torch.is_grad_enabled() and len(starts) > 1:  # else all logits would be kept for the backward pass
                values.append(checkpoint(some, rows, within, targets, use_reentrant=False))
            else:
                values.append(some(rows, within, targets))
        return torch.cat(values)


def _rows(
    questions: Sequence[Question], trees: Sequence[Tree], markers: Markers, widest_a: int, length: int, pad_id: int
) -> tuple[Ids, Ids, NDArray[np.bool_]]:
    """Input ids, positions and mask of the rows of a batch."""
    ids = np.full((len(questions), length), pad_id, np.int64)
    positions = np.zeros((len(questions), 2, length), np.int64)
    mask = np.zeros((len(questions), 1, length, length), np.bool_)
    for row, (question, tree) in enumerate(zip(questions, trees, strict=True)):
        part_a = lay_out(question.part_a, [], markers, blanks=[])
        n, part_b = len(part_a), slice(widest_a, widest_a + len(tree))
        ids[row, :n], ids[row, part_b] = part_a.input_ids, tree.input_ids
        positions[row, 0, :n], positions[row, 1, :n] = part_a.position_ids, part_a.block_position_ids
        positions[row, 0, part_b] = question.part_a.blank_positions[tree.blanks]
        positions[row, 1, part_b] = tree.block_position_ids
        mask[row, 0, :, :n] = True
        mask[row, 0, part_b, part_b] = tree.sees
    return ids, positions, mask


def grouped(
    questions: Sequence[Question], markers: Markers, *, ends: bool = True, tokens_at_once: int = 4096
) -> Iterator[list[int]]:
    """Indices of questions that may share a batch: of similar length, rows times length bounded.

    A question that is larger than the bound has a batch of its own.
    """
    trees = [len(tree_of(question.candidates, markers, ends)) for question in questions]
    parts = [(len(question.part_a), tree) for question, tree in zip(questions, trees, strict=True)]
    return group_by_length(parts, tokens_at_once)


@torch.inference_mode()
def token_logprobs(
    model: GLMModel,
    questions: Sequence[Question],
    markers: Markers,
    pad_id: int,
    *,
    ends: bool = True,
    tokens_at_once: int = 4096,
) -> list[list[NDArray[np.float64]]]:
    """Log-probability in nats of every scored token of every candidate, without gradients.

    The prompt of a network that has one is put in front of every question here.

    Args:
        tokens_at_once: positions per forward pass, padding included (bounds memory).

    Returns:
        For each question, for each candidate, [tokens scored].
    """
    device = model.word_embeddings.weight.device
    parts = [(i, part) for i, question in enumerate(questions) for part in _in_parts(question.behind(model.prompt_ids))]
    values: list[list[NDArray[np.float64]]] = [[] for _ in parts]
    split = [part for _, part in parts]
    for group in grouped(split, markers, ends=ends, tokens_at_once=tokens_at_once):
        batch = CandidateBatch.of([split[i] for i in group], markers, pad_id, ends=ends).to(device)
        read = batch.token_logprobs(model).cpu().double().numpy()
        each = np.split(read, np.cumsum(batch.lengths.cpu().numpy())[:-1])
        offsets = batch.offsets.tolist()
        for row, i in enumerate(group):
            values[i] = each[offsets[row] : offsets[row + 1]]
    out: list[list[NDArray[np.float64]]] = [[] for _ in questions]
    for (i, _), some in zip(parts, values, strict=True):
        out[i] += some
    return out


def _in_parts(question: Question) -> list[Question]:
    """The question with some of its candidates at a time, where the tree of all would be too large."""
    sizes = np.cumsum([sum(len(ids) + 1 for ids in candidate) for candidate in question.candidates])
    if sizes[-1] <= NODES_AT_ONCE:
        return [question]
    part = sizes // NODES_AT_ONCE
    bounds = [0, *(np.flatnonzero(np.diff(part)) + 1), len(sizes)]
    return [
        replace(question, candidates=question.candidates[a:b], owner=question.owner[a:b])
        for a, b in itertools.pairwise(bounds)
    ]
