"""The examples of a task: where its files lie, and their records after the task's transforms."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from ..errors import DataError
from .examples import Example, read_examples
from .task import Task
from .transforms import prepared

DATA_VARIABLE = "OPENGLM_EVAL"
SPLITS = ("train", "dev", "test")


def task_paths(task: Task, split: str, data_dir: str | Path | None = None) -> list[Path]:
    """The file of a split of a task.

    Args:
        split: "train", "dev" or "test".
        data_dir: folder with the files of tasks; by default what OPENGLM_EVAL says.

    Raises:
        DataError: the task has no such split, no folder is known, or the file is not there.
    """
    if split not in task.files:
        has = ", ".join(task.files) or "no files"
        raise DataError(f"the task {task.name} has no {split!r} data (it has {has}); give files instead")
    folder = data_dir or os.environ.get(DATA_VARIABLE)
    if not folder:
        raise DataError(
            f"the data of {task.name} lie in {task.files[split]} of a data folder; "
            f"name the folder with --data-dir or {DATA_VARIABLE}"
        )
    path = Path(folder) / task.files[split]
    if not path.is_file():
        raise DataError(f"{path}: no such file; {task.name} reads {task.files[split]} in the data folder")
    return [path]


def task_examples(
    task: Task, split_or_paths: str | Path | Iterable[str | Path], data_dir: str | Path | None = None
) -> list[Example]:
    """Examples of a split, or of files, after the task's transforms.

    Raises:
        DataError: as `task_paths` and `read_examples`, or an example that a transform cannot read.
    """
    if isinstance(split_or_paths, str) and split_or_paths in {*SPLITS, *task.files}:
        split_or_paths = task_paths(task, split_or_paths, data_dir)
    return prepared(read_examples(split_or_paths), task.prepare)
