"""P-tuning: trained vectors in front of a text, in place of words (Liu et al. 2021, arXiv 2103.10385).

    [P1] ... [Pn] [CLS] text with a blank <eos>

The prompt tokens have ids of their own behind the vocabulary, V .. V + n - 1, and are Part A
like any other token: positions count them, everything sees them. Their vectors come from a
prompt encoder, as in the published code, whose parameter names are kept: `prompt_spell.*`.

Knows networks and files; nothing about tasks or how anything is trained.
"""

from __future__ import annotations

import dataclasses
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..blanks import Ids
from ..errors import CheckpointError, OptionError
from ..files import write_atomically
from ..network.model import Embedding, GLMModel
from ..scoring.question import Context, Question
from . import saved

WEIGHTS_FILE, SETTINGS_FILE = "prompt.safetensors", "prompt.json"
FORMAT = "openglm-prompt"
ENCODERS = ("lstm", "mlp", "none")
NAME = "prompt_spell"


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

    def forward(self, input_ids: Tensor) -> Tensor:
        """[...] ids -> [..., D]."""
        first = self.num_embeddings
        of_prompt = input_ids >= first
        words = super().forward(input_ids.masked_fill(of_prompt, 0))
        vectors = self.prompt_spell().to(words.dtype)
        return torch.where(of_prompt[..., None], vectors[(input_ids - first).clamp(min=0)], words)


def add_prompt(model: GLMModel, options: PromptOptions) -> None:
    """Give a network a prompt in place: its embeddings start as those of random words.

    Draws from torch's default generator.

    Raises:
        OptionError: it has one already, or the prompt leaves no room for text.
    """
    if isinstance(model.word_embeddings, PromptedEmbedding):
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


def prompt_of(model: GLMModel) -> PromptEncoder | None:
    """The prompt of a network, if it has one."""
    words = model.word_embeddings
    return words.prompt_spell if isinstance(words, PromptedEmbedding) else None


def remove_prompt(model: GLMModel) -> None:
    """Take the prompt off in place; the network is a plain one again."""
    words = model.word_embeddings
    if isinstance(words, PromptedEmbedding):
        plain = Embedding(words.num_embeddings, words.embedding_dim, device="meta")
        plain.weight = words.weight
        model.word_embeddings = plain


def prompt_ids(model: GLMModel) -> Ids:
    """The ids that stand for the prompt of a network, [n]; none if it has no prompt."""
    prompt = prompt_of(model)
    count = 0 if prompt is None else prompt.spell_embeddings.num_embeddings
    return np.arange(model.config.vocab_size, model.config.vocab_size + count, dtype=np.int64)


def with_prompt(question: Question, ids: Ids) -> Question:
    """The question with the prompt in front, and in front of its empty context and its other variants too."""
    if not len(ids):
        return question
    here = _prefixed(question.context, ids)
    prior = None if question.prior is None else _prefixed(question.prior, ids)
    others = tuple(with_prompt(variant, ids) for variant in question.others)
    return dataclasses.replace(
        question, part_a=here.part_a, blank_positions=here.blank_positions, prior=prior, others=others
    )


def _prefixed(context: Context, ids: Ids) -> Context:
    return Context(np.concatenate([ids, context.part_a]), np.asarray(context.blank_positions) + len(ids))


def save_prompt(folder: Path, model: GLMModel, options: PromptOptions, *, base_model: str) -> None:
    """Write the prompt of a network as a folder, each file complete or not at all.

    Args:
        base_model: name or path of the model that it belongs to.

    Raises:
        OptionError: the network has no prompt.
    """
    from safetensors.torch import save

    prompt = prompt_of(model)
    if prompt is None:
        raise OptionError("this network has no prompt to save")
    tensors = {f"{NAME}.{k}": v.detach().cpu().contiguous() for k, v in prompt.state_dict().items()}
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / WEIGHTS_FILE, save(tensors))
    saved.write_settings(folder / SETTINGS_FILE, FORMAT, {"base_model": base_model, **asdict(options)})


def load_prompt(model: GLMModel, folder: str | Path) -> PromptOptions:
    """Put a saved prompt on a network in place.

    Raises:
        CheckpointError: missing or damaged files, or a prompt of another network.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    path = folder / SETTINGS_FILE
    try:
        values = saved.read_settings(path, FORMAT)
        base_model = str(values.pop("base_model"))
        options = PromptOptions(**values)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: not the settings of a prompt ({error})") from error
    path = folder / WEIGHTS_FILE
    try:
        tensors = {name.removeprefix(f"{NAME}."): tensor for name, tensor in load_file(path).items()}
        encoder = PromptEncoder(options.tokens, model.config.hidden_size, options.encoder)
        encoder.load_state_dict(tensors)
    except (OSError, SafetensorError, RuntimeError) as error:
        first = str(error).strip().split("\n")[-1].strip()
        raise CheckpointError(f"{path}: does not fit this network ({first}); it belongs to {base_model!r}") from error
    table = model.word_embeddings.weight
    model.word_embeddings = PromptedEmbedding(model.word_embeddings, encoder.to(table.device, table.dtype))
    return options
