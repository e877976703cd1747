"""`load`: a name or a folder -> an `Infiller`."""

from __future__ import annotations

from pathlib import Path

import torch

from ..checkpoints.resolve import open_model
from ..checks import check_one_of, named_options
from ..errors import OptionError, brief
from ..network.quantization import check as check_quantize
from .infiller import Infiller
from .origin import Origin


@named_options()
def load(
    name_or_path: str | Path = "default",
    *,
    device: str = "auto",
    dtype: str = "auto",
    quantize: str | None = None,
    compile: bool = False,
) -> Infiller:
    """A model ready to fill blanks.

    Args:
        name_or_path: "default" for the model that comes with openglm; a folder in openglm's
            own, FlagAI's, THUDM's or the hub's format; a published name (`openglm models`) or
            `owner/model` on the hub, `@revision` behind it if need be. What is not on this
            machine is downloaded.
        device: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1", ...
        dtype: "auto" (float32 on a CPU, bfloat16 on a GPU), "float32", "bfloat16", "float16".
        quantize: "int8" rounds the weights to 8 bits: on a CPU several times faster, with a loss
            that hardly differs (benchmarks/README.md); on a GPU, where "int4" is another choice,
            through torchao. None computes with the weights as they are, but for the embedded
            model on a CPU, which is rounded unless a dtype is given.
        compile: compile the network, on a GPU the decoding step into CUDA graphs: worth it where
            many texts are to come, as it takes up to two minutes once. On a CPU it needs a C++
            compiler and is meant for int8.

    Raises:
        ModelNotFoundError: no such model; names the nearest ones.
        CheckpointError, ConfigError, TokenizerError: files that are missing, damaged or do
            not fit together; or a model with a classification head, which fills no blanks.
        OptionError: an unknown device, dtype or quantize, or `compile` without a C++ compiler.

    >>> model = openglm.load()
    >>> model.fill("北京故宫是中国[MASK]非物质文化遗产。").text.startswith("北京故宫是中国")
    True
    """
    origin = Origin.of(name_or_path, device=device, dtype=dtype, quantize=quantize, compile=compile)
    device = usable_device(device)
    kind = torch.device(device).type
    types = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    types["auto"] = torch.float32 if kind == "cpu" else torch.bfloat16
    check_one_of("dtype", dtype, types)
    if quantize is None and (str(name_or_path), dtype, kind) == ("default", "auto", "cpu"):
        quantize = "int8"
    if quantize is not None:
        check_quantize(quantize, kind)
        if kind == "cpu" and types[dtype] != torch.float32:
            raise OptionError(f"dtype {dtype} and quantize {quantize} exclude each other on a CPU; leave dtype out")
    model, tokenizer = open_model(str(name_or_path), device=device, dtype=types[dtype], quantize=quantize)
    infiller = Infiller(model, tokenizer, compile=compile)
    infiller.origin = origin.marked(infiller.model)
    return infiller


def usable_device(device: str) -> str:
    """A device to compute on: what was asked for, or for "auto" a GPU if there is one.

    Raises:
        OptionError: another kind of device, or one that this machine does not have.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise OptionError(f"device {brief(device)} is not one torch knows; use auto, cpu or cuda") from error
    if found.type not in ("cpu", "cuda"):
        raise OptionError(f"device {brief(device)} cannot be computed on; use auto, cpu or cuda")
    if found.type == "cuda" and not torch.cuda.is_available():
        raise OptionError("device 'cuda' was asked for, but torch finds no CUDA device; use cpu or auto")
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise OptionError(f"device {device!r}: this machine has {torch.cuda.device_count()}, counted from cuda:0")
    return device
