"""Ray: fill and choose inside Ray Data, and whole files worked on by a pool of actors.

Ray Data keeps a pool of actors, each with a model of its own, on however many machines and
GPUs there are. In one's own pipeline the actor is `FillColumns`:

    import ray
    from openglm.integrations.columns import FillColumns

    ray.data.read_parquet("s3://bucket/texts").map_batches(
        FillColumns, fn_constructor_kwargs={"text": "text", "max_new_tokens": 16}, concurrency=4
    ).write_parquet("s3://bucket/filled")

`run_parts` is what `--engine ray` of the commands does. Knows nothing about what the work is.
"""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import OpenGLMError, OptionError
from ..extras import library
from .parts import InputPart, deliver, fetch

REACH_SECONDS = 10.0

Work = Callable[[Path, Path], int]  # local input, local output -> exit code


class PartWorker:
    """An actor: fetches a part, has it worked on, delivers the result.

    Args:
        make: gives the work; called once in each actor, which is when a model is loaded.
    """

    def __init__(self, make: Callable[[], Work]) -> None:
        self._work = make()

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        """One part after another; columns `target`, `code` and `error`."""
        rows = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
        done = [self._one(row) for row in rows]
        return {name: [each[name] for each in done] for name in ("target", "code", "error")}

    def _one(self, row: Mapping[str, Any]) -> dict[str, Any]:
        end = int(row["end"])
        part = InputPart(str(row["source"]), int(row["start"]), None if end < 0 else end, str(row["target"]))
        try:
            with tempfile.TemporaryDirectory(prefix="openglm-part-") as folder:
                local = fetch(part, Path(folder))
                result = Path(folder) / f"result{local.suffix}"
                code = self._work(local, result)
                deliver(result, part)
        except OpenGLMError as error:
            return {"target": part.target, "code": 2, "error": f"{part.source}: {error}"}
        return {"target": part.target, "code": code, "error": ""}


def connect(address: str | None) -> Any:
    """Ray, joined to a cluster: that at `address`, that of RAY_ADDRESS, or one of this machine alone.

    Raises:
        MissingLibraryError: Ray is not installed.
        OptionError: no cluster answers there.
    """
    ray = library("ray", extra="ray", purpose="--engine ray")
    if not ray.is_initialized():
        _reach(address)
        try:
            ray.init(address=address, log_to_driver=True, logging_level="warning", include_dashboard=False)
        except (ConnectionError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise OptionError(f"no Ray cluster can be reached at {address or 'this machine'} ({reason})") from error
    return ray


def _reach(address: str | None) -> None:
    """Knock at `host:port` first: Ray itself would go on knocking for minutes. Raises OptionError."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise OptionError(f"no Ray cluster can be reached at {address} ({error})") from error


def run_parts(
    make: Callable[[], Work],
    parts: Sequence[InputPart],
    *,
    address: str | None = None,
    workers: int | None = None,
    gpus: float = 0,
) -> Iterator[tuple[str, int, str]]:
    """Have parts worked on by a pool of actors; a part whose worker dies is done again by another.

    Args:
        make: as in `PartWorker`; it travels to the workers.
        workers: actors; None for as many as there are free processors, or GPUs where they are asked for.
        gpus: of each worker.

    Yields:
        Target, exit code and error of each part, as they are done.

    Raises:
        MissingLibraryError, OptionError: as `connect`.
    """
    if not parts:
        return
    ray = connect(address)
    free = ray.cluster_resources().get("GPU" if gpus else "CPU", 1) / (gpus or 1)
    pool = max(1, min(len(parts), workers or int(free)))
    data = library("ray.data", extra="ray", purpose="--engine ray")
    data.DataContext.get_current().enable_progress_bars = False
    rows = [{**asdict(part), "end": -1 if part.end is None else part.end} for part in parts]
    done = data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        PartWorker,
        fn_constructor_kwargs={"make": make},
        batch_size=1,
        batch_format="numpy",
        concurrency=pool,
        num_cpus=0 if gpus else 1,
        num_gpus=gpus or None,
    )
    for row in done.iter_rows():
        yield str(row["target"]), int(row["code"]), str(row["error"])
