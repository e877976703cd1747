"""`openglm convert`: a checkpoint from one format into another."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ..checkpoints.formats import FORMATS

DTYPES = ("float32", "bfloat16", "float16")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.description = (
        "Write a model in another format, tensor by tensor, and compare both. The source may be a published name, "
        "a name on the hub or a folder in any of the formats; its format is found out."
    )
    parser.add_argument("source", metavar="SOURCE", help="a name (`openglm models`) or a folder")
    parser.add_argument("target", metavar="FOLDER", type=Path, help="the folder to write; it must not exist yet")
    parser.add_argument("--to", required=True, choices=FORMATS, help="format to write")
    parser.add_argument(
        "--model-parallel", type=int, default=1, metavar="N", help="pieces to cut the weights into (flagai, thudm)"
    )
    parser.add_argument("--dtype", choices=DTYPES, help="what to store the weights in (default: as they are)")
    vocabulary = parser.add_mutually_exclusive_group()
    vocabulary.add_argument(
        "--tokenizer", type=Path, metavar="DIR", help="folder with the vocabulary (default: the source)"
    )
    vocabulary.add_argument("--without-tokenizer", action="store_true", help="write no vocabulary")
    parser.add_argument("--json", action="store_true", help="print one JSON object, for machines")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    import torch

    from ..checkpoints.convert import convert
    from ..checkpoints.find import find_folder

    done = convert(
        find_folder(args.source),
        args.target,
        to=args.to,
        model_parallel=args.model_parallel,
        dtype=getattr(torch, args.dtype) if args.dtype else None,
        tokenizer=args.tokenizer,
        without_tokenizer=args.without_tokenizer,
    )
    if args.json:
        values = {
            "folder": str(done.folder),
            "from": done.source,
            "to": done.target,
            "parameters": done.parameters,
            "files": list(done.files),
            "comparison": done.comparison,
            "notes": list(done.notes),
        }
        print(json.dumps(values, ensure_ascii=False))
        return 0
    print(f"{done.folder}: {done.source} -> {done.target}, {done.parameters:,} parameters; {done.comparison}")
    for name in done.files:
        print(f"  {name}")
    for note in done.notes:
        print(f"note: {note}")
    return 0
