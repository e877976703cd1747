"""Speed of the sampler: documents to packed, blanked-out batches, on one core.

    OMP_NUM_THREADS=1 python benchmarks/sampler.py [--shard DIR --tokenizer DIR] [--json out.json]

A batch is everything a training step needs: documents drawn, windows cut, spans chosen, Part A
and Part B laid out with positions, targets and masks, rows packed. Without --shard the documents
are random ids, log-normal in length (median 300 tokens), with a sentence end at every 20th token
on average. The peer is transformers' `DataCollatorForLanguageModeling` over rows that are cut to
length already (15 % of the tokens masked, no layout, no packing). The ceiling is the rate at
which this core copies memory: what the arrays of a batch take if nothing had to be computed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from machine import markdown_table
from openglm.data.samples import OBJECTIVE_NAMES, SampleMaker
from openglm.data.shards import Shard
from openglm.data.spans import Objectives
from openglm.data.stream import BatchStream, Source
from openglm.tokenizer import Tokenizer, load_tokenizer


def random_corpus(tokenizer: Tokenizer, documents: int = 4000) -> Shard:
    """Documents of random ids."""
    rng = np.random.default_rng(0)
    ends = np.flatnonzero(tokenizer.sentence_ends)
    plain = np.flatnonzero(~tokenizer.sentence_ends[: tokenizer.num_tokens])
    texts = []
    for length in np.exp(rng.normal(np.log(300), 1.0, documents)).astype(int) + 8:
        ids = rng.choice(plain, length)
        stops = rng.random(length) < 1 / 20
        ids[stops] = rng.choice(ends, int(stops.sum()))
        texts.append(ids)
    return Shard.from_documents(texts, tokenizer)


def median_seconds(work: Callable[[int], object], repeats: int) -> float:
    """Median processor time of one call; `work` gets the number of the call."""
    work(0)
    times = []
    for number in range(1, repeats + 1):
        begun = time.process_time()
        work(number)
        times.append(time.process_time() - begun)
    return statistics.median(times)


def copy_rate() -> float:
    """Bytes per second written when 64 MiB are copied."""
    source = np.ones(1 << 23)
    target = np.empty_like(source)
    return source.nbytes / median_seconds(lambda _: np.copyto(target, source), 15)


def measure_peer(vocabulary: int, rows: int, length: int, repeats: int) -> float | None:
    """Tokens per second of the masked-language-model collator, or None without transformers."""
    try:
        transformers: Any = importlib.import_module("transformers")
    except ImportError:
        return None
    words = {name: i for i, name in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])}
    words.update({f"w{i}": i for i in range(5, vocabulary)})
    collator = transformers.DataCollatorForLanguageModeling(
        transformers.BertTokenizerFast(vocab=words), mlm_probability=0.15
    )
    texts = np.random.default_rng(0).integers(5, vocabulary, (rows, length))
    examples = [{"input_ids": row} for row in texts]
    return rows * length / median_seconds(lambda _: collator(examples, return_tensors="np"), repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shard", type=Path, help="a prepared shard instead of random documents")
    parser.add_argument("--tokenizer", type=Path, help="its tokenizer (default: the embedded model's)")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    import openglm

    folder = args.tokenizer or Path(openglm.__file__).parent / "default_model"
    tokenizer = load_tokenizer(folder)
    shard = Shard.open(args.shard, tokenizer) if args.shard else random_corpus(tokenizer)
    rate = copy_rate()
    results: dict[str, Any] = {"copy_bytes_per_second": rate, "rows": args.rows, "length": args.length}
    lines = []
    mixtures = {"mixture 0.4 / 0.3 / 0.3": Objectives()}
    mixtures |= {name: Objectives().only(name) for name in OBJECTIVE_NAMES}
    for name, objectives in mixtures.items():
        source = Source("corpus", shard, 1.0)
        maker = SampleMaker(tokenizer, objectives)
        stream = BatchStream([source], maker, rows=args.rows, length=args.length, short_probability=0.02)
        seconds = median_seconds(stream.batch, args.repeats)
        batches = [stream.batch(number) for number in range(20)]
        used = float(np.mean([b.used for b in batches]))
        part_b = float(np.mean([b.loss_mask.mean() for b in batches]))
        first = batches[0]
        arrays = [v for v in vars(first).values() if isinstance(v, np.ndarray)]
        size = sum(array.nbytes for array in arrays)
        tokens = args.rows * args.length / seconds
        share = size / seconds / rate
        results[name] = {"tokens_per_second": tokens, "used": used, "part_b": part_b, "share_of_copying": share}
        lines.append(
            [name, f"{tokens / 1e6:.1f}", f"{100 * used:.2f} %", f"{100 * part_b:.0f} %", f"{100 * share:.0f} %"]
        )
    peer = measure_peer(tokenizer.num_tokens, args.rows, args.length, args.repeats)
    if peer is None:
        print("transformers is not installed: no peer (pip install '.[benchmarks]')", file=sys.stderr)
    else:
        results["peer_tokens_per_second"] = peer
        lines.append(["transformers' masked-language-model collator", f"{peer / 1e6:.1f}", "", "", ""])
    print(f"{args.rows} rows of {args.length}, one core, copying at {rate / 1e9:.1f} GB/s\n")
    header = ["objective", "million tokens/s", "positions used", "Part B", "share of the copying rate"]
    print(markdown_table(header, lines))
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
