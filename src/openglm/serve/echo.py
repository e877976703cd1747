"""Log-probabilities of a prompt itself: what it would be to write it from nothing, into one blank.

    log p(token) of every token of the prompt, given those in front of it

A model that fills blanks reads a prompt in both directions at once, so it has no other log-probability of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..blanks import BlankedText, BlankKind
from ..infill.infiller import Infiller
from ..infill.prompt import build_prompt
from ..scoring.candidates import CandidateBatch
from ..scoring.question import Question
from .errors import bad_request
from .logprobs import named
from .schemas import Json


def echoed(infiller: Infiller, ids: Sequence[int], kind: BlankKind, top: int) -> Json:
    """`CompletionLogprobs` of a prompt.

    Args:
        ids: its tokens.
        kind: of the blank that it is written into.
        top: so many of the most probable tokens at each place.

    Raises:
        HTTPError: 400, more tokens than the blank holds, or none.
    """
    model, tokenizer = infiller.model, infiller.tokenizer
    longest = model.config.max_sequence_length - 1
    if not 0 < len(ids) <= longest:
        raise bad_request(
            f"a prompt of {len(ids)} tokens; echo with logprobs scores 1 to {longest}",
            "prompt",
            "context_length_exceeded",
        )
    empty = build_prompt(BlankedText(("", ""), (kind,)), tokenizer, model.config)
    question = Question(empty.part_a, ((tuple(ids),),), (0,), ("",))
    device = model.word_embeddings.weight.device
    batch = CandidateBatch.of([question], tokenizer.markers, tokenizer.eos, ends=False).to(device)
    with torch.inference_mode():
        states = batch.hidden_states(model)
        scores = model.logits(states.reshape(-1, states.shape[-1])[batch.nodes]).float().log_softmax(-1)
        scores = scores[batch.read_of][batch.order]
        values = scores.gather(1, torch.tensor(ids, device=device)[:, None])[:, 0].tolist()
        best = scores.topk(top, dim=-1) if top else None
    decoder = tokenizer.decoder()
    texts = [decoder.push(token) for token in ids]
    texts[-1] += decoder.finish()
    tops = None
    if best is not None:
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        tops = [
            named(tokenizer, list(zip(tokens, found, strict=True)), (token, text, value))
            for (tokens, found), token, text, value in zip(pairs, ids, texts, values, strict=True)
        ]
    offsets = [sum(map(len, texts[:number])) for number in range(len(texts))]
    return {"tokens": texts, "token_logprobs": values, "top_logprobs": tops, "text_offset": offsets}
