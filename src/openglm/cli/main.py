"""`openglm COMMAND`: finds the command, runs it, turns errors into one line and an exit code.

Exit codes: 0 done; 1 some inputs of many could not be used, or an internal error; 2 bad
input or options; 130 interrupted. A command's module is imported only when it is run.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from .. import __version__
from ..errors import OpenGLMError, OutputError
from . import streams

COMMANDS = {
    "fill": "fill the blanks of texts",
    "choose": "rank given answers to a text with blanks",
    "predict": "label the records of a file by a fine-tuned run",
    "eval": "measure a model on named tasks, beside published figures",
    "bench": "time a model on this machine, beside what the machine allows",
    "serve": "serve a model over HTTP, with a page to try it",
    "convert": "write a checkpoint in another format",
    "models": "list the models that can be loaded and what each can fill",
    "pretrain": "train a model from a recipe and prepared data",
    "recipes": "list the recipes that come with openglm, or print one",
    "finetune": "train a model on labelled examples, pairs of texts, or documents of one's own",
    "augment": "make more labelled examples from few",
    "data": "prepare a corpus for training, and show training samples",
    "tokenizer": "train a vocabulary on a corpus",
    "completion": "print a script by which a shell completes commands and options",
}

LONGEST = 2000  # characters of a message: input that it repeats may be of any length
NO_MEMORY = ("DefaultCPUAllocator", "out of memory", "Cannot allocate memory")  # what torch says


class _Parser(argparse.ArgumentParser):
    def _print_message(self, message: str, file: Any = None) -> None:
        """Help that cannot be written is an error like other output."""
        if message:
            (file or sys.stderr).write(message)

    def error(self, message: str) -> None:  # type: ignore[override]
        """One line, as for every other bad input."""
        self.exit(2, f"openglm: error: {message:.{LONGEST}} (`{self.prog} --help` shows the options)\n")


def build_full_parser() -> argparse.ArgumentParser:
    """The parser with the options of all commands."""
    return _build_parser(*COMMANDS)


def _build_parser(*chosen: str) -> argparse.ArgumentParser:
    """The parser with the options of some commands; of the others it knows names and summaries."""
    parser = _Parser(prog="openglm", description="GLM, the blank-filling language model: fill, choose, pretrain.")
    parser.add_argument("--version", action="version", version=f"openglm {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_Parser)
    for name, summary in COMMANDS.items():
        sub = commands.add_parser(
            name, help=summary, description=summary[0].upper() + summary[1:] + ".", allow_abbrev=False
        )
        if name in chosen:
            importlib.import_module(f".{name}", __package__).add_arguments(sub)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    if argv is None:
        streams.take_closed_numbers()
    with streams.guarded():
        try:
            try:
                return _run(list(sys.argv[1:] if argv is None else argv))
            finally:
                sys.stdout.flush()  # a help page too, after which argparse leaves by SystemExit
        except BrokenPipeError:
            return 0  # the reader went away (`| head`): nothing is wrong, and nothing more can be said
        except OutputError as error:
            print(f"openglm: error: {error}", file=sys.stderr)
            return 2
        finally:
            streams.abandon()


def _run(arguments: list[str]) -> int:
    if any("\0" in each or not _from_a_shell(each) for each in arguments):
        return _failed("an argument holds NUL or half of a surrogate pair, which no text or name of a file has")
    chosen = next((a for a in arguments if not a.startswith("-")), None)
    try:
        args = _build_parser(*([chosen] if chosen in COMMANDS else [])).parse_args(arguments)
        module = importlib.import_module(f".{args.command}", __package__)
        code: int = module.run(args)
        return code
    except OpenGLMError as error:
        return _failed(str(error))
    except KeyboardInterrupt:
        print("openglm: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        raise
    except OSError as error:  # of the system: a disk, a permission, a limit
        return _failed(f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error))
    except RecursionError:
        return _failed("the input is nested too deeply")
    except Exception as error:  # the promise of this command line is: never a traceback
        if os.environ.get("OPENGLM_DEBUG"):
            traceback.print_exc()
        reason = str(error).strip().split("\n")[0]
        if isinstance(error, MemoryError) or any(sign in reason for sign in NO_MEMORY):
            return _failed(f"not enough memory ({reason or type(error).__name__}); take less at once")
        print(
            f"openglm: internal error: {type(error).__name__}: {reason} (set OPENGLM_DEBUG=1 for the traceback)",
            file=sys.stderr,
        )
        return 1


def _from_a_shell(argument: str) -> bool:
    """Whether it can have come as bytes; those that are no text are surrogates of their own kind."""
    try:
        os.fsencode(argument)
    except UnicodeEncodeError:
        return False
    return True


def _failed(reason: str) -> int:
    if len(reason) > LONGEST:
        reason = f"{reason[: LONGEST // 2]} ... {reason[-LONGEST // 2 :]}"
    print(f"openglm: error: {reason}", file=sys.stderr)
    return 2
