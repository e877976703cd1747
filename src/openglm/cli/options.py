"""Options shared by commands: which model, and how to decode."""

from __future__ import annotations

import argparse
import gc
import json
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..errors import OptionError, brief

if TYPE_CHECKING:
    from ..infill.infiller import Infiller


MOST_SEEDS = 1000  # runs of one command


def _lengths(text: str) -> int | list[int]:
    """One number, or one per blank separated by commas."""
    try:
        values = [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number or numbers with commas, not {text!r}") from None
    return values[0] if len(values) == 1 else values


def _words(text: str) -> Any:
    """A text, or a JSON list: of texts, or with one list per blank."""
    if not text.startswith("["):
        return text
    try:
        return json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"not a JSON list ({error})") from None


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """--model, --device, --dtype, --quantize, --compile."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model", default="default", metavar="NAME|DIR", help="embedded model (default), a published name or a folder"
    )
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default: auto)")
    group.add_argument("--dtype", default="auto", help="auto, float32, bfloat16 or float16 (default: auto)")
    group.add_argument(
        "--quantize",
        metavar="int8",
        help="round the weights to 8 bits: faster on a CPU (the embedded model's are, unless a --dtype is given)",
    )
    group.add_argument(
        "--compile", action="store_true", help="compile the network, for many texts: takes a minute or two once"
    )


def model_options(args: argparse.Namespace) -> dict[str, Any]:
    """Keyword arguments for `load`, beside the name."""
    return {"device": args.device, "dtype": args.dtype, "quantize": args.quantize, "compile": args.compile}


def set_threads(count: int | None) -> None:
    """Compute with so many threads, if a number is given. Raises OptionError."""
    if count is None:
        return
    most = max(64, 4 * (os.cpu_count() or 1))
    if not 1 <= count <= most:
        raise OptionError(f"--threads must be from 1 to {most}, not {brief(count)}")
    import torch

    torch.set_num_threads(count)


def load_model(args: argparse.Namespace) -> Infiller:
    """`openglm.load` with these options.

    What is imported and read at the start stays, so the garbage collector, which would look
    through all of it several times, rests meanwhile.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        from ..infill.loading import load

        return load(args.model, **model_options(args))
    finally:
        if collecting:
            gc.freeze()
            gc.enable()


DECODING: dict[str, tuple[Callable[[str], Any], str, str]] = {
    "max_new_tokens": (_lengths, "N[,N...]", "most tokens of a fill, or one number per blank"),
    "min_new_tokens": (_lengths, "N[,N...]", "fewest tokens of a fill, or one number per blank"),
    "temperature": (float, "T", "0: the most probable token (default); above 0: sample"),
    "top_k": (int, "K", "sample among the K most probable tokens"),
    "top_p": (float, "P", "sample among the most probable tokens that reach probability P"),
    "min_p": (float, "P", "sample among tokens at least P times as probable as the most probable one"),
    "typical_p": (float, "P", "sample among the most typical tokens that reach probability P"),
    "no_repeat_ngram_size": (int, "N", "no run of N tokens stands twice in a fill, or in it and the text"),
    "repetition_penalty": (float, "R", "above 1: avoid tokens already written in this text's blanks"),
    "num_beams": (int, "N", "beam search with N hypotheses"),
    "length_penalty": (float, "A", "rank beams by log-probability / length ** A (default: 0)"),
    "num_return_sequences": (int, "N", "answers per text"),
    "seed": (int, "N", "makes sampling repeat"),
    "truncate": (str, "start|end|around", "what to drop of a text longer than the context (default: refuse it)"),
    "choices": (_words, "JSON", "the fill is one of these texts, a JSON list"),
    "regex": (str, "REGEX", "the fill matches this regular expression"),
    "json_schema": (str, "JSON", "the fill is JSON of this schema"),
    "min_chars": (_lengths, "N[,N...]", "fewest characters of a fill, or one number per blank"),
    "max_chars": (_lengths, "N[,N...]", "most characters of a fill, or one number per blank"),
    "bad_words": (_words, "TEXT|JSON", "what a fill must not contain: a text, or a JSON list"),
    "required": (_words, "TEXT|JSON", "what a fill must contain: a text, or a JSON list"),
    "stop": (_words, "TEXT|JSON", "a fill ends behind this text, or the first of a JSON list"),
}


def add_decoding_options(parser: argparse.ArgumentParser) -> None:
    """One option per field of `FillOptions`; those not given keep the library's defaults."""
    group = parser.add_argument_group("decoding")
    for name, (kind, metavar, text) in DECODING.items():
        short = ["-n"] if name == "num_return_sequences" else []
        flag = f"--{name.replace('_', '-')}"
        group.add_argument(*short, flag, dest=name, type=kind, metavar=metavar, default=None, help=text)


def decoding_options(args: argparse.Namespace) -> dict[str, Any]:
    """Keyword arguments for `Infiller.fill`."""
    return {name: getattr(args, name) for name in DECODING if getattr(args, name) is not None}
