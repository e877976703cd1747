"""`openglm bench`: how fast a model is on this machine, beside what the machine allows."""

from __future__ import annotations

import argparse
import json

from ..errors import OptionError
from .options import add_model_options, load_model, set_threads

MOST = 2**16  # of any number here


def _numbers(text: str) -> list[int]:
    try:
        values = [int(part) for part in text.split(",")]
    except ValueError:
        values = [0]
    if min(values) < 1:
        raise argparse.ArgumentTypeError(f"expected numbers above 0 with commas, not {text!r}")
    return values


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--context", type=_numbers, default=[256], metavar="N[,N...]", help="tokens of a text (default: 256)"
    )
    parser.add_argument(
        "--batch", type=_numbers, default=[1, 16], metavar="N[,N...]", help="texts at once (default: 1,16)"
    )
    parser.add_argument("--tokens", type=int, default=24, metavar="N", help="steps to time (default: 24)")
    parser.add_argument("--threads", type=int, metavar="N", help="threads on a CPU (default: torch's choice)")
    parser.add_argument("--json", action="store_true", help="print JSON Lines, for machines")
    add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    if not 1 <= args.tokens <= MOST or max(*args.context, *args.batch) > MOST:
        raise OptionError(f"--tokens, --context and --batch must be from 1 to {MOST:,}")
    set_threads(args.threads)
    import torch

    from ..evaluation.speed import measure, weight_sizes

    infiller = load_model(args)
    model, tokenizer = infiller.model, infiller.tokenizer
    kind = model.quantized or str(model.word_embeddings.weight.dtype).removeprefix("torch.")
    if not args.json:
        where = torch.cuda.get_device_name() if args.device.startswith("cuda") else f"{torch.get_num_threads()} threads"
        kernel = infiller.engine.runner.kernel
        attention = f"attention by the {kernel} kernel" if kernel else "attention by torch"
        print(f"{args.model}: {weight_sizes(model)[0] / 1e6:.1f} M weights in {kind}, {where}, {attention}")
        print(f"{'':34}  {'ms':>8}  {'tokens/s':>9}  {'rate':>13}  {'ceiling':>13}  share")
    found = measure(
        model, contexts=args.context, batches=args.batch, tokens=args.tokens, markers=tokenizer.markers,
        eos=tokenizer.eos, runner=infiller.engine.runner,
    )  # fmt: skip
    for each in found:
        if args.json:
            print(json.dumps(each.to_dict(), ensure_ascii=False), flush=True)
        else:
            unit = f"G{each.unit}"
            print(
                f"{each.name:34}  {each.milliseconds:8.2f}  {each.tokens_per_second:9.0f}  "
                f"{each.rate / 1e9:7.1f} {unit}  {each.ceiling / 1e9:7.1f} {unit}  {100 * each.share:4.0f} %",
                flush=True,
            )
    return 0
