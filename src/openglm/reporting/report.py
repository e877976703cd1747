"""What a run shows and leaves behind while it goes on: log, TensorBoard files, terminal, trackers.

Knows steps, names and numbers; nothing about models, data or how an update is made, so every
kind of training reports through it. In a run of many processes only the first has a report.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from ..errors import DataError, MissingLibraryError, TrainingError
from ..files import write_atomically
from .board import Board
from .trackers import choose_trackers, start_trackers

LOG_FILE = "log.jsonl"
TENSORBOARD_FOLDER = "tensorboard"
LOSS = "loss/"  # how the names of the losses of single objectives begin

# Notes about the process, not about the training: shown, but not part of the log, which must
# not depend on when a run was stopped or saved.
PASSING = ("saved", "resumed", "stopped", "finished")


def read_log(path: Path) -> list[dict[str, Any]]:
    """The entries of a log in the order written; a last line cut short by a kill is left out.

    Raises:
        DataError: an unreadable file, or a line that is not a JSON object.
    """
    lines = _lines(path)
    for number, (_, entry) in enumerate(lines, 1):
        if entry is None and number < len(lines):
            raise DataError(f"{path}, line {number}: not a JSON object; remove the line, or give the log of a run")
    return [entry for _, entry in lines if entry is not None]


def _lines(path: Path) -> list[tuple[bytes, dict[str, Any] | None]]:
    """Each line that is not empty, and the JSON object on it, None if there is none."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); give the {LOG_FILE} of a run") from error
    return [(line, _entry(line)) for line in content.split(b"\n") if line.strip()]


def _entry(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


class Report:
    """Writes `log.jsonl` and TensorBoard files, feeds trackers, and tells the user how a run goes.

    Steps are numbers of updates done. Nothing is opened before the first entry, so a run that
    fails at once leaves nothing behind.

    Args:
        folder: of the run.
        total_steps: updates in the whole run.
        peak_flops: FLOP/s that all devices of the run reach in matrix products, for the share
            of peak (see `training.peak`); None: no share is shown.
        track: "auto", "none", "trackio" or "wandb"; see `reporting.trackers`.
        run_name: what trackers call the run (default: the name of the folder).
        config: what trackers keep beside it, plain values.
        interactive: draw a progress bar; by default if standard error is a terminal.

    Raises:
        OptionError: a tracker that is unknown or not installed.
    """

    def __init__(
        self,
        folder: Path,
        *,
        total_steps: int,
        peak_flops: float | None = None,
        track: str = "auto",
        run_name: str | None = None,
        config: Mapping[str, Any] | None = None,
        interactive: bool | None = None,
    ) -> None:
        self.folder, self.total_steps, self.peak_flops = folder, total_steps, peak_flops
        self.interactive = sys.stderr.isatty() if interactive is None else interactive
        self._run_name, self._config = run_name or folder.resolve().name, config or {}
        self._trackers = choose_trackers(track, self._say)
        self._resumed: int | None = None
        self._log: IO[str] | None = None
        self._board: Board | None = None
        self._bar: Any = None

    def __enter__(self) -> Report:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def resume_at(self, step: int) -> None:
        """Go on after update `step`, or with 0 start anew, in a folder that may hold a log.

        Entries of later updates are dropped, for these updates will be made again; so are
        lines damaged by a kill. To be called before the first entry.

        Raises:
            DataError: the log there cannot be read.
        """
        self._resumed = step
        self._keep_up_to(step)

    def _keep_up_to(self, step: float) -> None:
        path = self.folder / LOG_FILE
        if not path.exists():
            return
        lines = _lines(path)
        kept = [line for line, entry in lines if entry is not None and not _is_after(entry, step)]
        content = b"".join(line + b"\n" for line in kept)
        if content != path.read_bytes():
            write_atomically(path, content)
        damaged = sum(entry is None for _, entry in lines[:-1])  # the last one may well be cut short
        if damaged:
            self._say(f"{path}: left out {damaged} damaged line{'s' if damaged > 1 else ''}")

    def advance(self, step: int) -> None:
        """Move the progress bar after update `step`; cheap enough for every update."""
        if not self.interactive:
            return
        if self._bar is None:
            from tqdm import tqdm

            self._bar = tqdm(
                total=self.total_steps,
                initial=min(self._resumed or 0, step),
                unit="update",
                dynamic_ncols=True,
                file=sys.stderr,
                bar_format="{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}, {remaining} left{postfix}",
            )
        self._bar.update(step - self._bar.n)

    @contextmanager
    def busy(self, what: str) -> Iterator[None]:
        """Say on the bar what is going on between updates, such as "validating"."""
        if self._bar is None:
            yield
            return
        before = self._bar.postfix
        self._bar.set_postfix_str(what)
        try:
            yield
        finally:
            self._bar.set_postfix_str(before or "")

    def training(self, step: int, entry: Mapping[str, float], *, flops_per_token: float | None = None) -> None:
        """Report on the updates since the last such entry.

        Args:
            entry: what goes into the log; the terminal shows `loss`, `loss/<objective>`, `lr`
                and `tokens_per_second` of it, in its order.
            flops_per_token: FLOPs of a training step per token (`peak.training_flops`); with
                `peak_flops` gives `share_of_peak`, which goes into the log as well.
        """
        entry = dict(entry)
        if flops_per_token and self.peak_flops and "tokens_per_second" in entry:
            entry["share_of_peak"] = entry["tokens_per_second"] * flops_per_token / self.peak_flops
        self._write({"step": step, **entry})
        self._scalars("train", entry, step)
        losses = [f"{key.removeprefix(LOSS)} {value:.2f}" for key, value in entry.items() if key.startswith(LOSS)]
        speed = f"{entry['tokens_per_second']:,.0f} tokens/s" if "tokens_per_second" in entry else ""
        share = f"{100 * entry['share_of_peak']:.0f} % of peak" if "share_of_peak" in entry else ""
        total = f"loss {entry['loss']:.3f}" if "loss" in entry else ""
        if self.interactive:
            self.advance(step)
            self._bar.set_postfix_str("  ".join(filter(None, [" ".join(losses) or total, speed, share])))
        else:
            rate = f"lr {entry['lr']:.2e}" if "lr" in entry else ""
            parts = [f"update {step}/{self.total_steps}", total, " ".join(losses), rate, speed, share]
            self._say("  ".join(filter(None, parts)))

    def validation(self, step: int, losses: Mapping[str, float], extra: Mapping[str, Any] | None = None) -> None:
        """Report losses on held-out data.

        Args:
            losses: name, such as `source/objective`, -> nats per token.
            extra: what else belongs into the entry, such as `tokens_seen`.
        """
        self._write({"step": step, **(extra or {}), "validation": dict(losses)})
        self._scalars("validation", losses, step)
        if self._board is not None:
            self._board.flush()
        text = "  ".join(f"{name} {value:.3f}" for name, value in losses.items())
        self._say(f"update {step}  validation  {text}")

    def note(self, step: int, kind: str, message: str) -> None:
        """Say that something happened, such as a skipped update (`kind` is a word or two).

        It goes into the log too, unless it is about the process and not the training (`PASSING`).
        """
        if kind not in PASSING:
            self._write({"step": step, "note": kind, "message": message})
        self._say(f"update {step}  {kind}: {message}")

    def fills(self, step: int, texts: Sequence[str]) -> None:
        """Show what the model writes into blanks, one line per text."""
        if not texts:
            return
        self._write({"step": step, "fills": list(texts)})
        if self._board is not None:  # indented, a text stands as it is, not as Markdown
            self._board.text("fills", "\n".join(f"    {text}" for text in texts), step)
        self._say("\n".join([f"update {step}  fills", *(f"  {text}" for text in texts)]))

    def close(self) -> None:
        """Write out and close everything; may be called twice."""
        if self._bar is not None:
            self._bar.close()
        if self._board is not None:
            self._board.close()
        if self._log is not None:
            self._log.close()
            for tracker in self._trackers:
                tracker.finish()
        self._bar = self._board = self._log = None

    def _open(self) -> IO[str]:
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._resumed is None:
            self._keep_up_to(math.inf)  # nothing may be written behind half a line
        log = (self.folder / LOG_FILE).open("a", encoding="utf-8", newline="\n")
        self._board = self._open_board()
        start_trackers(self._trackers, self.folder, self._run_name, self._config, fresh=self._resumed == 0)
        return log

    def _open_board(self) -> Board | None:
        """The TensorBoard writer; without its library, None and a note: the log holds the same figures."""
        purge = None if self._resumed is None else self._resumed + 1
        try:
            return Board(self.folder / TENSORBOARD_FOLDER, purge_step=purge, say=self._say)
        except MissingLibraryError as error:
            self._say(f"note: no files for TensorBoard: {error}")
            return None

    def _write(self, entry: Mapping[str, Any]) -> None:
        try:
            if self._log is None:
                self._log = self._open()
            self._log.write(json.dumps(_finite(entry), ensure_ascii=False, allow_nan=False) + "\n")
            self._log.flush()
        except OSError as error:
            raise TrainingError(
                f"{self.folder / LOG_FILE}: cannot be written ({error.strerror}); "
                "make room there, then the same command goes on from the last state"
            ) from error

    def _scalars(self, group: str, values: Mapping[str, float], step: int) -> None:
        named = {f"{group}/{name}": value for name, value in values.items()}
        for name, value in named.items():
            if self._board is not None:
                self._board.scalar(name, value, step)
        for tracker in self._trackers:
            tracker.log(named, step)

    def _say(self, text: str) -> None:
        if self.interactive:
            from tqdm import tqdm

            tqdm.write(text, file=sys.stderr)  # above the bar
        else:
            print(text, file=sys.stderr, flush=True)


def _is_after(entry: Mapping[str, Any], step: float) -> bool:
    number = entry.get("step")
    return isinstance(number, (int, float)) and number > step


def _finite(value: Any) -> Any:
    """Plain values as JSON knows them: numbers that are not finite become null."""
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
