"""What lies beside a network in a model folder and belongs to it: a trained prompt, a head, a task.

    prompt.json, prompt.safetensors    vectors in front of every text (`network/prompt.py`)
    head.json, head.safetensors        a classification head (`finetuning/heads.py`)
    task.yaml, finetune.json           pattern and words it was fine-tuned with

The network alone computes something else than what was trained, so whoever opens a folder says
which of these it applies, and any other is refused by name (`check_parts`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, OptionError
from ..files import write_atomically
from ..network.model import GLMModel
from ..network.prompt import PromptEncoder, PromptOptions, prompt_of, put_prompt
from .checksums import note_file

PROMPT_FILE, PROMPT_WEIGHTS = "prompt.json", "prompt.safetensors"
HEAD_FILE, HEAD_WEIGHTS = "head.json", "head.safetensors"
TASK_FILE, SETTINGS_FILE = "task.yaml", "finetune.json"
PROMPT_FORMAT, PROMPT_NAME = "openglm-prompt", "prompt_spell"
PROMPT, HEAD = "prompt", "head"  # parts without which the network is another one
WHAT = {
    PROMPT: (PROMPT_FILE, "a trained prompt"),
    HEAD: (HEAD_FILE, "a classification head; openglm.finetuning.load_classifier applies it"),
}
FILES = (PROMPT_FILE, PROMPT_WEIGHTS, HEAD_FILE, HEAD_WEIGHTS, TASK_FILE, SETTINGS_FILE)


def parts_of(folder: Path) -> tuple[str, ...]:
    """Which parts a model folder has, of those without which its network is another one."""
    return tuple(part for part, (name, _) in WHAT.items() if (folder / name).is_file())


def check_parts(folder: Path, applied: Sequence[str], taker: str) -> None:
    """Refuse a folder with a part that would be left out.

    Args:
        applied: the parts that the taker applies; taker: what it is, in words.

    Raises:
        CheckpointError: names the part and what to do.
    """
    for part in parts_of(folder):
        if part not in applied:
            name, what = WHAT[part]
            raise CheckpointError(f"{folder / name}: this model has {what}; {taker} cannot apply it and would be wrong")


# --- JSON files that name their format ----------------------------------------------------


def write_settings(path: Path, form: str, values: Mapping[str, Any]) -> None:
    """Write plain values, the file complete or not at all."""
    text = json.dumps({"format": form, **values}, indent=2, ensure_ascii=False)
    write_atomically(path, (text + "\n").encode())


def read_settings(path: Path, form: str) -> dict[str, Any]:
    """The values that `write_settings` wrote.

    Raises:
        OSError, ValueError: not readable, or not of this format.
    """
    values: Any = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(values, dict) or values.pop("format", None) != form:
        raise ValueError(f"no {form} file")
    return values


# --- what a run was ---------------------------------------------------------------------


@dataclass(frozen=True)
class RunSettings:
    """How a fine-tuned model was made and is to be asked: `finetune.json`.

    Attributes:
        kind: of fine-tuning; method: which parameters were trained.
        pattern: a number, a list of numbers, or "all".
        title: of the task; base_model: what training started from.
        text_pattern: of sequence-to-sequence, the text in whose blank targets were written.
        length_penalty, calibrate: as in the recipe's section `objective`.
    """

    kind: str
    pattern: Any = 0
    title: str = ""
    method: str = ""
    base_model: str = ""
    length_penalty: float = -1.0
    calibrate: str = "no"
    text_pattern: str = ""

    def write(self, folder: Path) -> None:
        """Write it into a model folder, complete or not at all."""
        text = json.dumps(asdict(self), indent=2, ensure_ascii=False)
        write_atomically(folder / SETTINGS_FILE, (text + "\n").encode())

    @classmethod
    def read(cls, folder: Path) -> RunSettings:
        """Of a model folder; what a later version may have added is left aside.

        Raises:
            CheckpointError: missing, or no such file.
        """
        path = folder / SETTINGS_FILE
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            known = {name: values[name] for name in cls.__dataclass_fields__ if name in values}
            return cls(**{**known, "kind": str(values["kind"]), "length_penalty": float(values["length_penalty"])})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path}: not the folder of a fine-tuned model ({error})") from error


def model_folder_of_run(folder: Path, name: str = "model") -> Path:
    """The folder with `finetune.json`: this one, or the model folder of the run it is."""
    inner = folder / name
    return inner if not (folder / SETTINGS_FILE).is_file() and (inner / SETTINGS_FILE).is_file() else folder


# --- trained prompts ----------------------------------------------------------------------


def save_prompt(folder: Path, model: GLMModel, options: PromptOptions, *, base_model: str) -> None:
    """Write the prompt that was trained with a network, each file complete or not at all.

    Args:
        base_model: name or path of the model that it belongs to.

    Raises:
        OptionError: the network has no prompt.
    """
    from safetensors.torch import save

    prompt = prompt_of(model)
    if prompt is None:
        raise OptionError("this network has no prompt to save")
    tensors = {f"{PROMPT_NAME}.{k}": v.detach().cpu().contiguous() for k, v in prompt.state_dict().items()}
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / PROMPT_WEIGHTS, save(tensors))
    note_file(folder, PROMPT_WEIGHTS)
    write_settings(folder / PROMPT_FILE, PROMPT_FORMAT, {"base_model": base_model, **asdict(options)})


def load_prompt(model: GLMModel, folder: str | Path) -> PromptOptions:
    """Put a saved prompt on a network in place.

    Raises:
        CheckpointError: missing or damaged files, or a prompt of another network.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    path = folder / PROMPT_FILE
    try:
        values = read_settings(path, PROMPT_FORMAT)
        base_model = str(values.pop("base_model"))
        options = PromptOptions(**values)
    except (OSError, ValueError, KeyError, TypeError, OptionError) as error:
        raise CheckpointError(f"{path}: not the settings of a prompt ({error})") from error
    path = folder / PROMPT_WEIGHTS
    try:
        tensors = {name.removeprefix(f"{PROMPT_NAME}."): tensor for name, tensor in load_file(path).items()}
        encoder = PromptEncoder(options.tokens, model.config.hidden_size, options.encoder)
        encoder.load_state_dict(tensors)
    except (OSError, SafetensorError, RuntimeError) as error:
        first = str(error).strip().split("\n")[-1].strip()
        raise CheckpointError(f"{path}: does not fit this network ({first}); it belongs to {base_model!r}") from error
    put_prompt(model, encoder)
    return options
