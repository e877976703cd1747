"""FlagAI's `GLMModel` over openglm's network; the models for tasks are in `_tasks` and offered here too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from openglm.checkpoints.foreign import PUBLISHED
from openglm.errors import InputError, OptionError
from openglm.network.model import GLMModel as Network

from .. import _coverage
from ._layers import remember, run, visible
from .base_model import BaseModel, config_of
from .prompt import PromptSpell

__all__ = [
    "GLMForMultiTokenCloze",
    "GLMForMultiTokenClozeFast",
    "GLMForSeq2Seq",
    "GLMForSequenceClassification",
    "GLMForSingleTokenCloze",
    "GLMModel",
]


class GLMModel(BaseModel):
    """GLM with FlagAI's arguments and results; parameters have the names of the published checkpoints.

    Args:
        config: FlagAI's configuration.
        network: openglm's network to use; by default a fresh one. Only the published
            architecture computes what FlagAI's code does.

    Attributes:
        network: openglm's network; shares all parameters with this module.
        output_predict: whether `logits` are scores over the vocabulary, or else final hidden states.

    Raises:
        OptionError: a network of another architecture.
    """

    network: Network

    def __init__(self, config: Mapping[str, Any], network: Network | None = None, **kwargs: Any) -> None:
        super().__init__(config)
        network = network or Network(config_of(config))
        if network.config.architecture != PUBLISHED:
            raise OptionError(
                f"a model of the architecture {network.config.architecture!r} cannot be used through flagai, whose "
                f"code is that of {PUBLISHED!r}; load it with openglm.load"
            )
        # Not as a submodule: its parts are, so that parameters keep their published names.
        object.__setattr__(self, "network", network)
        self.word_embeddings = network.word_embeddings
        self.transformer = network.transformer
        self.hidden_size = network.config.hidden_size
        self.output_predict = bool(config.get("output_predict", True))
        self.max_memory_length = int(config.get("max_memory_length") or 0)
        self.checkpoint_activations = bool(config.get("checkpoint_activations", False))
        if config.get("spell_length") is not None:
            self.prompt_spell = PromptSpell(
                int(config["spell_length"]), self.hidden_size, config.get("spell_func", "lstm")
            )
        if config.get("tune_prefix_layers") is not None:
            self.freeze_transformer(int(config["tune_prefix_layers"]))

    def freeze_transformer(self, tune_prefix_layers: int | None = None) -> None:
        """Keep all weights but those of the first layers (and of a prompt) as they are."""
        self.word_embeddings.requires_grad_(False)
        self.transformer.requires_grad_(False)
        for layer in self.transformer.layers[: tune_prefix_layers or 0]:
            layer.requires_grad_(True)

    def forward(
        self,
        input_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        mems: Sequence[Tensor] | None = None,
        return_memory: bool = False,
        detach_memory: bool = True,
        prompt_pos: Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """One pass.

        Args:
            input_ids: [B, S] int64.
            position_ids: [B, 2, S], positions and block positions; [B, S] without block positions.
            attention_mask: the length of Part A, once or per row, or a mask [B, 1, S, K].
            mems: `hidden_states` of an earlier call, read as what came before.
            return_memory: give back all of the memory, not `max_memory_length` of it.
            detach_memory: keep gradients out of it.
            prompt_pos: [B, n], where the prompt's embeddings take the place of words.
            labels: [B, S] in `kwargs`; adds `loss`, the mean over all positions.

        Returns:
            `logits` [B, S, V] (or hidden states, see `output_predict`), `hidden_states`: the
            memory, L + 1 tensors [B, M + S, D] or an empty list, and `loss` if there are labels.

        Raises:
            OptionError: ids, positions or mask are missing or do not fit each other.
            InputError: ids or positions beyond the model's tables.
        """
        hidden, memory = self.read(
            input_ids, position_ids, attention_mask, mems, return_memory, detach_memory, prompt_pos
        )
        if not self.output_predict:
            return {"logits": hidden, "hidden_states": memory}
        logits = self.network.logits(hidden)
        output = {"logits": logits, "hidden_states": memory}
        labels = kwargs.get("labels")
        if labels is not None:
            output["loss"] = F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten().long())
        return output

    def read(
        self,
        input_ids: Tensor | None,
        position_ids: Tensor | None,
        attention_mask: Tensor | None,
        mems: Sequence[Tensor] | None = None,
        return_memory: bool = False,
        detach_memory: bool = True,
        prompt_pos: Tensor | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """Final hidden states [B, S, D] and memory; arguments as in `forward`."""
        if input_ids is None or position_ids is None or attention_mask is None:
            raise OptionError("GLM needs input_ids, position_ids and attention_mask")
        if mems and len(mems) != len(self.transformer.layers) + 1:
            raise OptionError(f"mems holds {len(mems)} tensors, not {len(self.transformer.layers) + 1}")
        batch, length = input_ids.shape
        mask = visible(attention_mask.to(input_ids.device), batch, length, mems[0].shape[1] if mems else 0)
        try:
            words = self._embedded(input_ids, prompt_pos)
            hidden, states = run(
                self.transformer, words, position_ids, mask, mems, checkpoint_activations=self.checkpoint_activations
            )
        except IndexError as error:  # on the CPU; a GPU says it in its own way
            config = self.network.config
            raise InputError(
                f"ids must be below {config.vocab_size}, the rows of the vocabulary, "
                f"and positions below {config.position_rows}, the model's context"
            ) from error
        if not (return_memory or self.max_memory_length > 0):
            return hidden, []
        longest = None if return_memory else self.max_memory_length
        return hidden, remember(mems, states, longest=longest, detach=detach_memory)

    def _embedded(self, input_ids: Tensor, prompt_pos: Tensor | None) -> Tensor:
        """Word embeddings [B, S, D], those of the prompt in their places."""
        words: Tensor = self.word_embeddings(input_ids)
        if prompt_pos is None:
            return words
        if not hasattr(self, "prompt_spell"):
            raise OptionError("prompt_pos needs a model with a prompt: set spell_length in its configuration")
        rows = torch.arange(len(input_ids), device=input_ids.device)[:, None]
        words = words.clone()
        words[rows, prompt_pos] = self.prompt_spell().to(words.dtype)
        return words

    def load_weights_glm(self, checkpoint_path: str | Path) -> None:
        """The same as `load_weights`."""
        self.load_weights(checkpoint_path)


from ._tasks import (  # noqa: E402 - they are built on the class above
    GLMForMultiTokenCloze,
    GLMForMultiTokenClozeFast,
    GLMForSeq2Seq,
    GLMForSequenceClassification,
    GLMForSingleTokenCloze,
)

__getattr__ = _coverage.refuse_other_names(__name__)
