"""What a model was loaded from, by which an `Infiller` travels to other processes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import InputError


@dataclass(frozen=True)
class Origin:
    """The arguments of `load`, and marks of the weights it gave.

    Attributes:
        name_or_path: folders as absolute paths.
        options: the keywords.
        marks: change whenever a weight is written to, replaced, or set aside by an adapter.
    """

    name_or_path: str
    options: dict[str, Any]
    marks: tuple[tuple[str, int, int], ...] = field(default=(), repr=False)

    @classmethod
    def of(cls, name_or_path: str | Path, **options: Any) -> Origin:
        """From the arguments of `load`."""
        folder = Path(name_or_path)
        return cls(str(folder.resolve()) if folder.is_dir() else str(name_or_path), options)

    def marked(self, model: nn.Module) -> Origin:
        """With the marks of this model."""
        return dataclasses.replace(self, marks=_marks(model))

    def check(self, model: nn.Module) -> None:
        """Refuse a model that is no longer what was loaded.

        Raises:
            InputError: its weights were changed.
        """
        if self.marks != _marks(model):
            raise InputError(
                f"the weights were changed since they were loaded from {self.name_or_path}, so this Infiller cannot be "
                "pickled by its name; write it to a folder (openglm.checkpoints.native.save_model), and load and "
                "pickle that one"
            )


def _marks(model: nn.Module) -> tuple[tuple[str, int, int], ...]:
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return tuple((name, id(tensor), 0 if tensor.is_inference() else tensor._version) for name, tensor in tensors)
