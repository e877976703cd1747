"""Classifying texts among 119 answers: one pass per text, beside one pass per candidate.

    python benchmarks/choose.py [--texts 200] [--runs 5] [--threads 2]

The answers are the words of the 119 labels of FewCLUE's IFLYTEK, the texts synthetic Chinese of
its lengths. The peers score the same answers with one forward pass each, and with one padded
batch of all answers of a text; both on a few texts, which take turns with openglm's. The
ceiling is what this machine does in matrix products, measured in the same run.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import numpy as np
import torch

from machine import describe, markdown_table, median_seconds, seconds_of
from openglm.batches import pad
from openglm.checkpoints.resolve import open_model
from openglm.layouts import Layout, lay_out
from openglm.network.attention import dense_mask
from openglm.network.model import GLMModel
from openglm.scoring.candidates import grouped
from openglm.scoring.predict import TOKENS_AT_ONCE, predict
from openglm.scoring.question import Question
from openglm.scoring.tree import tree_of
from openglm.tasks.examples import Example
from openglm.tasks.renderer import QuestionRenderer
from openglm.tasks.task_files import load_task
from openglm.tensors import to_tensors
from openglm.tokenizer import Tokenizer

TASK = "fewclue/iflytek"
WORDS = "这款应用可以帮助您查询附近的商家和优惠信息还提供在线支付订单管理以及客服功能让生活更加方便快捷"


def texts(count: int, rng: np.random.Generator) -> list[str]:
    """Chinese of about 290 characters, as descriptions of apps have, from 40 to 700."""
    out = []
    for length in np.clip(rng.lognormal(np.log(260), 0.5, count), 40, 700).astype(int):
        starts = rng.integers(0, len(WORDS) - 8, length // 8)
        out.append("，".join(WORDS[start : start + 7] for start in starts))
    return out


@torch.inference_mode()
def one_pass_each(model: GLMModel, tokenizer: Tokenizer, question: Question) -> list[float]:
    """Log-probability of each candidate, from a forward pass of its own."""
    return [_scores(model, tokenizer, [layout])[0] for layout in _layouts(tokenizer, question)]


@torch.inference_mode()
def one_batch(model: GLMModel, tokenizer: Tokenizer, question: Question) -> list[float]:
    """Log-probability of each candidate, all of them in one padded batch."""
    return _scores(model, tokenizer, _layouts(tokenizer, question))


def _layouts(tokenizer: Tokenizer, question: Question) -> list[Layout]:
    markers = tokenizer.markers
    return [lay_out(question.part_a, fills, markers) for fills in question.candidates]


def _scores(model: GLMModel, tokenizer: Tokenizer, layouts: list[Layout]) -> list[float]:
    tensors = to_tensors(pad(layouts, tokenizer.eos), torch.device("cpu"))
    mask = dense_mask(tensors.documents, tensors.in_part_a)
    logits = model(tensors.input_ids, tensors.position_ids, mask, logits_for=tensors.loss_mask)
    wanted = tensors.targets[tensors.loss_mask]
    values = logits.gather(1, wanted[:, None])[:, 0] - logits.logsumexp(-1)
    rows = torch.nonzero(tensors.loss_mask)[:, 0]
    sums: list[float] = torch.zeros(len(layouts)).index_add(0, rows, values).tolist()
    return sums


def operations(model: GLMModel, tokenizer: Tokenizer, questions: list[Question]) -> float:
    """Floating-point operations of openglm's pass, padding included: products of weights, attention, logits."""
    config, total = model.config, 0.0
    for group in grouped(questions, tokenizer.markers, tokens_at_once=TOKENS_AT_ONCE):
        trees = [len(tree_of(questions[i].candidates, tokenizer.markers)) for i in group]
        length = max(len(questions[i].part_a) for i in group) + max(trees)
        weights = 12 * config.hidden_size**2 * config.num_layers
        attention = 2 * length * config.hidden_size * config.num_layers
        total += 2 * len(group) * length * (weights + attention)
        total += 2 * sum(trees) * config.hidden_size * config.vocab_size
    return total


def product_rate() -> float:
    """Operations per second of a float32 matrix product as large as those of a batch."""
    left, right = torch.randn(8192, 1024), torch.randn(1024, 1024)
    return 2 * 8192 * 1024**2 / median_seconds(lambda: left @ right, 7)


def main() -> None:
    """Measure in turns and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--texts", type=int, default=200)
    parser.add_argument("--peer-texts", type=int, default=3, help="texts that the peers score (default: 3)")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model, tokenizer = open_model("default", device="cpu", dtype=torch.float32)
    model.eval()
    task, rng = load_task(TASK), np.random.default_rng(0)
    examples = [Example({"sentence": text}) for text in texts(args.texts, rng)]
    begun = seconds_of(lambda: QuestionRenderer(task, tokenizer, model.config).questions(examples, labeled=False))
    questions = QuestionRenderer(task, tokenizer, model.config).questions(examples, labeled=False)
    in_order = sorted(range(len(questions)), key=lambda i: len(questions[i].part_a))
    middles = (2 * np.arange(args.peer_texts) + 1) * len(in_order) // (2 * args.peer_texts)
    few = [questions[in_order[i]] for i in middles]  # of short, middling and long texts alike

    ours: list[float] = []
    peers: dict[str, list[float]] = {"one pass per candidate": [], "one padded batch per text": []}
    ways: dict[str, Callable[[GLMModel, Tokenizer, Question], list[float]]] = dict(
        zip(peers, (one_pass_each, one_batch), strict=True)
    )
    apart = 0.0
    for run in range(args.runs + 1):
        seconds = seconds_of(lambda: predict(model, tokenizer, questions))
        if run:
            ours.append(seconds / len(questions))
        for name, way in ways.items():
            found: list[list[float]] = []
            seconds = seconds_of(lambda way=way, found=found: found.extend(way(model, tokenizer, q) for q in few))  # type: ignore[misc]
            if run:
                peers[name].append(seconds / len(few))
        expected = predict(model, tokenizer, few)
        apart = max(float(np.abs(p.logprobs - each).max()) for p, each in zip(expected, found, strict=True))
    per_text = statistics.median(ours)
    rate, ceiling = operations(model, tokenizer, questions) / (per_text * len(questions)), product_rate()
    print(describe("cpu", args.threads))
    lengths = [len(question.part_a) for question in questions]
    print(
        f"{len(questions)} texts of {statistics.median(lengths):.0f} tokens ({min(lengths)} to {max(lengths)}), "
        f"{len(questions[0].candidates)} candidates in a tree of "
        f"{len(tree_of(questions[0].candidates, tokenizer.markers))} nodes; medians of {args.runs} runs"
    )
    rows: list[list[object]] = [["openglm, one pass per text", f"{1000 * per_text:.1f}", f"{1 / per_text:.1f}", "1.0"]]
    for name, times in peers.items():
        each = statistics.median(times)
        rows.append([f"{name} ({len(few)} texts)", f"{1000 * each:.1f}", f"{1 / each:.2f}", f"{each / per_text:.1f}"])
    print(markdown_table(["way", "ms per text", "texts/s", "times openglm's"], rows))
    print(
        f"openglm computes at {rate / 1e9:.0f} GFLOP/s, {100 * rate / ceiling:.0f} % of the machine's matrix products "
        f"({ceiling / 1e9:.0f} GFLOP/s); making the questions took {begun:.2f} s; "
        f"scores differ from the peers' by at most {apart:.1e}"
    )


if __name__ == "__main__":
    main()
