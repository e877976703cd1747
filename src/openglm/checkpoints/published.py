"""Every published GLM in one table: names, sizes, vocabulary, special tokens, what it can fill.

Numbers are those of the released option files; several names may mean the same weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..network.config import GLMConfig

ALL_BLANKS = ("[MASK]", "[sMASK]", "[gMASK]")
MASK_ONLY = ("[MASK]",)

# The files of each vocabulary, in each of the names under which they were published.
VOCABULARY_FILES: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "chinese": (("cog-pretrain.model",), ("spiece.model",)),
    "gpt2": (("vocab.json", "merges.txt"),),
    "roberta": (("vocab.json", "merges.txt"),),
    "bert": (("vocab.txt",),),
}


def _ids(text: str) -> dict[str, int]:
    return {name: int(token) for name, _, token in (pair.partition("=") for pair in text.split())}


# Ids of the special tokens a model was trained with; `pad` is `eos`. The older Chinese table
# gives `eop` and `[gMASK]` the same id.
SPECIAL_TOKENS: Mapping[str, Mapping[str, int]] = {
    "chinese": _ids("eos=50000 sep=50001 cls=50002 mask=50003 unk=50004 sop=50006 eop=50007 smask=50008 gmask=50009"),
    "chinese-not-fixed": _ids(
        "eos=50000 sep=50001 cls=50002 mask=50003 unk=50004 sop=50006 eop=50007 smask=50008 gmask=50007"
    ),
    "gpt2": _ids("eos=50256 sop=50257 eop=50258 cls=50259 mask=50260 sep=50261 unk=50262 gmask=50263 smask=50264"),
    "roberta": _ids("cls=0 eos=2 sep=2 unk=3 mask=50264 sop=50265 eop=50266"),
    "bert": _ids("eos=0 unk=100 cls=101 sep=102 mask=103 sop=30522 eop=30523"),
}


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
        older_table: trained with the older Chinese table of special tokens; on the hub its
            weights were changed to fit the repaired one.
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
    older_table: bool = False

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

    @property
    def layout(self) -> str:
        """The table of special tokens it was trained with, a key of `SPECIAL_TOKENS` and of `tokenizer.LAYOUTS`."""
        return "chinese-not-fixed" if self.older_table else self.vocabulary

    @property
    def special_tokens(self) -> Mapping[str, int]:
        """Name -> id of the special tokens it was trained with."""
        return SPECIAL_TOKENS[self.layout]

    @property
    def hub(self) -> str | None:
        """Its repository on the hub; None where it was published as an archive only."""
        return next((name for name in self.aliases if "/" in name), None)

    @property
    def vocabulary_files(self) -> str:
        """The files of its vocabulary, for messages."""
        return " or ".join(" and ".join(names) for names in VOCABULARY_FILES[self.vocabulary])


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
        48, 4096, 64, 1024, "chinese", 50048, ALL_BLANKS, "zh", older_table=True,
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


def published_with(layers: int, width: int, rows: int) -> PublishedModel | None:
    """The published model of these sizes (L, D, V); those that share them share all else too."""
    return next((m for m in PUBLISHED if (m.layers, m.width, m.rows) == (layers, width, rows)), None)


def published_names() -> list[str]:
    """All names, for suggestions."""
    return [name for model in PUBLISHED for name in (model.name, *model.aliases)]
