"""`--engine ray`: the same command, on parts of its input, by workers on any number of machines.

Each worker runs the command itself on one part after another, so what it writes is what the command
writes here.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import OptionError, brief
from ..files import STANDARD_OUTPUT

NOT_SETTINGS = ("engine", "ray_address", "workers", "worker_gpus", "loaded", "input", "file", "output", "command")


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """--engine and what belongs to it."""
    group = parser.add_argument_group("many machines")
    group.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="ray: files, folders or patterns at any fsspec address in, a folder out, by a pool of workers; "
        "goes on if it was interrupted (extra: ray)",
    )
    group.add_argument("--ray-address", metavar="ADDRESS", help="of a cluster (default: RAY_ADDRESS, or this machine)")
    group.add_argument("--workers", type=int, metavar="N", help="workers, each with a model (default: what is free)")
    group.add_argument("--worker-gpus", type=float, default=0, metavar="N", help="GPUs of each worker (default: 0)")


@dataclass(frozen=True)
class CommandOnParts:
    """Makes the work of one worker: a command with its options; sent to the workers."""

    command: str
    options: dict[str, Any]
    field: str  # option that names the input

    def __call__(self) -> Any:
        """Load the model; what comes back treats one file after another."""
        module = importlib.import_module(f".{self.command}", __package__)
        loaded = module.prepare(argparse.Namespace(**self.options))

        def work(source: Path, target: Path) -> int:
            if not source.stat().st_size:  # a long line left nothing for this part
                target.touch()
                return 0
            own = {self.field: str(source), "output": str(target), "loaded": loaded, "engine": "local"}
            return int(module.run(argparse.Namespace(**{**self.options, **own})))

        return work


def run_on_parts(command: str, args: argparse.Namespace, *, field: str = "input") -> int:
    """Run a command on parts of its input. Returns the exit code.

    Raises:
        OptionError: no files, no folder to write to, or options that do not go together.
        DataError, OutputError: as `plan` and `begin`.
    """
    from ..integrations.parts import begin, plan
    from ..integrations.ray import run_parts

    source, output = getattr(args, field), args.output
    if source in (None, "-") or output is None or output in STANDARD_OUTPUT:
        raise OptionError("--engine ray reads files and writes a folder: give a file, folder or pattern, and --output")
    if args.workers is not None and not 1 <= args.workers <= 10_000:
        raise OptionError(f"--workers must be from 1 to 10,000, not {brief(args.workers)}")
    if not 0 <= args.worker_gpus <= 64:
        raise OptionError(f"--worker-gpus must be from 0 to 64, not {brief(args.worker_gpus)}")
    options = {name: value for name, value in vars(args).items() if not callable(value)}
    settings = [command, {name: value for name, value in options.items() if name not in NOT_SETTINGS}]
    parts = plan(source, output)
    left = begin(output, parts, settings)
    if len(left) < len(parts):
        print(f"openglm: {len(parts) - len(left)} of {len(parts)} parts were done before", file=sys.stderr)
    worst, done = 0, 0
    work = CommandOnParts(command, options, field)
    for target, code, error in run_parts(
        work, left, address=args.ray_address, workers=args.workers, gpus=args.worker_gpus
    ):
        done, worst = done + 1, max(worst, code)
        print(f"openglm: {error or target} ({done} of {len(left)})", file=sys.stderr)
    return worst
