"""The model card: `README.md` of a model folder, as the Hugging Face hub reads it.

Holds facts of the run and nothing else: what it was trained on, how, for how long, and the
losses it reached. Knows nothing about how any of them was measured.
"""

from __future__ import annotations

import json
import math
import platform
import re
import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..files import replacing, write_atomically
from ..markdown import markdown_table
from ..network.config import BLANK_KINDS

if TYPE_CHECKING:
    import torch

CARD_FILE, CURVES_FILE = "README.md", "curves.png"
EXAMPLES = {
    "[MASK]": "The capital of France is [MASK].",
    "[sMASK]": "It had rained all night. [sMASK] So they stayed at home.",
    "[gMASK]": "Once upon a time [gMASK]",
}
# Columns of the table of data: key, heading; those that no corpus has are left out.
DATA_COLUMNS = (
    ("name", "name"),
    ("documents", "documents"),
    ("tokens", "tokens"),
    ("weight", "weight"),
    ("sha256", "sha256"),
    ("address", "address"),
)


def describe_environment(device: torch.device | str, precision: str, *, processes: int = 1) -> dict[str, str]:
    """What a model is trained with: versions, device, precision.

    Args:
        processes: that train together, one device each.
    """
    import torch

    device = torch.device(device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "openglm": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": f"{processes} x {name}" if processes > 1 else f"{device.type} ({name})",
        "precision": precision,
    }


def write_card(
    folder: Path,
    *,
    recipe: Mapping[str, Any],
    data: Sequence[Mapping[str, Any]],
    validation: Mapping[str, float | None],
    steps: int,
    tokens_seen: int,
    parameters: int,
    curves: Path | None = None,
    environment: Mapping[str, str] | None = None,
    name: str | None = None,
    base_model: str | None = None,
    language: Sequence[str] = (),
    license: str | None = None,
    blanks: Sequence[str] = BLANK_KINDS,
    usage: str = "",
    example: str = "",
    sections: Sequence[str] = (),
) -> Path:
    """Write `README.md` into a model folder, whole or not at all; returns its path.

    Args:
        recipe: nested plain values.
        data: a mapping per corpus with any of `name`, `documents`, `tokens`, `weight`,
            `sha256`, `address`.
        validation: name, such as `source/objective`, -> nats per token; may be empty. None, as
            the log writes what is not finite, is left open.
        steps: updates made.
        tokens_seen: tokens in them.
        parameters: of the model, embeddings included.
        curves: a picture of the losses; copied into the folder unless it is there.
        environment: see `describe_environment`.
        name: heading (default: the name of the folder).
        base_model: what the training started from, if not from fresh weights.
        language: codes such as "en", if known.
        license: its identifier on the hub; nothing is said unless it is given.
        blanks: kinds of blank the model was trained with, for the example.
        usage: Markdown in place of the usual example.
        example: a text with blanks for the usual one (default: one that fits `blanks`).
        sections: Markdown that follows it, such as results.
    """
    title = _line(name or folder.resolve().name)
    start = f"started from {_code(base_model)}" if base_model else "trained from fresh weights"
    parts = [
        _front_matter(language, license, base_model),
        f"# {title}",
        f"A GLM (Du et al., ACL 2022) of {parameters:,} parameters that fills {_listed(blanks)}, "
        f"{start} with openglm in {steps:,} updates over {tokens_seen:,} tokens.",
        usage or _usage(folder.name or title, example or _example(blanks)),
        *sections,
        _data_table(data),
        _loss_table(validation, steps),
        _picture(folder, curves),
        _environment_table(environment or {}),
        "## Recipe\n\n" + _fenced("yaml", _yaml(recipe)),
    ]
    path = folder / CARD_FILE
    write_atomically(path, ("\n\n".join(part for part in parts if part) + "\n").encode())
    return path


def _front_matter(language: Sequence[str], license: str | None, base_model: str | None) -> str:
    fields: dict[str, Any] = {}
    if language:
        fields["language"] = list(language)
    if license:
        fields["license"] = license
    fields |= {"library_name": "openglm", "pipeline_tag": "fill-mask", "tags": ["glm", "text-infilling"]}
    if base_model:
        fields["base_model"] = base_model
    return f"---\n{_yaml(fields)}---"


def _example(blanks: Sequence[str]) -> str:
    return EXAMPLES[blanks[0]] if blanks and blanks[0] in EXAMPLES else EXAMPLES["[MASK]"]


def _usage(folder: str, example: str) -> str:
    where = folder if re.fullmatch(r"[\w./-]+", folder) else "DIR"
    quoted = json.dumps(example, ensure_ascii=False)
    typed = shlex.quote(example) if set('"$`\\!') & set(example) else quoted  # what a shell reads in double quotes
    console = f"$ pip install openglm\n$ openglm fill --model {where} {typed}"
    python = f'import openglm\n\nmodel = openglm.load("{where}")\nprint(model.fill({quoted}).text)'
    return f"## Use\n\nWith this folder as `{where}`:\n\n{_fenced('console', console)}\n\n{_fenced('python', python)}"


def _data_table(data: Sequence[Mapping[str, Any]]) -> str:
    if not data:
        return ""
    columns = [(key, heading) for key, heading in DATA_COLUMNS if any(corpus.get(key) is not None for corpus in data)]
    rows = [[_cell(corpus.get(key)) for key, _ in columns] for corpus in data]
    return "## Data\n\n" + markdown_table([heading for _, heading in columns], rows)


def _loss_table(validation: Mapping[str, float | None], steps: int) -> str:
    if not validation:
        return ""
    rows = [[_cell(name), *_loss_cells(value)] for name, value in validation.items()]
    losses = markdown_table(["held out", "loss, nats per token", "perplexity"], rows)
    return f"## Validation\n\nOn held-out documents, after update {steps:,}:\n\n{losses}"


def _loss_cells(loss: float | None) -> tuple[str, str]:
    if loss is None or not math.isfinite(loss):
        return "", ""
    return f"{loss:.4f}", f"{math.exp(loss):.1f}" if loss < 100 else ""


def _picture(folder: Path, curves: Path | None) -> str:
    if curves is None:
        return ""
    if curves.resolve().parent != folder.resolve():
        with replacing(folder / CURVES_FILE) as part:
            shutil.copyfile(curves, part)
        curves = folder / CURVES_FILE
    return f"![Losses and learning rate over the updates](<{curves.name}>)"


def _environment_table(environment: Mapping[str, str]) -> str:
    if not environment:
        return ""
    return "## Trained with\n\n" + markdown_table(
        ["", ""], [[_cell(key), _cell(value)] for key, value in environment.items()]
    )


def _cell(value: Any) -> str:
    """A value as it may stand in a table."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return _line(str(value))
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _line(text: str) -> str:
    return " ".join(text.split())


def _code(text: str) -> str:
    return f"`{_line(text)}`"


def _listed(names: Sequence[str]) -> str:
    quoted = [_code(name) for name in names]
    return " and ".join([", ".join(quoted[:-1]), quoted[-1]] if len(quoted) > 1 else quoted)


def _fenced(language: str, text: str) -> str:
    """A block of code, fenced by more backticks than it holds in a row."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def _yaml(values: Any) -> str:
    import yaml

    return str(yaml.safe_dump(_plain(values), sort_keys=False, allow_unicode=True, width=100))


def _plain(value: Any) -> Any:
    """Only what YAML can write and read safely; anything else by its name."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return value if value is None or type(value) in (bool, int, float, str) else str(value)
