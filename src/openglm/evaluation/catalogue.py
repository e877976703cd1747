"""What can be measured beside cloze tasks: one row each.

Data lie in the folder that `--data-dir` or OPENGLM_EVAL names. Cloze tasks have files of their
own (`openglm/tasks/builtin`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..tasks.parts import PublishedResult

_GLM = "Du et al., GLM, ACL 2022 (arXiv 2103.10360), and the table in the README of THUDM/GLM"
_GPT2 = "Radford et al. 2019, Language models are unsupervised multitask learners, as given in the README of THUDM/GLM"
_OTHERS = "README of THUDM/GLM, after the authors of Megatron-LM and Turing-NLG"


def _bi_uni(
    metric: str, bi: float, uni: float, gpt2: float, megatron: float, turing: float, setting: str
) -> tuple[PublishedResult, ...]:
    return (
        PublishedResult("GLM-10B", setting, f"{metric} (bi)", bi, _GLM),
        PublishedResult("GLM-10B", setting, f"{metric} (uni)", uni, _GLM),
        PublishedResult("GPT-2 1.5B", setting, f"{metric} (uni)", gpt2, _GPT2),
        PublishedResult("Megatron-LM 8.3B", setting, f"{metric} (uni)", megatron, _OTHERS),
        PublishedResult("Turing-NLG 17B", setting, f"{metric} (uni)", turing, _OTHERS),
    )


@dataclass(frozen=True)
class Entry:
    """One row.

    Attributes:
        name: what commands call it.
        kind: "perplexity", "last_word", "generation" or "infilling".
        title, language: for people.
        file: in the data folder; "" where the user names one (`NAME=FILE`).
        restored: whether the text is WikiText, which is put back into ordinary spelling first.
        pattern: for generation: a text with fields and one blank; "" for the source and a blank.
        target: for generation: the field with the reference, or a list of references.
        metrics: for generation: any of "rouge", "bleu", "squad", "cmrc".
        max_new_tokens: for generation.
        published: results of others.
        version: raised whenever figures are no longer those of before.
    """

    name: str
    kind: str
    title: str
    language: str = ""
    file: str = ""
    restored: bool = False
    pattern: str = ""
    target: str = "target"
    metrics: tuple[str, ...] = ()
    max_new_tokens: int = 64
    published: Sequence[PublishedResult] = ()
    version: int = 1


ENTRIES: tuple[Entry, ...] = (
    Entry(
        "lambada", "last_word", "LAMBADA: the last word of a passage", "en", "lambada/test.jsonl",
        published=_bi_uni("accuracy", 72.35, 67.18, 52.66, 66.51, 67.98, "zero-shot"),
    ),
    Entry(
        "wikitext", "perplexity", "WikiText-2, test: perplexity", "en", "wikitext2/test.txt", restored=True,
        published=_bi_uni("per word", 11.33, 12.22, 17.48, 10.81, 10.21, "zero-shot, WikiText-103"),
    ),
    Entry(
        "csl_title", "generation", "CSL: the title of a Chinese abstract", "zh", "csl_title/test.jsonl",
        pattern="{abstract:shorten}[sMASK]", target="title", metrics=("rouge", "bleu"),
    ),
    Entry(
        "xquad/zh", "generation", "XQuAD, Chinese: answers as generated text", "zh", "xquad/zh.jsonl",
        pattern="问题：{question}答案：[MASK]\n{context:shorten}", target="answers", metrics=("cmrc",),
        max_new_tokens=48,
    ),
    Entry(
        "xquad/en", "generation", "XQuAD, English: answers as generated text", "en", "xquad/en.jsonl",
        pattern="Question: {question} Answer: [MASK]\n{context:shorten}", target="answers", metrics=("squad",),
        max_new_tokens=48,
    ),
    Entry("perplexity", "perplexity", "perplexity of a text file"),
    Entry("last_word", "last_word", "last words of the lines of a text file"),
    Entry("infilling", "infilling", "words of a text file, blanked out and filled"),
    Entry(
        "generation", "generation", "target texts of a JSON Lines file with source and target",
        metrics=("rouge", "bleu"),
    ),
)  # fmt: skip


def entry(name: str) -> Entry | None:
    """The row of this name."""
    return next((each for each in ENTRIES if each.name == name), None)
