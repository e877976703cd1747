"""How well a small bilingual model fills blanks, beside n-grams counted on the same text.

    python benchmarks/embedded_model.py --model DIR --corpus DIR --shards DIR --json out.json

Two measurements, for Chinese and English apart, both on validation documents:

1. Loss in nats per Part B token for each pretraining objective, on the samples by which
   training validates itself (published settings, fixed seed), beside a trigram over the
   same pieces that is always given the two tokens truly to the left, other fills included.
2. Single words replaced by `[MASK]`, every word of the validation text equally likely:
   how often the first answer, or one of five, is exactly the word that stood there.
   Passages are one to three sentences of one paragraph, 10 to 120 tokens. The baselines
   see the two words on either side as they stand in the document, even beyond the passage,
   cut with the answer in place; the model only sees the passage.

`--corpus` holds `{zh,en}-train*.jsonl.zst` and `{zh,en}-valid*.jsonl.zst`, `--shards` the
same text prepared with the model's tokenizer, `{zh,en}-train` and `{zh,en}-valid`.
Besides openglm this needs `jieba`, to cut Chinese into words.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.random import Generator

import openglm
from ngram import CONTENT_LENGTH, WORD, Floats, Ids, Trigram, WordBaselines, Words, counts_as_token, segmenter
from openglm.batches import Arrays, Batch
from openglm.blanks import BlankedText, BlankKind
from openglm.checkpoints.native import load_model
from openglm.data.corpus import documents
from openglm.data.shards import Shard
from openglm.data.stream import OBJECTIVE_NAMES, Source
from openglm.errors import DataError, OpenGLMError
from openglm.layouts import Layout, fills_of, put_back
from openglm.network.model import GLMModel
from openglm.pretraining.evaluate import validation_batches
from openglm.tokenizer import Tokenizer, load_tokenizer
from openglm.training.step import forward_losses

LANGUAGES = {"zh": "Chinese", "en": "English"}
QUESTION_SEED = 2_022
SHORTEST, LONGEST = 10, 120  # tokens of a passage
ANSWERS = 5
BEAMS = 20  # hypotheses from which the answers that are one word are taken
LONGEST_ANSWER = 8  # tokens
TEXTS_AT_ONCE = 50
# Where a sentence ends within a paragraph; closing quotes and brackets belong to it.
_SENTENCE = re.compile(r".+?(?:[.!?]+[\"'”’)\]]*(?=\s)|[。！？；…]+[”’」』）]*|$)")

Row = dict[str, Any]


# --- 1. Loss ------------------------------------------------------------------------------


def layouts_of(batch: Batch[Arrays], eop: int) -> Iterator[Layout]:
    """The layouts of a packed batch, in the order of its rows."""
    for r, row in enumerate(batch.placed):
        for number in range(len(row)):
            here = batch.documents[r] == number
            targets = batch.targets[r, here]
            yield Layout(
                input_ids=batch.input_ids[r, here],
                targets=targets,
                loss_mask=batch.loss_mask[r, here],
                position_ids=batch.position_ids[r, 0, here],
                block_position_ids=batch.position_ids[r, 1, here],
                separator=int(batch.in_part_a[r, here].sum()),
                ends_with_eop=bool(targets[-1] == eop),
            )


def left_neighbours(layout: Layout) -> tuple[Ids, Ids]:
    """For each target of Part B the tokens two places and one place to its left in the text.

    What lies before the text reads as its first token, `[CLS]`; so does everything beyond,
    and no n-gram was counted with it.
    """
    text = put_back(layout)
    fills = fills_of(layout)
    positions = np.array([position for position, _ in fills])
    longer = np.array([len(fill) - 1 for _, fill in fills])
    # Every blank left of this one grew from one token to its fill.
    starts = [p + int(longer[positions < p].sum()) for p in positions]
    closing = 1 if layout.ends_with_eop else 0
    index = np.concatenate(
        [start + np.arange(len(fill) + closing) for start, (_, fill) in zip(starts, fills, strict=True)]
    )
    return text[np.maximum(index - 2, 0)], text[index - 1]


def unigram_log_probabilities(shard: Shard, size: int) -> Floats:
    """Relative frequencies, one added to each count."""
    counts = np.bincount(shard.tokens, minlength=size) + 1.0
    out: Floats = np.log(counts / counts.sum())
    return out


@torch.no_grad()
def measure_losses(
    model: GLMModel, tokenizer: Tokenizer, language: str, train: Shard, valid: Shard, rows: int
) -> list[Row]:
    """Mean losses per objective: the model's with and without end tokens, the baselines'."""
    trigram = Trigram(train.tokens, train.bounds, tokenizer.num_tokens)
    unigram = unigram_log_probabilities(train, tokenizer.num_tokens)
    ends = [tokenizer.markers.eop, tokenizer.eos]
    out: list[Row] = []
    for number, objective in enumerate(OBJECTIVE_NAMES):
        found: dict[str, list[Floats]] = {"openglm": [], "trigram": [], "unigram": [], "ordinary": []}
        for training in validation_batches(tokenizer, Source(language, valid, 1.0), objective, rows=rows):
            losses, objectives = (t.numpy() for t in forward_losses(model, training, "fp32")[1:])
            targets = training.targets[training.loss_mask]
            neighbours = [left_neighbours(layout) for layout in layouts_of(training, tokenizer.markers.eop)]
            two_left, one_left = (np.concatenate(side) for side in zip(*neighbours, strict=True))
            # A text without whole sentences falls back to another objective: not counted here.
            kept = objectives == number
            found["openglm"].append(losses[kept])
            found["trigram"].append(-np.log(trigram.probability(two_left, one_left, targets))[kept])
            found["unigram"].append(-unigram[targets][kept])
            found["ordinary"].append(~np.isin(targets, ends)[kept])
        values = {name: np.concatenate(parts) for name, parts in found.items()}
        ordinary = values.pop("ordinary").astype(np.bool_)
        row: Row = {"language": language, "objective": objective, "targets": int(ordinary.sum())}
        row |= {name: float(each[ordinary].mean()) for name, each in values.items()}
        row |= {"openglm with ends": float(values["openglm"].mean()), "targets with ends": len(ordinary)}
        out.append(row)
    return out


# --- 2. Single-word blanks ----------------------------------------------------------------


@dataclass(frozen=True)
class Question:
    """A passage with one word replaced by `[MASK]`.

    Attributes:
        text: the passage.
        answer: the word.
        left, right: the two tokens before and after it in the document (None: outside).
    """

    text: str
    answer: str
    left: tuple[str | None, str | None]
    right: tuple[str | None, str | None]


def passage_around(text: str, start: int, tokenizer: Tokenizer, rng: Generator) -> tuple[int, int] | None:
    """Bounds of one to three sentences of a paragraph, the one with character `start` among them.

    None if even that sentence alone is too long, or all of them too short.
    """
    line_start = text.rfind("\n", 0, start) + 1
    line = text[line_start:].split("\n", 1)[0]
    bounds = [(line_start + m.start(), line_start + m.end()) for m in _SENTENCE.finditer(line)]
    home = next(i for i, (_, end) in enumerate(bounds) if start < end)
    wanted = int(rng.integers(1, 4))
    first = max(0, home - int(rng.integers(0, wanted)))
    last = min(first + wanted, len(bounds)) - 1
    while True:
        a, b = bounds[first][0], bounds[last][1]
        a, b = a + len(text[a:b]) - len(text[a:b].lstrip()), a + len(text[a:b].rstrip())
        length = len(tokenizer.encode(text[a:b]))
        if length <= LONGEST:
            return (a, b) if length >= SHORTEST else None
        if first == last:
            return None
        # Drop the sentence farther away from the word.
        first, last = (first + 1, last) if home - first > last - home else (first, last - 1)


def ask(paths: Sequence[Path], language: str, tokenizer: Tokenizer, number: int) -> list[Question]:
    """Questions about words drawn from all words of the files, each as likely as any other."""
    segment, word = segmenter(language), WORD[language]
    texts = [text for path in paths for text in documents(path)]
    cut: list[list[tuple[str, int]]] = []
    words: list[tuple[int, int]] = []
    for d, text in enumerate(texts):
        tokens: list[tuple[str, int]] = []
        at = 0
        for token in segment(text):
            if counts_as_token(token):
                if word.fullmatch(token):
                    words.append((d, len(tokens)))
                tokens.append((token, at))
            at += len(token)
        cut.append(tokens)
    rng = np.random.default_rng(QUESTION_SEED)
    out: list[Question] = []
    for index in rng.permutation(len(words)):
        if len(out) == number:
            break
        d, i = words[index]
        (answer, start), text = cut[d][i], texts[d]
        bounds = passage_around(text, start, tokenizer, rng)
        if bounds is None or BlankedText.parse(text[slice(*bounds)]).kinds:
            continue
        a, b = bounds
        near = [cut[d][k][0] if 0 <= k < len(cut[d]) else None for k in (i - 2, i - 1, i + 1, i + 2)]
        blanked = f"{text[a:start]}{BlankKind.MASK}{text[start + len(answer) : b]}"
        out.append(Question(blanked, answer, (near[0], near[1]), (near[2], near[3])))
    return out


def model_answers(
    infiller: openglm.Infiller, texts: Sequence[str], word: re.Pattern[str]
) -> tuple[list[str], list[list[str]], list[list[str]]]:
    """Three accounts of each text: its greedy fill, its best different fills, those that are one word."""
    greedy: list[str] = []
    best: list[list[str]] = []
    words: list[list[str]] = []
    for at in range(0, len(texts), TEXTS_AT_ONCE):
        some = list(texts[at : at + TEXTS_AT_ONCE])
        greedy += [filled.blanks[0].text.strip() for filled in infiller.fill(some, max_new_tokens=LONGEST_ANSWER)]
        beams = infiller.fill(some, num_beams=BEAMS, num_return_sequences=BEAMS, max_new_tokens=LONGEST_ANSWER)
        for filled in beams:
            fills = list(dict.fromkeys(each.blanks[0].text.strip() for each in (filled, *filled.alternatives)))
            best.append(fills[:ANSWERS])
            words.append([fill for fill in fills if word.fullmatch(fill)][:ANSWERS])
        print(f"  {len(greedy)} of {len(texts)} blanks filled", file=sys.stderr)
    return greedy, best, words


def measure_blanks(
    infiller: openglm.Infiller, baselines: WordBaselines, language: str, questions: Sequence[Question]
) -> list[Row]:
    """Share of questions answered exactly, by the first answer and by any of five."""
    greedy, best, words = model_answers(infiller, [question.text for question in questions], WORD[language])
    guesses = [baselines.guesses(question.left, question.right, ANSWERS) for question in questions]
    first = {"openglm": greedy, "openglm, one word": [(w or [""])[0] for w in words]}
    first |= {name: [g[name][0] for g in guesses] for name in guesses[0]}
    any_of = {"openglm": best, "openglm, one word": words}
    any_of |= {name: [g[name] for g in guesses] for name in guesses[0]}
    everything = [True] * len(questions)
    longer = [len(question.answer) >= CONTENT_LENGTH[language] for question in questions]
    out: list[Row] = []
    for kind, chosen in (("all", everything), (f"at least {CONTENT_LENGTH[language]} characters", longer)):
        picked = [i for i, is_in in enumerate(chosen) if is_in]
        if not picked:
            continue
        for name in first:
            exact = [first[name][i] == questions[i].answer for i in picked]
            top = [questions[i].answer in any_of[name][i] for i in picked]
            row: Row = {"language": language, "words": kind, "blanks": len(picked), "answers by": name}
            out.append(row | {"exact": float(np.mean(exact)), f"top {ANSWERS}": float(np.mean(top))})
    return out


# --- Report -------------------------------------------------------------------------------


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table, one line per row."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def report(losses: Sequence[Row], blanks: Sequence[Row]) -> str:
    """Both measurements as Markdown."""
    columns = ("openglm", "trigram", "unigram")
    loss_lines = [
        [LANGUAGES[row["language"]], row["objective"], f"{row['targets']:,}"]
        + [f"{row[name]:.3f}" for name in (*columns, "openglm with ends")]
        for row in losses
    ]
    blank_lines = [
        [LANGUAGES[row["language"]], row["words"], row["blanks"], row["answers by"]]
        + [f"{100 * row[name]:.1f} %" for name in ("exact", f"top {ANSWERS}")]
        for row in blanks
    ]
    return "\n".join(
        (
            "### Loss, nats per Part B token\n",
            "Ordinary tokens only (no end of span, no end of text); the last column counts those too. The trigram "
            "spends no probability on ends and always sees the true two tokens to the left.\n",
            markdown_table(["language", "objective", "tokens", *columns, "openglm with ends"], loss_lines),
            "\n### Single words behind `[MASK]`\n",
            "Exact spelling counts, case included. Every word is equally likely to be the blank, function words "
            'included. The baselines are told that the answer is one word; "openglm" is not, '
            '"openglm, one word" is: its answers are those of a beam search that are one word.\n',
            markdown_table(["language", "words", "blanks", "answers by", "exact", f"top {ANSWERS}"], blank_lines),
        )
    )


def files_of(corpus: Path, language: str, part: str) -> list[Path]:
    """The corpus files of one language, `train` or `valid`.

    Raises:
        DataError: there are none.
    """
    found = sorted(corpus.glob(f"{language}-{part}*.jsonl*"))
    if not found:
        raise DataError(f"{corpus}: no {language}-{part}*.jsonl.zst there; give the corpus folder as --corpus")
    return found


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measure a model on Chinese and English validation text.")
    parser.add_argument("--model", type=Path, required=True, help="model folder in openglm's own format")
    parser.add_argument("--corpus", type=Path, required=True, help="folder of {zh,en}-{train,valid}*.jsonl.zst")
    parser.add_argument("--shards", type=Path, required=True, help="folder of prepared {zh,en}-{train,valid}")
    parser.add_argument("--samples", type=int, default=500, help="single-word blanks per language (default: 500)")
    parser.add_argument(
        "--rows",
        type=int,
        default=256,
        help="rows of 256 tokens per objective for the loss (default: 256; training validates on the first 64)",
    )
    parser.add_argument("--train-characters", type=int, help="count words of this much training text (default: all)")
    parser.add_argument("--cache", type=Path, help="folder in which to keep the training text cut into words")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    arguments = parser.parse_args()
    if min(arguments.samples, arguments.rows) < 1:
        parser.error("--samples and --rows must be at least 1")
    return arguments


def run(arguments: argparse.Namespace) -> tuple[list[Row], list[Row]]:
    """Both measurements for every language."""
    tokenizer, model = load_tokenizer(arguments.model), load_model(arguments.model)
    infiller = openglm.load(str(arguments.model))
    losses: list[Row] = []
    blanks: list[Row] = []
    for language in LANGUAGES:
        losses += losses_of(language, arguments, model, tokenizer)
        blanks += blanks_of(language, arguments, infiller, tokenizer)
    return losses, blanks


def losses_of(language: str, arguments: argparse.Namespace, model: GLMModel, tokenizer: Tokenizer) -> list[Row]:
    """The first measurement; what it counted is free again when it returns."""
    print(f"{LANGUAGES[language]}: losses", file=sys.stderr)
    train, valid = (Shard.open(arguments.shards / f"{language}-{part}", tokenizer) for part in ("train", "valid"))
    return measure_losses(model, tokenizer, language, train, valid, arguments.rows)


def blanks_of(
    language: str, arguments: argparse.Namespace, infiller: openglm.Infiller, tokenizer: Tokenizer
) -> list[Row]:
    """The second measurement, freed likewise."""
    print(f"{LANGUAGES[language]}: counting words", file=sys.stderr)
    paths = files_of(arguments.corpus, language, "train")
    baselines = WordBaselines(Words.read(paths, language, arguments.train_characters, arguments.cache), language)
    questions = ask(files_of(arguments.corpus, language, "valid"), language, tokenizer, arguments.samples)
    print(f"{LANGUAGES[language]}: {len(questions)} single-word blanks", file=sys.stderr)
    return measure_blanks(infiller, baselines, language, questions)


def main() -> int:
    """Measure, print, perhaps write; 2 for bad input."""
    arguments = parse_arguments()
    try:
        losses, blanks = run(arguments)
    except OpenGLMError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(report(losses, blanks))
    if arguments.json is not None:
        settings = {
            "samples": arguments.samples,
            "rows": arguments.rows,
            "train_characters": arguments.train_characters,
        }
        content = {"settings": settings, "loss": losses, "blanks": blanks}
        arguments.json.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
