"""What can be imported from flagai, and how the rest is refused; AutoLoader."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from flagai.auto_model.auto_loader import AutoLoader
from flagai.data.tokenizer import Tokenizer
from flagai.model.glm_model import GLMForSeq2Seq, GLMForSequenceClassification, GLMModel
from flagai.model.predictor.predictor import Predictor
from openglm.errors import ModelNotFoundError, OptionError

CONFIG = {
    "num_layers": 1,
    "hidden_size": 16,
    "num_attention_heads": 2,
    "vocab_size": 512,
    "max_sequence_length": 32,
    "max_memory_length": 31,
}


@pytest.mark.parametrize(
    "statement",
    [
        "from flagai.trainer import Trainer",
        "from flagai.model.bert_model import BertModel",
        "import flagai.mpu",
        "from flagai.data.tokenizer.t5.t5_tokenizer import T5BPETokenizer",
        "from flagai.data.tokenizer import T5BPETokenizer",
        "from flagai.model.glm_model import GLMForEverything",
    ],
)
def test_what_is_beyond_glm_is_refused(statement: str) -> None:
    with pytest.raises(ImportError, match=r"GLM only: flagai\.model\.glm_model, .*install FlagAI itself"):
        exec(statement, {})


def test_ordinary_failures_stay_ordinary() -> None:
    with pytest.raises(ModuleNotFoundError, match="No module named 'flagailike'"):
        importlib.import_module("flagailike")
    with pytest.raises(AttributeError, match="__wrapped__"):
        importlib.import_module("flagai.model.glm_model").__wrapped__  # noqa: B018
    assert not hasattr(importlib.import_module("flagai.data.tokenizer"), "__version__")


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("flagai.data.tokenizer.glm_large_ch.glm_large_ch_tokenizer", "GLMLargeChTokenizer"),
        ("flagai.data.tokenizer.glm_large_en.glm_large_en_tokenizer", "GLMLargeEnWordPieceTokenizer"),
        ("flagai.data.tokenizer.glm_10b_en.glm_10b_en_bpe_tokenizer", "GLM10bENBPETokenizer"),
        ("flagai.data.tokenizer.uni_tokenizer.tokenizer", "Tokenizer"),
        ("flagai.data.tokenizer.tokenizer", "CommandToken"),
        ("flagai.model.base_model", "BaseModel"),
        ("flagai.model.prompt", "PromptSpell"),
    ],
)
def test_old_places(module: str, name: str) -> None:
    assert isinstance(getattr(importlib.import_module(module), name), type)


@pytest.mark.slow
def test_importing_is_silent_and_light() -> None:
    code = (
        "import sys, flagai, flagai.data, flagai.model; assert 'torch' not in sys.modules\n"
        "from flagai.auto_model.auto_loader import AutoLoader\n"
        "from flagai.model.predictor.predictor import Predictor\n"
        "assert 'transformers' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# --- AutoLoader ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, small_chinese_model: bytes) -> Path:
    home = tmp_path_factory.mktemp("checkpoints")
    for name in ("GLM-large-ch", "mine", "mine-seq2seq"):
        folder = home / name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
        (folder / "cog-pretrain.model").write_bytes(small_chinese_model)
        torch.manual_seed(len(name))
        torch.save(GLMModel(CONFIG).state_dict(), folder / "pytorch_model.bin")
    return home


def test_auto_loader_gives_model_and_tokenizer(models: Path) -> None:
    loader = AutoLoader("lm", model_name="glm-large-ch", model_dir=str(models))
    model, tokenizer = loader.get_model(), loader.get_tokenizer()
    assert type(model) is GLMModel
    assert type(tokenizer) is Tokenizer
    assert tokenizer.get_command_id("gMASK") == tokenizer.get_command_id("eop") + 2
    assert Predictor(model, tokenizer).predict_generate_randomsample("老师[MASK]", out_max_length=2)
    seq2seq = AutoLoader("seq2seq", "mine", models)
    assert type(seq2seq.get_model()) is GLMForSeq2Seq
    assert seq2seq.model_name == "mine-seq2seq"
    with pytest.warns(UserWarning, match="start afresh: pool_layer"):
        classifier = AutoLoader("classification", "mine", models, class_num=3).get_model()
    assert type(classifier) is GLMForSequenceClassification


def test_auto_loader_refuses(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OptionError, match="no task 'ner' for GLM"):
        AutoLoader("ner", "GLM-large-ch", models)
    with pytest.raises(OptionError, match="covers GLM only"):
        AutoLoader("lm", "RoBERTa-base-ch", models)
    with pytest.raises(OptionError, match=r"Did you mean .*'GLM-large-ch'"):
        AutoLoader("lm", "GLM-large-cn", models)
    with pytest.raises(ModelNotFoundError, match="GLM-10b-ch"):
        AutoLoader("lm", "GLM-10b-ch", models)
    shutil.copytree(models / "mine", tmp_path / "mine")
    (tmp_path / "mine/cog-pretrain.model").unlink()
    with pytest.raises(ValueError, match="no vocabulary there"):
        AutoLoader("lm", "mine", tmp_path)
