"""Every published GLM in one table: names, sizes, vocabulary, what it can do.

Numbers are those of the released option files; several names may mean the same weights.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..config import GLMConfig

ALL_BLANKS = ("[MASK]", "[sMASK]", "[gMASK]")
MASK_ONLY = ("[MASK]",)


@dataclass(frozen=True)
class PublishedModel:
    """One set of published weights.

    Attributes:
        name: openglm's short name.
        aliases: names in FlagAI and on the hub, and of the original archive.
        layers, width, heads, context: L, D, N and P.
        vocabulary: "chinese" (SentencePiece), "gpt2", "bert" or "roberta".
        rows: V, rows of the word embedding.
        blanks: kinds of blank it was trained with.
        language: of its training text.
    """

    name: str
    aliases: tuple[str, ...]
    layers: int
    width: int
    heads: int
    context: int
    vocabulary: str
    rows: int
    blanks: tuple[str, ...]
    language: str

    @property
    def config(self) -> GLMConfig:
        """Its configuration."""
        return GLMConfig(
            num_layers=self.layers,
            hidden_size=self.width,
            num_attention_heads=self.heads,
            vocab_size=self.rows,
            max_sequence_length=self.context,
            blanks=self.blanks,
        )


# Models without task tokens were trained with [MASK] alone, for documents too.

PUBLISHED = (
    PublishedModel(
        "glm-large-chinese",
        ("GLM-large-ch", "THUDM/glm-large-chinese", "BAAI/glm-large-chinese"),
        24, 1024, 16, 1024, "chinese", 50048, ALL_BLANKS, "zh",
    ),
    PublishedModel(
        "glm-10b-chinese",
        ("GLM-10b-ch", "THUDM/glm-10b-chinese", "BAAI/glm-10b-chinese"),
        48, 4096, 64, 1024, "chinese", 50048, ALL_BLANKS, "zh",
    ),
    PublishedModel(
        "glm-10b", ("GLM-10b-en", "THUDM/glm-10b", "BAAI/glm-10b", "glm-10b-1024"),
        48, 4096, 64, 1024, "gpt2", 50304, ALL_BLANKS, "en",
    ),
    PublishedModel(
        "glm-2b", ("THUDM/glm-2b", "BAAI/glm-2b"), 36, 2048, 32, 1024, "gpt2", 50304, ALL_BLANKS, "en"
    ),
    PublishedModel(
        "glm-roberta-large",
        ("THUDM/glm-roberta-large", "BAAI/glm-roberta-large", "glm-roberta-large-blank"),
        24, 1024, 16, 512, "roberta", 50304, MASK_ONLY, "en",
    ),
    PublishedModel(
        "glm-515m", ("THUDM/glm-515m", "BAAI/glm-515m", "glm-1.5-generation"),
        30, 1152, 18, 512, "bert", 30592, MASK_ONLY, "en",
    ),
    PublishedModel("glm-410m", ("glm-1.25-generation",), 30, 1024, 16, 512, "bert", 30592, MASK_ONLY, "en"),
    PublishedModel(
        "glm-doc", ("glm-large-generation", "GLM-large-en-generation"),
        24, 1024, 16, 512, "bert", 30592, MASK_ONLY, "en",
    ),
    PublishedModel(
        "glm-large", ("GLM-large-en", "THUDM/glm-large", "BAAI/glm-large", "glm-large-blank"),
        24, 1024, 16, 512, "bert", 30592, MASK_ONLY, "en",
    ),
    PublishedModel("glm-base", ("glm-base-blank",), 12, 768, 12, 512, "bert", 30592, MASK_ONLY, "en"),
)  # fmt: skip


def find_published(name: str) -> PublishedModel | None:
    """The published model of this name, in any case and under any of its names."""
    wanted = name.lower()
    for model in PUBLISHED:
        if wanted in (known.lower() for known in (model.name, *model.aliases)):
            return model
    return None


def published_names() -> list[str]:
    """All names, for suggestions."""
    return [name for model in PUBLISHED for name in (model.name, *model.aliases)]
