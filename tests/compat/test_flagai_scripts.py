"""FlagAI's own example scripts, from one end to the other, on a model with random weights."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from flagai.model.glm_model import GLMModel
from openglm.tokenizer import ChineseTokenizer

from ..conftest import REFERENCE_VARIABLE

SCRIPT = """\
import torch
from flagai.model.glm_model import GLMModel
from flagai.data.tokenizer import GLMLargeChTokenizer
from flagai.model.predictor.predictor import Predictor
if __name__ == "__main__":
    tokenizer = GLMLargeChTokenizer(vocab_path='./checkpoints/glm-large-ch/cog-pretrain.model',
                                    add_block_symbols=True, add_task_mask=True,
                                    add_decoder_mask=False, fix_command_token=False)
    model = GLMModel.from_pretrain(model_name='glm-large-ch', only_download_config=False)
    model.cuda(torch.cuda.current_device())
    predictor = Predictor(model, tokenizer)
    text = '{text}'
    output = predictor.predict_generate_randomsample(text)
    print(text, '\\n', output)
"""
TEXTS = {
    "gmask": "问题：啤酒伤胃吗？回答：[gMASK]",
    "mask": "北京故宫是中国[MASK]非物质文化遗产。",
    "smask": "人工智能是一个以计算机科学为基础，由计算机、数学、哲学等多学科交叉融合的交叉学科，[sMASK]，"
    "具有非常巨大的前景。",
}
# GLM-large-ch, but for the number of its layers.
CONFIG = {
    "num_layers": 1,
    "vocab_size": 50048,
    "hidden_size": 1024,
    "num_attention_heads": 16,
    "embedding_dropout_prob": 0.1,
    "attention_dropout_prob": 0.1,
    "output_dropout_prob": 0.1,
    "max_sequence_length": 1024,
    "max_memory_length": 511,
    "checkpoint_activations": False,
    "checkpoint_num_layers": 1,
    "parallel_output": True,
    "relative_encoding": False,
    "block_position_encoding": True,
    "output_predict": True,
    "spell_length": None,
    "spell_func": "lstm",
    "attention_scale": 1.0,
}


def build(home: Path, vocabulary: Path | bytes) -> Path:
    """`home` with checkpoints/glm-large-ch: random weights that end a fill after some fifteen tokens."""
    folder = home / "checkpoints/glm-large-ch"
    folder.mkdir(parents=True)
    if isinstance(vocabulary, bytes):
        (folder / "cog-pretrain.model").write_bytes(vocabulary)
    else:
        shutil.copyfile(vocabulary, folder / "cog-pretrain.model")
    (folder / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    eop = ChineseTokenizer(folder / "cog-pretrain.model").markers.eop
    torch.manual_seed(1)
    model = GLMModel(CONFIG)
    with torch.no_grad():
        model.transformer.final_layernorm.bias.fill_(0.1)
        model.word_embeddings.weight[eop] = 3.2 / (1024 * 0.1)  # its logit is near 3.2, the best of the others 2.8
    torch.save({name: tensor.half() for name, tensor in model.state_dict().items()}, folder / "pytorch_model.bin")
    return home


@pytest.fixture(scope="module")
def home(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the published vocabulary where there is one, else with one trained here."""
    name = "chinese_vocabulary" if os.environ.get(REFERENCE_VARIABLE) else "small_chinese_model"
    vocabulary: Path | bytes = request.getfixturevalue(name)
    return build(tmp_path_factory.mktemp("home"), vocabulary)


@pytest.mark.slow
@pytest.mark.parametrize("kind", TEXTS)
def test_script(home: Path, kind: str) -> None:
    text = TEXTS[kind]
    script = SCRIPT.format(text=text)
    if not torch.cuda.is_available():  # without one, torch itself refuses to name the current device
        script = script.replace("torch.cuda.current_device()", "'cpu'")
    (home / "script.py").write_text(script, encoding="utf-8")
    environment = {**os.environ, "PYTHONUTF8": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=home, env=environment, capture_output=True, text=True, encoding="utf-8"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{text} \n [CLS]")
    output = done.stdout.removeprefix(f"{text} \n ").rstrip("\n")
    blank = text[text.index("[") : text.index("]") + 1]
    frame = "" if blank == "[gMASK]" else re.escape("<|endoftext|>")
    assert re.fullmatch(rf"\[CLS\].*{re.escape(blank)}.*{frame}<\|startofpiece\|>.*", output, re.DOTALL), output
    assert "<|endofpiece|>" not in output
