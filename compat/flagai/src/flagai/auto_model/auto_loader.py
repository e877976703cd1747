"""`AutoLoader`: a task and a model's name -> network and tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from openglm.checkpoints.published import find_published, published_names
from openglm.errors import OptionError, suggest

from ..data.tokenizer import GLMTokenizer, Tokenizer
from ..model.base_model import CHECKPOINTS, BaseModel, model_folder
from ..model.glm_model import GLMForSeq2Seq, GLMForSequenceClassification, GLMModel

TASKS: dict[str, type[BaseModel]] = {
    "lm": GLMModel,
    "seq2seq": GLMForSeq2Seq,
    "poetry": GLMForSeq2Seq,
    "title-generation": GLMForSeq2Seq,
    "classification": GLMForSequenceClassification,
}


class AutoLoader:
    """Loads model and tokenizer.

    Args:
        task_name: one of `TASKS`.
        model_name: a published GLM, in any case, or a folder in `model_dir`. A folder
            NAME-TASK there comes first.
        model_dir: the folder that holds model folders.
        only_download_config: be content with a configuration, and fresh weights.
        device: where the model goes.
        kwargs: overrule the configuration (`class_num` for classification).

    Raises:
        OptionError: an unknown task, or a model that is no GLM.
        ModelNotFoundError, CheckpointError, ConfigError, TokenizerError: as when loading.
    """

    def __init__(
        self,
        task_name: str = "lm",
        model_name: str = "GLM-large-ch",
        model_dir: str | Path = CHECKPOINTS,
        only_download_config: bool = False,
        device: str | torch.device = "cpu",
        **kwargs: Any,
    ) -> None:
        if task_name not in TASKS:
            raise OptionError(f"no task {task_name!r} for GLM.{suggest(task_name, TASKS)} There are {', '.join(TASKS)}")
        special = f"{model_name}-{task_name}"
        chosen = special if model_folder(model_dir, special) else model_name
        folder = model_folder(model_dir, chosen)
        if folder is None and find_published(model_name) is None:
            raise OptionError(
                f"no GLM is called {model_name!r}, and {Path(model_dir) / model_name} is no model folder."
                f"{suggest(model_name, published_names())} openglm-flagai covers GLM only; `openglm models` lists names"
            )
        kwargs.pop("load_pretrain_params", None)
        self.model_name = chosen
        self.model = TASKS[task_name].from_pretrain(
            download_path=model_dir,
            model_name=chosen,
            only_download_config=only_download_config,
            device=device,
            **kwargs,
        )
        self.tokenizer: GLMTokenizer = Tokenizer.from_pretrained(model_name, cache_dir=folder)

    def get_model(self) -> BaseModel:
        """The network."""
        return self.model

    def get_tokenizer(self) -> GLMTokenizer:
        """The tokenizer."""
        return self.tokenizer

    def get_task_name(self, brief_model_name: str = "glm") -> list[str]:
        """All tasks."""
        return list(TASKS)
