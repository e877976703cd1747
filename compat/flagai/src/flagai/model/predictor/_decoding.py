"""Token after token over openglm's cache of keys and values: sampling, and beam search.

Both write one piece (a blank, or a target) behind what a `Reader` has read. Knows token ids,
positions and scores; nothing about texts or layouts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from openglm.errors import OptionError
from openglm.network.attention import prefix_mask
from openglm.network.cache import KVCache
from openglm.network.model import GLMModel as Network

Place = Callable[[int], tuple[int, int]]  # n-th token written (from 1) -> its position and block position


class Reader:
    """What a network has read so far, one or more rows of the same length.

    Args:
        separator: how many of the prompt's tokens all of it sees; the rest is read from left to right.
    """

    def __init__(self, network: Network, prompt: Sequence[int], separator: int) -> None:
        self.network = network
        self.device = network.word_embeddings.weight.device
        self.cache = KVCache(len(prompt) + 64)
        ids = torch.tensor([list(prompt)], device=self.device)
        positions = torch.arange(len(prompt), device=self.device)
        mask = None
        if separator < len(prompt):
            mask = prefix_mask(torch.tensor([separator], device=self.device), len(prompt))
        self.logits = self._read(ids, torch.stack([positions, torch.zeros_like(positions)])[None], mask)

    def feed(self, tokens: Sequence[int], position: int, block_position: int) -> None:
        """One more token for each row; `logits` [R, V] are then those for what follows."""
        where = torch.tensor([[[position], [block_position]]], device=self.device).expand(len(tokens), -1, -1)
        self.logits = self._read(torch.tensor(tokens, device=self.device)[:, None], where, None)

    def _read(self, ids: Tensor, positions: Tensor, mask: Tensor | None) -> Tensor:
        hidden = self.network.hidden_states(ids, positions, mask, cache=self.cache)
        return self.network.logits(hidden[:, -1]).float()

    def select(self, rows: Sequence[int]) -> None:
        """Keep, repeat or reorder rows."""
        self.cache.select(torch.tensor(list(rows), device=self.device))

    def back_to(self, length: int) -> None:
        """Forget what was read after the first `length` tokens, and all rows but the first."""
        self.select([0])
        self.cache.length = length


@dataclass(frozen=True)
class Choice:
    """How the next token is drawn.

    Attributes:
        temperature: scores are divided by it.
        top_k: most tokens to choose from; 0: no limit, 1: the most probable token.
        top_p: the fewest tokens that together have this probability are kept.
        repetition_penalty: log-probabilities of tokens that occurred are multiplied by it.

    Raises:
        OptionError: a value out of its range.
    """

    top_k: int = 30
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.top_k, int) or isinstance(self.top_k, bool) or self.top_k < 0:
            raise OptionError(f"top_k must be a whole number from 0 up, not {self.top_k!r}")
        for name, value, most in (
            ("top_p", self.top_p, 1.0),
            ("repetition_penalty", self.repetition_penalty, math.inf),
            ("temperature", self.temperature, math.inf),
        ):
            if not isinstance(value, (int, float)) or not 0 < value <= most or math.isinf(value):
                limit = "" if math.isinf(most) else " and at most 1"
                raise OptionError(f"{name} must be above 0{limit}, not {value!r}")

    def draw(self, logits: Tensor, banned: Tensor, seen: set[int]) -> int:
        """The next token from [V] scores, in FlagAI's order; random numbers come from torch's default generator."""
        scores = logits.log_softmax(-1).masked_fill(banned, -torch.inf) / self.temperature
        if self.top_p < 1:
            ordered, index = scores.sort(descending=True)
            probabilities = ordered.softmax(-1)
            scores[index[probabilities.cumsum(-1) - probabilities >= self.top_p]] = -torch.inf
        if self.repetition_penalty != 1 and seen:
            index = torch.tensor(sorted(seen), device=scores.device)
            scores[index] = scores[index] * self.repetition_penalty
        if self.top_k == 1:
            return int(scores.argmax())
        if 0 < self.top_k < len(scores):
            scores = scores.masked_fill(scores < scores.topk(self.top_k).values[-1], -torch.inf)
        return int(torch.multinomial(scores.softmax(-1), 1))


@dataclass(frozen=True)
class Piece:
    """What was written: its tokens without the one that ended it, and whether there was one."""

    tokens: tuple[int, ...]
    ended: bool
    score: float = 0.0  # log-probability, in nats


def sample(
    reader: Reader, place: Place, choice: Choice, banned: Tensor, ending: Sequence[int], limit: int, seen: set[int]
) -> Piece:
    """Draw tokens until one ends the piece or there are `limit`; the last of these is not read.

    Args:
        banned: [V] bool, tokens that are never drawn.
        seen: tokens of the text so far, for the repetition penalty.
    """
    written: list[int] = []
    while len(written) < limit:
        token = choice.draw(reader.logits[0], banned, seen | set(written))
        if token in ending:
            return Piece(tuple(written), True)
        written.append(token)
        if len(written) < limit:
            reader.feed([token], *place(len(written)))
    return Piece(tuple(written), False)


def beam_search(reader: Reader, place: Place, banned: Tensor, ending: Sequence[int], limit: int, beams: int) -> Piece:
    """The most probable piece that the search finds, by the sum of log-probabilities, its end included.

    Finished pieces stay in the running until no unfinished one can overtake them; sums only
    fall. At the limit an unfinished piece may win.
    """
    live, finished = [Piece((), False)], []
    while live and len(live[0].tokens) < limit:
        scores = reader.logits.log_softmax(-1).masked_fill(banned, -torch.inf)
        total = scores + torch.tensor([piece.score for piece in live], device=scores.device)[:, None]
        wanted = min(beams * (1 + len(ending)), int(torch.isfinite(total).sum()))
        best = total.flatten().topk(wanted)
        grown: list[Piece] = []
        parents: list[int] = []
        for rank, (score, flat) in enumerate(zip(best.values.tolist(), best.indices.tolist(), strict=True)):
            parent, token = divmod(flat, total.shape[1])
            before = live[parent].tokens
            if token in ending:
                if rank < beams:
                    finished.append(Piece(before, True, score))
            elif len(grown) < beams:
                grown.append(Piece((*before, token), False, score))
                parents.append(parent)
        live = grown
        finished = sorted(finished, key=lambda piece: -piece.score)[:beams]
        if not live or (finished and finished[0].score >= live[0].score):
            break
        if len(live[0].tokens) < limit:
            reader.select(parents)
            reader.feed([piece.tokens[-1] for piece in live], *place(len(live[0].tokens)))
    return max([*finished, *live], key=lambda piece: piece.score)
