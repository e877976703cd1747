"""What `fill` lets be written, for `generate`: whole characters, one space, text that is read back as the same tokens.

Of the many tokens that could come next only the likeliest are looked at for the last of these.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor

from ...engine.stop_tokens import StopTokens
from ...engine.writing import TextState, Writing, restrict
from ...tokenizer import Tokenizer

LIKELIEST = 32  # tokens of which it is asked whether they are spelled as they would be read


class WholeText(LogitsProcessor):
    """Leaves of the next tokens those that `Infiller.fill` would leave.

    Args:
        vocabulary: of the model; rows: of its word embedding.
        texts: [B, S] ids, each with one blank.
        brings_space: [B] whether a fill brings the space in front of it, as the tokenizer says.
        limits: fewest and most tokens of a fill.
    """

    def __init__(
        self,
        vocabulary: Tokenizer,
        rows: int,
        texts: Tensor,
        brings_space: Sequence[bool],
        limits: tuple[int, int],
    ) -> None:
        stop = StopTokens.of(vocabulary, rows, texts.device)
        writing = Writing(vocabulary, stop.banned, stop.ids)
        self._ends = set(stop.ids)
        # The rest of a document may end with the document's end, other blanks do not.
        open_ends = (texts == vocabulary.special.get("gmask", -1)).any(1).tolist()
        self._starts = [
            writing.start(limits, brings_space=bool(brings), ends=stop.ids if is_open else stop.ids[:1])
            for brings, is_open in zip(brings_space, open_ends, strict=True)
        ]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """[R, T] ids written so far, `sop` first, and [R, V] scores; R is a multiple of the texts."""
        copies = len(input_ids) // len(self._starts)
        states = [self._state(self._starts[row // copies], ids[1:]) for row, ids in enumerate(input_ids.tolist())]
        scores = restrict(scores, states)
        likely = scores.topk(min(LIKELIEST, scores.shape[-1])).indices.tolist()
        for row, state in enumerate(states):
            if state is not None:
                wrong = [token for token in likely[row] if not state.accepts(token)]
                if 0 < len(wrong) < len(likely[row]):
                    scores[row, torch.tensor(wrong, device=scores.device)] = -torch.inf
        return scores

    def _state(self, start: TextState, written: Sequence[int]) -> TextState | None:
        """The state of a fill; None for one that has ended."""
        for token in written:
            if token in self._ends:
                return None
            start = start.after(token)
        return start
