"""FlagAI's models for tasks: sequence to sequence, cloze scores, classification.

Each holds a `GLMModel` as `model` and turns its output into a loss or scores, with FlagAI's
arguments. Rows of choices are [B, C, S]: C candidates for each of B texts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openglm.errors import OptionError

from ._layers import visible
from .base_model import BaseModel
from .glm_model import GLMModel


class _Task(BaseModel):
    """A model whose `forward` gives a loss for labels."""

    def compute_loss(self, labels: Tensor | None = None, **inputs: Any) -> dict[str, Any]:
        """`forward` with labels, which must be given."""
        if labels is None:
            raise OptionError("compute_loss needs labels")
        output: dict[str, Any] = self(labels=labels, **inputs)
        return output


class _OnGLM(_Task):
    """Holds a `GLMModel` and is stored under its names."""

    def __init__(self, config: Mapping[str, Any], **kwargs: Any) -> None:
        super().__init__(config)
        self.model = GLMModel(config, network=kwargs.get("network"))

    def state_dict(self, *args: Any, destination: Any = None, prefix: str = "", keep_vars: bool = False) -> Any:
        """The weights under the names of the published checkpoints."""
        return self.model.state_dict(*args, destination=destination, prefix=prefix, keep_vars=keep_vars)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load weights under the names of the published checkpoints."""
        return self.model.load_state_dict(state_dict, strict=strict, assign=assign)

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """The parameters under the names of the published checkpoints."""
        return self.model.named_parameters(prefix, recurse, remove_duplicate)


class GLMForSeq2Seq(_OnGLM):
    """Writing a target behind a source, both in one row."""

    def __init__(self, config: Mapping[str, Any], take_softmax: bool = True, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        self.take_softmax = take_softmax

    def forward(
        self,
        input_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        loss_mask: Tensor | None = None,
        target_ids: Tensor | None = None,
        logit_mask: Tensor | None = None,
        prompt_pos: Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Without targets as `GLMModel`; with them `loss`, and `logits` as [B * S, V].

        The loss is the mean over positions where `loss_mask` is 1; targets with id 0 count nothing.
        """
        output: dict[str, Any] = self.model(
            input_ids,
            position_ids,
            attention_mask,
            kwargs.get("mems"),
            kwargs.get("return_memory", False),
            kwargs.get("detach_memory", True),
            prompt_pos,
        )
        if target_ids is None:
            return output
        logits = output["logits"].flatten(0, 1)
        mask = torch.ones_like(target_ids) if loss_mask is None else loss_mask
        weights = mask.flatten().float()
        losses = F.cross_entropy(logits.float(), target_ids.flatten(), ignore_index=0, reduction="none")
        return {**output, "loss": (losses * weights).sum() / weights.sum(), "logits": logits}


class GLMForSingleTokenCloze(_OnGLM):
    """Candidates of one token each, for one blank."""

    def __init__(self, config: Mapping[str, Any], take_softmax: bool = False, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        self.take_softmax = take_softmax

    def forward(
        self,
        input_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        target_ids: Tensor | None = None,
        prompt_pos: Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Scores of candidates.

        Args:
            input_ids: [B, S], Part A and `sop`.
            attention_mask: [B], the length of each Part A, which is where `sop` stands.
            target_ids: [B, C], the candidates; without them the call is `GLMModel`'s.
            labels: [B] in `kwargs`, the right candidates; adds `loss`.

        Returns:
            `logits` [B, C]: raw scores (log-probabilities with `take_softmax`);
            `target_logits` [B, V] if there are no labels; `hidden_states`.
        """
        output: dict[str, Any] = self.model(
            input_ids, position_ids, attention_mask, kwargs.get("mems"), prompt_pos=prompt_pos
        )
        if target_ids is None:
            return output
        if attention_mask is None or attention_mask.shape != target_ids.shape[:1]:
            raise OptionError("attention_mask must hold the length of Part A of each row")
        rows = torch.arange(len(target_ids), device=target_ids.device)
        all_scores = output["logits"][rows, attention_mask.long()]
        scores = (all_scores.log_softmax(-1) if self.take_softmax else all_scores).gather(1, target_ids)
        result = {"logits": scores, "hidden_states": output["hidden_states"]}
        labels = kwargs.get("labels")
        if labels is None:
            return {**result, "target_logits": all_scores}
        return {**result, "loss": _loss(scores, labels)}


class _MultiTokenCloze(_OnGLM):
    """Scores of candidates of any number of tokens."""

    def __init__(
        self, config: Mapping[str, Any], take_softmax: bool = True, length_penalty: float = 0.0, **kwargs: Any
    ) -> None:
        super().__init__(config, **kwargs)
        self.take_softmax = take_softmax
        self.length_penalty = length_penalty


class GLMForMultiTokenCloze(_MultiTokenCloze):
    """Candidates of any number of tokens, each in a row of its own behind the text."""

    def forward(
        self,
        input_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        target_ids: Tensor | None = None,
        logit_mask: Tensor | None = None,
        prompt_pos: Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Scores of candidates: the sum of their tokens' log-probabilities, by default over length ** 0.

        Args:
            input_ids: [B, C, S] (or [C, S], one candidate per row), the text, `sop`, the candidate.
            position_ids: [B, C, 2, S].
            attention_mask: [B, C], the length of each Part A.
            target_ids, logit_mask: [B, C, S], the tokens to score, and 1 where they count.
            labels: [B] in `kwargs`, the right candidates; adds `loss`.

        Returns:
            `logits` [B, C] ([C] if the candidates were not grouped), `hidden_states`.
        """
        if target_ids is None:
            return self.model(input_ids, position_ids, attention_mask)  # type: ignore[no-any-return]
        if input_ids is None or position_ids is None or attention_mask is None or logit_mask is None:
            raise OptionError("scoring needs input_ids, position_ids, attention_mask, target_ids and logit_mask")
        choices = 1
        if input_ids.dim() == 3:
            choices = input_ids.shape[1]
            input_ids, target_ids, logit_mask = (x.flatten(0, 1) for x in (input_ids, target_ids, logit_mask))
            position_ids, attention_mask = position_ids.flatten(0, 1), attention_mask.flatten(0, 1)
            prompt_pos = None if prompt_pos is None else prompt_pos.flatten(0, 1)
        output = self.model(input_ids, position_ids, attention_mask, prompt_pos=prompt_pos)
        scores = _scores(output["logits"], target_ids, logit_mask, self.take_softmax, self.length_penalty)
        return _result(scores.view(-1, choices), output["hidden_states"], kwargs.get("labels"))


class GLMForMultiTokenClozeFast(_MultiTokenCloze):
    """The same scores, with the text read once for all of its candidates."""

    def forward(
        self,
        input_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        dec_input_ids: Tensor | None = None,
        dec_position_ids: Tensor | None = None,
        dec_attention_mask: Tensor | None = None,
        target_ids: Tensor | None = None,
        logit_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Scores of candidates.

        Args:
            input_ids, position_ids: [B, S], [B, 2, S], the texts.
            attention_mask: [B], their lengths.
            dec_input_ids: [B, C, T], `sop` and candidates.
            dec_position_ids: [B, C, 2, T].
            dec_attention_mask: [B, C], how much of its text each candidate sees.
            target_ids, logit_mask: [B, C, T], the tokens to score, and 1 where they count.
            labels: [B] in `kwargs`, the right candidates; adds `loss`.

        Returns:
            `logits` [B, C], `hidden_states`: memory of texts and candidates, [B * C, S + T, D] each.
        """
        if dec_input_ids is None or dec_position_ids is None or dec_attention_mask is None:
            raise OptionError("fast scoring needs dec_input_ids, dec_position_ids and dec_attention_mask")
        if target_ids is None or logit_mask is None:
            raise OptionError("fast scoring needs target_ids and logit_mask")
        _, memory = self.model.read(input_ids, position_ids, attention_mask, return_memory=True, detach_memory=False)
        batch, choices, length = dec_input_ids.shape
        memory = [state.repeat_interleave(choices, dim=0) for state in memory]
        texts = memory[0].shape[1]
        separators = dec_attention_mask.flatten()
        causal = visible(separators.new_zeros(batch * choices), batch * choices, length, 0)
        seen = torch.arange(texts, device=separators.device) < separators[:, None]
        mask = torch.cat([seen[:, None, None].expand(-1, 1, length, -1), causal], dim=-1)
        hidden, memory = self.model.read(
            dec_input_ids.flatten(0, 1), dec_position_ids.flatten(0, 1), mask, memory, return_memory=True
        )
        logits = self.model.network.logits(hidden)
        scores = _scores(
            logits, target_ids.flatten(0, 1), logit_mask.flatten(0, 1), self.take_softmax, self.length_penalty
        )
        return _result(scores.view(-1, choices), memory, kwargs.get("labels"))


class GLMForSequenceClassification(_Task):
    """Classes from one hidden state; `class_num` of them, or 1 for choices.

    Args:
        pool_token: which state: "cls" (the first token), "start" (`sop`), "pad" (the last of Part A).

    Raises:
        OptionError: no `class_num` in the configuration, or another `pool_token`.
    """

    def __init__(
        self, config: Mapping[str, Any], hidden_dropout: float = 0.1, pool_token: str = "cls", **kwargs: Any
    ) -> None:
        super().__init__(config)
        if not isinstance(config.get("class_num"), int):
            raise OptionError("classification needs class_num, the number of classes, in the configuration")
        if pool_token not in ("cls", "start", "pad"):
            raise OptionError(f"pool_token must be cls, start or pad, not {pool_token!r}")
        self.pool_token = pool_token
        self.num_class = int(config["class_num"])
        self.model = GLMModel(config, network=kwargs.get("network"))
        self.model.output_predict = False
        size = self.model.hidden_size
        self.pool_layer = nn.Linear(size, size)
        self.multichoice_dropout = nn.Dropout(hidden_dropout)
        self.multichoice_head = nn.Linear(size, self.num_class)

    def forward(
        self,
        input_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """`logits` [B, classes]; [B, C] for choices, whose rows are [B, C, S]. With labels also `loss`."""
        if input_ids is None or position_ids is None or attention_mask is None:
            raise OptionError("GLM needs input_ids, position_ids and attention_mask")
        choices = None
        if input_ids.dim() == 3:
            if self.num_class != 1:
                raise OptionError(f"rows of choices need class_num 1, not {self.num_class}")
            choices = input_ids.shape[1]
            input_ids, position_ids = input_ids.flatten(0, 1), position_ids.flatten(0, 1)
            attention_mask = attention_mask.flatten(0, 1)
        output = self.model(input_ids, position_ids, attention_mask)
        hidden = output["logits"]
        if self.pool_token == "cls":
            pooled = hidden[:, 0]
        else:
            where = attention_mask.reshape(-1).expand(len(hidden)).long() - int(self.pool_token == "pad")
            pooled = hidden[torch.arange(len(hidden), device=hidden.device), where]
        logits = self.multichoice_head(self.multichoice_dropout(torch.tanh(self.pool_layer(pooled))))
        if choices is not None:
            logits = logits.view(-1, choices)
        return _result(logits, output["hidden_states"], kwargs.get("labels"), squeeze=kwargs.get("labels") is not None)


def _scores(logits: Tensor, targets: Tensor, mask: Tensor, take_softmax: bool, length_penalty: float) -> Tensor:
    """Sum of the targets' (log-)scores where the mask is 1, over length ** penalty: [R, S, V] -> [R]."""
    values = logits.log_softmax(-1) if take_softmax else logits
    chosen = values.gather(-1, targets[..., None])[..., 0]
    total = (chosen * mask).sum(1)
    return total / mask.sum(1) ** length_penalty if length_penalty > 0 else total


def _loss(scores: Tensor, labels: Tensor) -> Tensor:
    if scores.dim() == 1:
        return F.binary_cross_entropy_with_logits(scores.float(), labels.float())
    return F.cross_entropy(scores.float(), labels.long())


def _result(scores: Tensor, memory: list[Tensor], labels: Tensor | None, *, squeeze: bool = True) -> dict[str, Any]:
    """Scores of one column become a vector, as in FlagAI."""
    if squeeze and scores.shape[1] == 1:
        scores = scores[:, 0]
    result = {"logits": scores, "hidden_states": memory}
    return result if labels is None else {**result, "loss": _loss(scores, labels)}
