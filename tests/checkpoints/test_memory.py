"""Peak memory of loading and converting, measured in a process of its own."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from openglm.checkpoints.checkpoint import expected_tensors
from openglm.checkpoints.convert import convert
from openglm.checkpoints.formats import HUGGINGFACE, OPENGLM, THUDM
from openglm.checkpoints.native import save_model
from openglm.checkpoints.safetensors_files import shards_of
from openglm.checkpoints.weights import TensorInfo
from openglm.network.config import GLMConfig
from openglm.network.model import GLMModel
from openglm.tokenizer import BilingualTokenizer

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak from /proc")

# Not `getrusage`: on Linux its peak begins with that of the process that started this one.
PRELUDE = """
    import sys
    from pathlib import Path
    import torch
    from openglm.checkpoints import logits  # what is imported is no part of the measure
    from openglm.checkpoints.convert import convert
    from openglm.checkpoints.resolve import open_checkpoint

    def memory(name):
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

    torch.nn.functional.gelu(torch.ones(64, 64) @ torch.ones(64, 64), approximate="tanh")
"""

CONVERT = """
    before = memory("VmRSS")
    convert(Path(sys.argv[1]), Path(sys.argv[2]), to=sys.argv[3], model_parallel=int(sys.argv[4]),
            without_tokenizer=True, shard_bytes=int(sys.argv[5]))
    print(memory("VmHWM") - before)
"""

# Pages of mapped files are the system's to take back; what a process needs for itself is `RssAnon`.
LOAD = """
    whole, own = memory("VmRSS"), memory("RssAnon")
    model = open_checkpoint(Path(sys.argv[1])).network(device="cpu", dtype=torch.float32)
    print(memory("RssAnon") - own, memory("VmHWM") - whole)
"""


def measured(code: str, *arguments: object) -> list[int]:
    """The numbers that a fresh Python prints."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PRELUDE + code), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return [int(number) for number in done.stdout.split()]


@pytest.fixture
def medium(tmp_path: Path, tiny_config: GLMConfig, tokenizer: BilingualTokenizer) -> tuple[Path, int, int]:
    """A folder of 152 MB in float32, the size of its shards, and of all its weights."""
    config = dataclasses.replace(tiny_config, num_layers=12, hidden_size=512)
    shard = 64 * 2**20
    save_model(tmp_path / "native", GLMModel(config), tokenizer, shard_bytes=shard)
    return tmp_path / "native", shard, 4 * config.num_parameters


@pytest.mark.parametrize(("to", "ranks"), [(THUDM, 2), (HUGGINGFACE, 1)])
def test_converting_stays_below_twice_the_largest_shard(
    medium: tuple[Path, int, int], tmp_path: Path, to: str, ranks: int
) -> None:
    folder, shard, total = medium
    assert total > 2.2 * shard, "holding all of it would be too much"
    [peak] = measured(CONVERT, folder, tmp_path / "new", to, ranks, shard)
    assert 2**20 < peak < 2 * shard, "some memory is needed; were it none, nothing was measured"


def test_loading_costs_no_memory_of_its_own(medium: tuple[Path, int, int]) -> None:
    """Stored as asked for: the weights are windows onto the mapped files."""
    folder, _, total = medium
    [own, peak] = measured(LOAD, folder)
    assert own < total / 10
    assert total * 0.9 < peak < total * 1.2, "the files were read, once"


def test_loading_converts_without_a_second_copy(medium: tuple[Path, int, int], tmp_path: Path) -> None:
    """Two ranks in float16 to one network in float32: that network, and little beside it."""
    folder, _, total = medium
    pieces = convert(folder, tmp_path / "new", to=THUDM, model_parallel=2, dtype=torch.float16, without_tokenizer=True)
    [own, peak] = measured(LOAD, pieces.folder)
    assert total * 0.9 < own
    assert peak < total * 1.45, "half a copy more would be the files themselves, kept mapped"


def sparse_folder(folder: Path, config: GLMConfig, shard_bytes: int) -> list[int]:
    """A hub folder of float16 zeros that take no room on the disk; the sizes of its shards."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "glm", **config.to_dict()}), encoding="utf-8")
    infos = {name: TensorInfo(shape, torch.float16) for name, shape in expected_tensors(config).items()}
    shards, home, sizes = shards_of(infos, shard_bytes), {}, []
    for number, names in enumerate(shards, 1):
        end, header = 0, {}
        for name in names:
            start, end = end, end + infos[name].nbytes
            header[name] = {"dtype": "F16", "shape": infos[name].shape, "data_offsets": [start, end]}
        encoded = json.dumps(header).encode()
        path = folder / f"model-{number:05}-of-{len(shards):05}.safetensors"
        with path.open("wb") as out:
            out.write(len(encoded).to_bytes(8, "little") + encoded)
            out.truncate(8 + len(encoded) + end)
        home |= dict.fromkeys(names, path.name)
        sizes.append(path.stat().st_size)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": home}), encoding="utf-8")
    return sizes


@pytest.mark.slow
def test_converting_a_model_shaped_like_the_largest(tmp_path: Path) -> None:
    """GLM-10B at a twenty-fifth of its size: many layers, eight shards, tensors much smaller than a shard."""
    config = GLMConfig(
        num_layers=31, hidden_size=1024, num_attention_heads=16, vocab_size=8192, max_sequence_length=1024
    )
    source, limit = tmp_path / "source", 104 * 2**20
    sizes = sparse_folder(source, config, limit)
    assert len(sizes) == 8
    for to, ranks in ((THUDM, 2), (OPENGLM, 1)):
        [peak] = measured(CONVERT, source, tmp_path / to, to, ranks, limit)
        assert 2**20 < peak < 2 * max(sizes), to
        source = tmp_path / to
