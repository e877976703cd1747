"""`openglm serve`: an HTTP API and a page to try it."""

from __future__ import annotations

import argparse
import importlib.util
import ipaddress
import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import OpenGLMError, OptionError
from .options import add_model_options, load_model, set_threads

if TYPE_CHECKING:
    from ..serve.settings import Limits

KEY_VARIABLE = "OPENGLM_API_KEY"
PREFIX = "OPENGLM_SERVE_"  # --max-tokens is OPENGLM_SERVE_MAX_TOKENS; what is repeated is listed with commas
YES, NO = ("1", "true", "yes", "on"), ("", "0", "false", "no", "off")
LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
NEEDED = ("starlette", "uvicorn", "pydantic", "prometheus_client")
LIMITS = {
    "requests": ("max-requests", int, "N", "requests running or waiting; more get 429"),
    "tokens": ("max-tokens", int, "N", "tokens written for one request"),
    "answers": ("max-answers", int, "N", "answers or beams of one request"),
    "body": ("max-bytes", int, "N", "bytes of a request"),
    "seconds": ("max-seconds", float, "S", "seconds a request may take"),
    "grace": ("grace", float, "S", "seconds that running requests get to finish on SIGTERM"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.description = (
        "Serve a model: /v1/fill, /v1/choose, /v1/score, /v1/classify for fine-tuned runs, OpenAI's /v1/completions, "
        "what editors speak, and a page at /. "
        f"A key in the variable {KEY_VARIABLE} or in --key-file has to be shown by every request. Every option may "
        f"stand in a variable instead: --max-tokens in {PREFIX}MAX_TOKENS, with commas between what is repeated."
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, default=8000, help="port; 0 takes a free one (default: 8000)")
    parser.add_argument("--name", metavar="NAME", help="what requests call the model (default: its name)")
    parser.add_argument(
        "--task", metavar="NAME|FILE", help="say its labels at /v1/classify (a fine-tuned run says its own)"
    )
    parser.add_argument("--key-file", metavar="FILE", help="file with the key that requests must show")
    parser.add_argument(
        "--allowed-host",
        action="append",
        default=[],
        metavar="NAME",
        help="name by which a proxy calls; repeat for more",
    )
    parser.add_argument(
        "--cors-origin", action="append", default=[], metavar="URL", help="origin whose pages may call; repeat for more"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="threads on a CPU (default: torch's choice)")
    group = parser.add_argument_group("limits")
    for name, (flag, kind, metavar, text) in LIMITS.items():
        group.add_argument(f"--{flag}", dest=f"limit_{name}", type=kind, metavar=metavar, help=text)
    add_model_options(parser)
    _take_environment(parser)


def _take_environment(parser: argparse.ArgumentParser) -> None:
    """Let the variables of the environment stand for options that are not given.

    Raises:
        OptionError: a value that the option does not take.
    """
    for action in parser._actions:
        flag = next((flag[2:] for flag in action.option_strings if flag.startswith("--")), "help")
        value = os.environ.get(variable := PREFIX + flag.upper().replace("-", "_"))
        if flag == "help" or value is None:
            continue
        try:
            action.default = _converted(action, value)
        except (ValueError, argparse.ArgumentTypeError) as error:
            raise OptionError(f"{variable}={value!r} is no value for --{flag}; change or unset it") from error


def _converted(action: argparse.Action, value: str) -> object:
    if action.nargs == 0:
        if value.lower() not in YES + NO:
            raise ValueError(value)
        return value.lower() in YES
    if isinstance(action.default, list):
        return [part.strip() for part in value.split(",") if part.strip()]
    return action.type(value) if callable(action.type) else value


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise OpenGLMError(f'serving needs {", ".join(missing)}: pip install "openglm[serve]"')
    from ..serve.settings import Limits

    given = {name: getattr(args, f"limit_{name}") for name in LIMITS}
    limits = Limits(**{name: value for name, value in given.items() if value is not None})
    folder = Path(args.model)
    name = args.name or (folder.resolve() if folder.exists() else folder).name  # not where it lies
    set_threads(args.threads)
    from ..serve import server

    with server.bind(args.host, args.port) as listening:
        return _serve(args, listening, name, limits)


def _serve(args: argparse.Namespace, listening: socket.socket, name: str, limits: Limits) -> int:
    local = _is_local(listening.getsockname()[0])
    from ..serve.settings import Settings

    settings = Settings(
        name=name,
        aliases=() if Path(args.model).exists() or args.model == name else (args.model,),
        key=_key(args.key_file),
        hosts=(*LOCAL_NAMES, args.host, *args.allowed_host) if local or args.allowed_host else (),
        cors_origins=tuple(args.cors_origin),
        limits=limits,
    )
    if settings.key is None and not local:
        print(f"openglm: note: anyone who reaches {args.host} may use this server; set a key", file=sys.stderr)

    from ..serve import server
    from ..serve.app import build_app
    from ..serve.classifying import open_served

    app = build_app(open_served(args.model, args.task, args.device, lambda: load_model(args)), settings)
    host = f"[{args.host}]" if ":" in args.host else args.host
    print(f"openglm: {name} at http://{host}:{listening.getsockname()[1]} (API at /docs)", file=sys.stderr, flush=True)
    return server.run(app, listening)


def _key(path: str | None) -> str | None:
    if path is None:
        key = os.environ.get(KEY_VARIABLE)
        if key is not None and not key.strip():
            raise OptionError(f"{KEY_VARIABLE} is set but empty; put a key into it, or unset it to serve without one")
        return key
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"--key-file {path}: cannot be read ({error})") from error


def _is_local(address: str) -> bool:
    try:
        return ipaddress.ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return False
