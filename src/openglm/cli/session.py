"""`openglm fill` at a terminal: fills that appear as they are written, text by text."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import OpenGLMError
from .filework import COLOURS, RESET

if TYPE_CHECKING:
    from ..infill.infiller import Infiller
    from ..infill.results import Filled

HISTORY = "OPENGLM_HISTORY"
GREETING = """A text with [MASK], [sMASK] or [gMASK] is filled. Then:
  ?  or ?5     other answers (5 of them)
  2            go on with answer 2: it becomes the text to edit
  =            go on with the text as filled
  :name value  an option, such as :temperature 0.8; :options shows all
  Ctrl-D       ends; arrow keys bring back what was typed"""
ALTERNATIVES = 5


def stream(infiller: Infiller, text: str, options: dict[str, Any], *, colours: bool) -> int:
    """One text with its fills as they are written. Raises as `Infiller.stream`."""
    from ..blanks import BlankedText

    pieces = infiller.stream(text, **options)
    _show(BlankedText.parse(text).literals, pieces, colours)
    return 0


def _show(literals: Iterable[str], pieces: Iterable[Any], colours: bool) -> str:
    """Write literals and fills in their order; returns the filled text."""
    rest = list(literals)
    out: list[str] = []

    def write(part: str) -> None:
        out.append(part)
        sys.stdout.write(part)
        sys.stdout.flush()

    write(rest.pop(0))
    for piece in pieces:
        if piece.text:
            out.append(piece.text)
            before, after = (COLOURS[piece.blank % len(COLOURS)], RESET) if colours else ("", "")
            sys.stdout.write(f"{before}{piece.text}{after}")
            sys.stdout.flush()
        if piece.finish_reason is not None:
            write(rest.pop(0))
    sys.stdout.write("\n")
    return "".join(out)


class Session:
    """Reads texts and commands until the end of input.

    Args:
        options: of decoding, which `:name value` changes.
    """

    def __init__(self, infiller: Infiller, options: dict[str, Any], *, colours: bool) -> None:
        self._infiller, self._options, self._colours = infiller, dict(options), colours
        self._text, self._filled = "", ""
        self._answers: list[Filled] = []
        self._readline: Any = None

    def run(self) -> int:
        """Until Ctrl-D."""
        self._begin()
        print(GREETING)
        while True:
            try:
                line = input("> ").strip()
            except EOFError:
                print()
                break
            except KeyboardInterrupt:
                print()
                continue
            try:
                self._do(line)
            except KeyboardInterrupt:
                print(f"{RESET if self._colours else ''}\n(stopped)")
            except OpenGLMError as error:
                print(f"! {error}")
        self._end()
        return 0

    def _do(self, line: str) -> None:
        if not line:
            return
        if line.startswith(":"):
            self._set(line[1:])
        elif line.startswith("?") and (line == "?" or line[1:].strip().isdecimal()):
            self._alternatives(int(line[1:] or ALTERNATIVES))
        elif line.isdecimal() and 0 < int(line) <= len(self._answers):
            self._go_on(self._answers[int(line) - 1].text)
        elif line == "=" and self._filled:
            self._go_on(self._filled)
        else:
            self._fill(line)

    def _fill(self, text: str) -> None:
        from ..blanks import BlankedText

        self._answers = []
        self._text = text
        pieces = self._infiller.stream(text, **self._options)
        self._filled = _show(BlankedText.parse(text).literals, pieces, self._colours)

    def _alternatives(self, count: int) -> None:
        from .fill import coloured

        if not self._text:
            print("! no text yet; type one with a blank")
            return
        options = {name: value for name, value in self._options.items() if name not in ("temperature", "seed")}
        sampled = float(self._options.get("temperature", 0)) > 0
        asked = {**self._options, "num_return_sequences": count} if sampled else {
            **options, "num_beams": max(2, count), "num_return_sequences": count
        }  # fmt: skip
        filled = self._infiller.fill(self._text, **asked)
        self._answers = filled.answers
        for number, each in enumerate(self._answers, 1):
            print(f"{number:3}  {each.logprob:8.2f}  {coloured(each, self._colours)}")

    def _go_on(self, text: str) -> None:
        """The text stands on the next line, ready to be edited."""
        if self._readline is None:
            print(text)
            return
        self._readline.set_startup_hook(lambda: self._insert(text))

    def _insert(self, text: str) -> None:
        self._readline.insert_text(text)
        self._readline.set_startup_hook(None)

    def _set(self, setting: str) -> None:
        import yaml

        from ..engine.options import FillOptions

        name, _, value = setting.strip().partition(" ")
        name = name.replace("-", "_")
        if name == "options":
            shown = {**{n: f.default for n, f in FillOptions.__dataclass_fields__.items()}, **self._options}
            print("\n".join(f"  {each} {value}" for each, value in shown.items()))
            return
        known = FillOptions.__dataclass_fields__
        if name not in known:
            from ..errors import OptionError, suggest

            raise OptionError(
                f"no option {name!r}.{suggest(name, FillOptions.__dataclass_fields__)} :options shows all"
            )
        changed = {**self._options, name: yaml.safe_load(value)} if value else {
            each: kept for each, kept in self._options.items() if each != name
        }  # fmt: skip
        FillOptions(**changed)
        self._options = changed

    def _begin(self) -> None:
        try:
            import readline
        except ImportError:  # Windows
            return
        self._readline = readline
        with suppress(OSError):
            readline.read_history_file(_history())

    def _end(self) -> None:
        if self._readline is not None:
            self._readline.set_history_length(1000)
            with suppress(OSError):
                _history().parent.mkdir(parents=True, exist_ok=True)
                self._readline.write_history_file(_history())


def _history() -> Path:
    """Where lines typed are kept; the variable OPENGLM_HISTORY names another file."""
    cache = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    return Path(os.environ.get(HISTORY) or cache / "openglm" / "history")
