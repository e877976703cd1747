"""`PromptSpell`: the embeddings of P-tuning, which take the place of words.

Names of its parameters are those of published checkpoints (`prompt_spell.*`).
"""

from __future__ import annotations

from torch import Tensor, nn

from openglm.errors import OptionError

SPELL_FUNCTIONS = ("lstm", "mlp", "none")


class PromptSpell(nn.Module):
    """n embeddings, passed through a small network.

    Args:
        spell_length: n.
        hidden_size: D.
        spell_func: "lstm" (two layers in both directions, then two linear ones), "mlp" (two
            linear layers), or "none".

    Raises:
        OptionError: another `spell_func`.
    """

    def __init__(self, spell_length: int, hidden_size: int, spell_func: str = "lstm") -> None:
        super().__init__()
        if spell_func not in SPELL_FUNCTIONS:
            raise OptionError(f"spell_func must be one of {', '.join(SPELL_FUNCTIONS)}, not {spell_func!r}")
        self.spell_length = spell_length
        self.hidden_size = hidden_size
        self.spell_func = spell_func
        self.spell_embeddings = nn.Embedding(spell_length, hidden_size)
        width = hidden_size
        if spell_func == "lstm":
            self.lstm_head = nn.LSTM(hidden_size, hidden_size, num_layers=2, bidirectional=True, batch_first=True)
            width = 2 * hidden_size
        if spell_func != "none":
            self.mlp_head = nn.Sequential(nn.Linear(width, hidden_size), nn.ReLU(), nn.Linear(hidden_size, hidden_size))

    def forward(self) -> Tensor:
        """[1, n, D]."""
        x = self.spell_embeddings.weight[None]
        if self.spell_func == "lstm":
            x = self.lstm_head(x)[0]
        if self.spell_func != "none":
            x = self.mlp_head(x)
        return x
