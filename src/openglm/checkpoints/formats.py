"""Which format a model folder is in and which files hold its weights: told by content, without torch.

| format | told by |
|---|---|
| openglm | `config.json` with `"format": "openglm"` |
| thudm | `mp_rank_XX_model_states.pt`, in the folder or in the one its tracker file names |
| huggingface | `config.json` of `model_type` glm, or with an `auto_map` |
| flagai | any other `config.json` beside weights |

Knows nothing about tensors.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Container, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from ..errors import CheckpointError

CONFIG_FILE = "config.json"
OPENGLM, FLAGAI, HUGGINGFACE, THUDM = "openglm", "flagai", "huggingface", "thudm"
FORMATS = (OPENGLM, FLAGAI, HUGGINGFACE, THUDM)

SHOWN = 8  # names in a message
TRACKER_FILES = ("latest_checkpointed_iteration.txt", "latest")
RANK_FILE = "mp_rank_{:02d}_model_states.pt"
FLAGAI_RANK_FILE = "pytorch_model_{:02d}.bin"
_RANK_FILE = re.compile(r"mp_rank_(\d+)_model_states\.pt")
_FLAGAI_RANK_FILE = re.compile(r"pytorch_model_(\d+)\.bin")
# Single file, index, and shards, in the order in which they are looked for.
_LAYOUTS = (
    ("model.safetensors", re.compile(r"model-(\d+)(?:-of-(\d+))?\.safetensors")),
    ("pytorch_model.bin", re.compile(r"pytorch_model-(\d+)(?:-of-(\d+))?\.bin")),
)


@dataclass(frozen=True)
class WeightFiles:
    """Files that together hold a network.

    Attributes:
        files: in order.
        ranks: whether they are model-parallel pieces of every tensor, one per rank, rather
            than files that each hold some of the tensors.
    """

    files: tuple[Path, ...]
    ranks: bool = False


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        CheckpointError: missing, not JSON, or not an object.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file; a model folder needs it beside the weights") from error
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not readable as JSON ({error}); fetch or copy it again") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: not a configuration (a JSON object)")
    return values


def detect(folder: Path) -> str:
    """The format of a model folder.

    Raises:
        CheckpointError: no model in a known format; says what is missing.
    """
    path = folder / CONFIG_FILE
    values = read_json(path) if path.is_file() else None
    if values is not None and values.get("format") == OPENGLM:
        return OPENGLM
    if rank_folder(folder) is not None:
        return THUDM
    if values is None:
        raise CheckpointError(
            f"{folder}: no {CONFIG_FILE} there, and no {RANK_FILE.format(0)} or tracker file, "
            f"so this is not a model folder in a known format{_of_a_run(folder)}"
        )
    if weight_files(folder) is None:
        raise CheckpointError(
            f"{folder}: no weights there (model.safetensors or pytorch_model.bin), "
            "so this is not a model folder in a known format"
        )
    return HUGGINGFACE if values.get("model_type") == "glm" or "auto_map" in values else FLAGAI


def _of_a_run(folder: Path) -> str:
    """What part of a run a folder is, if it is one, and what to do with it."""
    if existing(folder, ("adapter_config.json", "adapter.json")):
        return (
            ": it holds an adapter. Load the model that it belongs to, and put it on that with "
            "openglm.finetuning.adapter_files.load_adapter; the run's folder has both merged"
        )
    if existing(folder, ("prompt.json",)):
        return ": it holds a trained prompt alone. The run's own folder has it with its network"
    if os.path.isdir(folder) and any(folder.glob("seed-*")):
        return ": it holds a run that is not finished. Give the command that began it again"
    return ""


def is_complete(folder: Path) -> bool:
    """Whether a folder holds a model in a known format with all its weights files."""
    try:
        found = detect(folder)
        return found == THUDM or weight_files(folder) is not None
    except CheckpointError:
        return False


def weight_files(folder: Path) -> WeightFiles | None:
    """The weights files of a folder that has a configuration; None if there are none.

    Raises:
        CheckpointError: shards or pieces are missing (all are listed), or the index is damaged.
    """
    for single, shard in _LAYOUTS:
        index = folder / f"{single}.index.json"
        if index.is_file():
            names = _indexed(index)
            # Not Path.is_file, which fails for names that are too long for a file.
            missing = [name for name in names if not os.path.isfile(folder / name)]
            if missing and not (folder / single).is_file():
                shown = [name if len(name) <= 80 else f"{name[:80]}..." for name in missing]
                raise CheckpointError(f"{index}: names files that are not there: {_some(shown)}; fetch them too")
            if not missing:
                return WeightFiles(tuple(folder / name for name in names))
        if (folder / single).is_file():
            return WeightFiles((folder / single,))
        numbered = _numbered(folder, shard)
        if numbered:
            total = max(int(match.group(2) or 0) for match in numbered.values())
            absent = _absent(range(1, total + 1), numbered)
            if absent:
                listed = _some([str(number) for number in absent])
                raise CheckpointError(
                    f"{folder}: of the weights files 1 to {total} these are missing: {listed}; fetch them too"
                )
            return WeightFiles(tuple(folder / numbered[number].group() for number in sorted(numbered)))
    pieces = _numbered(folder, _FLAGAI_RANK_FILE)
    return WeightFiles(_all_ranks(folder, pieces, FLAGAI_RANK_FILE), ranks=True) if pieces else None


def _indexed(index: Path) -> list[str]:
    table = read_json(index).get("weight_map")
    values = list(table.values()) if isinstance(table, dict) else []
    if not values or not all(isinstance(name, str) and Path(name).name == name for name in values):
        raise CheckpointError(f"{index}: no index of weights files (`weight_map`: tensor -> file); fetch it again")
    return sorted({*values})


def _numbered(folder: Path, pattern: re.Pattern[str]) -> dict[int, re.Match[str]]:
    # Not Path.is_dir, which fails for names that are too long for a folder.
    matches = [pattern.fullmatch(path.name) for path in folder.iterdir()] if os.path.isdir(folder) else []
    return {int(match.group(1)): match for match in matches if match is not None}


def _absent(numbers: range, found: Container[int]) -> list[int]:
    """The first of the numbers that were not found: of a name that is a mistake there may be no end of them."""
    return list(islice((number for number in numbers if number not in found), SHOWN + 1))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def _all_ranks(folder: Path, found: dict[int, re.Match[str]], name: str) -> tuple[Path, ...]:
    missing = [name.format(rank) for rank in _absent(range(max(found)), found)]
    if missing:
        raise CheckpointError(f"{folder}: pieces are missing among the model-parallel ranks: {_some(missing)}")
    return tuple(folder / found[rank].group() for rank in sorted(found))


# --- the original's folders -----------------------------------------------------------


def rank_folder(folder: Path) -> Path | None:
    """The folder that holds `mp_rank_*` files: this one, or the one its tracker file names.

    Raises:
        CheckpointError: the tracker names a folder that is not there or holds no such files.
    """
    if _numbered(folder, _RANK_FILE):
        return folder
    for name in TRACKER_FILES:
        tracker = folder / name
        if not tracker.is_file():
            continue
        try:
            tag = tracker.read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{tracker}: not readable as text ({error})") from error
        if tag == ".." or not tag or Path(tag).name != tag:
            raise CheckpointError(f"{tracker}: should hold the name of a folder beside it, not {tag[:80]!r}")
        if not _numbered(folder / tag, _RANK_FILE):
            raise CheckpointError(f"{tracker}: names {tag[:80]}, but there are no {RANK_FILE.format(0)}, ... in it")
        return folder / tag
    return None


def rank_files(folder: Path) -> WeightFiles:
    """The files of all ranks in the folder that holds them.

    Raises:
        CheckpointError: ranks missing before the last one found.
    """
    return WeightFiles(_all_ranks(folder, _numbered(folder, _RANK_FILE), RANK_FILE), ranks=True)


def existing(folder: Path, names: Sequence[str]) -> list[Path]:
    """Those of `names` that are files in the folder."""
    return [folder / name for name in names if (folder / name).is_file()]
