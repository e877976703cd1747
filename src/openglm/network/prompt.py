"""P-tuning: trained vectors in front of a text, in place of words (Liu et al. 2021, arXiv 2103.10385).

    [P1] ... [Pn] [CLS] text with a blank <eos>

The prompt tokens have ids of their own behind the vocabulary, V .. V + n - 1
(`GLMModel.prompt_ids`), and are Part A like any other token: positions count them, everything
sees them. Their vectors come from a prompt encoder, as in the published code, whose parameter
names are kept: `prompt_spell.*`. Whoever lays out a text for a network puts its prompt in front
(`PartA.behind`).

Knows networks; nothing about texts, files, or how anything is trained.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import OptionError
from .layers import Embedding
from .model import GLMModel

ENCODERS = ("lstm", "mlp", "none")


@dataclass(frozen=True)
class PromptOptions:
    """The size of a prompt.

    Attributes:
        tokens: n, how many.
        encoder: what turns the trained embeddings into vectors: "lstm" (bidirectional, two
            layers, then two linear ones), "mlp" (the linear ones alone) or "none".
    """

    tokens: int = 16
    encoder: str = "lstm"

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise OptionError(f"a prompt needs at least one token, not {self.tokens}")
        if self.encoder not in ENCODERS:
            raise OptionError(f"the prompt encoder must be one of {', '.join(ENCODERS)}, not {self.encoder!r}")


class PromptEncoder(nn.Module):
    """The vectors of a prompt, [n, D].

    Args:
        tokens: n.
        width: D.
        encoder: one of `ENCODERS`.
    """

    def __init__(self, tokens: int, width: int, encoder: str = "lstm") -> None:
        super().__init__()
        self.spell_embeddings = nn.Embedding(tokens, width)
        if encoder == "lstm":
            self.lstm_head = nn.LSTM(width, width, num_layers=2, bidirectional=True, batch_first=True)
        if encoder != "none":
            wide = 2 * width if encoder == "lstm" else width
            self.mlp_head = nn.Sequential(nn.Linear(wide, width), nn.ReLU(), nn.Linear(width, width))
        self.encoder = encoder

    def forward(self) -> Tensor:
        """[n, D]."""
        vectors = self.spell_embeddings.weight
        if self.encoder == "lstm":
            vectors = self.lstm_head(vectors[None])[0][0]
        if self.encoder != "none":
            vectors = self.mlp_head(vectors)
        return vectors


class PromptedEmbedding(Embedding):
    """Word embeddings that know the ids of the prompt too; the table itself is shared, not copied."""

    def __init__(self, base: nn.Embedding, prompt: PromptEncoder) -> None:
        nn.Module.__init__(self)
        self.num_embeddings, self.embedding_dim = base.num_embeddings, base.embedding_dim
        self.padding_idx, self.max_norm, self.norm_type = None, None, 2.0
        self.scale_grad_by_freq, self.sparse = False, False
        self.weight = base.weight
        self.prompt_spell = prompt

    @property
    def prompt_tokens(self) -> int:
        """n."""
        return self.prompt_spell.spell_embeddings.num_embeddings

    def forward(self, input_ids: Tensor) -> Tensor:
        """[...] ids -> [..., D]."""
        first = self.num_embeddings
        of_prompt = input_ids >= first
        words = super().forward(input_ids.masked_fill(of_prompt, 0))
        vectors = self.prompt_spell().to(words.dtype)
        return torch.where(of_prompt[..., None], vectors[(input_ids - first).clamp(min=0)], words)


class FixedPromptEmbedding(nn.Module):
    """Word embeddings of any kind, rounded ones too, with prompt vectors that are no longer trained.

    Args:
        words: embeds V ids and scores hidden states against their rows.
        vectors: [n, D] of the ids V .. V + n - 1.
    """

    def __init__(self, words: nn.Module, vectors: Tensor) -> None:
        super().__init__()
        self.words = words
        self.register_buffer("vectors", vectors)
        self.prompt_tokens = len(vectors)

    @property
    def weight(self) -> Tensor:
        """[V, D], that of the words."""
        table: Tensor = self.words.weight  # type: ignore[assignment]
        return table

    def forward(self, input_ids: Tensor) -> Tensor:
        """[...] ids -> [..., D]."""
        first = len(self.weight)
        of_prompt = input_ids >= first
        words: Tensor = self.words(input_ids.masked_fill(of_prompt, 0))
        vectors: Tensor = self.vectors.to(words.dtype)  # type: ignore[assignment]
        return torch.where(of_prompt[..., None], vectors[(input_ids - first).clamp(min=0)], words)

    def scores(self, hidden: Tensor) -> Tensor:
        """Products with every row of the words, [..., D] -> [..., V]: a prompt is never written."""
        out: Tensor = self.words.scores(hidden)  # type: ignore[operator]
        return out


def add_prompt(model: GLMModel, options: PromptOptions) -> None:
    """Give a network a prompt to train, in place: its embeddings start as those of random words.

    Draws from torch's default generator.

    Raises:
        OptionError: it has one already, or the prompt leaves no room for text.
    """
    if model.prompt_ids:
        raise OptionError("this network has a prompt already")
    if 2 * options.tokens > model.config.max_sequence_length:
        raise OptionError(
            f"a prompt of {options.tokens} tokens leaves too little of the context of "
            f"{model.config.max_sequence_length}; take at most {model.config.max_sequence_length // 2}"
        )
    table = model.word_embeddings.weight
    prompt = PromptEncoder(options.tokens, model.config.hidden_size, options.encoder).to(table.device, table.dtype)
    with torch.no_grad():
        rows = torch.randint(len(table), (options.tokens,), device=table.device)
        prompt.spell_embeddings.weight.copy_(table[rows])
    model.word_embeddings = PromptedEmbedding(model.word_embeddings, prompt)


@torch.no_grad()
def put_prompt(model: GLMModel, prompt: PromptEncoder) -> None:
    """Put a trained prompt on a network in place, to be used and not to be trained."""
    words = model.word_embeddings
    model.word_embeddings = FixedPromptEmbedding(words, prompt().to(words.weight.device))  # type: ignore[assignment]


def prompt_of(model: GLMModel) -> PromptEncoder | None:
    """The prompt that is being trained with a network, if there is one."""
    words = model.word_embeddings
    return words.prompt_spell if isinstance(words, PromptedEmbedding) else None


def remove_prompt(model: GLMModel) -> None:
    """Take a prompt that was trained off in place; the network is a plain one again."""
    words = model.word_embeddings
    if isinstance(words, PromptedEmbedding):
        plain = Embedding(words.num_embeddings, words.embedding_dim, device="meta")
        plain.weight = words.weight
        model.word_embeddings = plain
