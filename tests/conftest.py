"""What the tests share: reference data, a small tokenizer, a small model, fixed seeds."""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

from openglm.data.shards import Shard
from openglm.data.stream import Source
from openglm.data.tokenizer_training import train_vocabulary
from openglm.infill.infiller import Infiller
from openglm.network.config import GLMConfig
from openglm.network.model import GLMModel
from openglm.tokenizer import BilingualTokenizer

REFERENCE_VARIABLE = "OPENGLM_REFERENCE"

torch.set_num_threads(min(2, torch.get_num_threads()))
settings.register_profile(
    "openglm", derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("openglm")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the long forms of tests unless somebody asks for tests by their marks."""
    if config.getoption("markexpr"):
        return
    for item in items:
        if item.get_closest_marker("exhaustive"):
            item.add_marker(pytest.mark.skip(reason="takes minutes: python -m pytest -m exhaustive"))


@pytest.fixture(autouse=True)
def seeds() -> None:
    """Every test starts from the same random state."""
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)


def _reference_folder(part: str) -> Path:
    root = os.environ.get(REFERENCE_VARIABLE)
    if not root:
        pytest.skip(f"needs reference outputs: set {REFERENCE_VARIABLE} to a folder with fixtures/ and vocab/")
    path = Path(root) / part
    if not path.exists():
        pytest.fail(f"{REFERENCE_VARIABLE} is {root}, but {path} does not exist")
    return path


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder of outputs recorded from the original implementations."""
    return _reference_folder("fixtures")


@pytest.fixture(scope="session")
def chinese_vocabulary() -> Path:
    """The SentencePiece file of the published Chinese models."""
    return _reference_folder("vocab/cog-pretrain.model")


@pytest.fixture(scope="session")
def published_vocabularies() -> Path:
    """The folder with the vocabularies of the published models."""
    return _reference_folder("vocab")


_ENGLISH = {
    "who": "the old teacher|a young doctor|my neighbour|her brother|the engineer|"
    "our captain|a farmer|the painter|a stranger|the old queen",
    "does": "walked to|wrote about|looked for|remembered|sold|visited|described|"
    "carried|repaired|found|forgot|answered|opened|measured",
    "what": "the river|a small house|the market|an empty bottle|the wooden bridge|"
    "a letter|two horses|the garden|a strange machine|the yellow curtain",
    "when": "yesterday|in the morning|after the war|before winter|every Sunday|"
    "in 1984|at 7:30|once again|at last|while it rained|quietly",
}
_CHINESE = {
    "who": "老师|医生|我的邻居|他的弟弟|工程师|船长|农民|画家|一位学生|那个孩子|陌生人|女王",
    "does": "走到了|写了关于|寻找|记得|卖掉了|参观了|描述了|修理了|发现了|忘记了|打开了|测量过",
    "what": "河边|一座小房子|市场|空瓶子|木桥|一封信|两匹马|花园|图书馆|北京的街道|奇怪的机器|黄色窗帘",
    "when": "昨天|早上|战争之后|冬天以前|每个星期日|在一九八四年|七点半|再一次|终于|今年|下雨的时候|静静地",
}


def _lines(count: int) -> list[str]:
    rng = random.Random(7)
    english, chinese = ({key: words.split("|") for key, words in table.items()} for table in (_ENGLISH, _CHINESE))
    lines = []
    for number in range(count):
        who, does, what, when = (rng.choice(english[key]) for key in ("who", "does", "what", "when"))
        if number % 4 == 0:
            lines.append(f"{when.capitalize()}, {who} {does} {what}; {rng.choice(english['who'])} did not.")
        elif number % 4 == 1:
            lines.append(f"Did {who} say that {what} is no. {rng.randrange(1000)}? Yes: {who} {does} it {when}!")
        else:
            who, does, what, when = (rng.choice(chinese[key]) for key in ("who", "does", "what", "when"))
            end = rng.choice("。！？")
            lines.append(f"{when}，{who}{does}{what}{end}" if number % 4 == 2 else f"“{who}{when}{does}{what}{end}”")
    return lines


@pytest.fixture(scope="session")
def text_lines() -> list[str]:
    """Four hundred lines of simple English and Chinese."""
    return _lines(400)


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory, text_lines: list[str]) -> BilingualTokenizer:
    """A bilingual tokenizer of 600 pieces, trained on `text_lines`."""
    path = tmp_path_factory.mktemp("vocabulary") / "text.txt"
    path.write_text("\n\n".join(text_lines), encoding="utf-8")
    return BilingualTokenizer(train_vocabulary([[path]], vocab_size=600, characters=1_000_000, threads=1))


def random_model(config: GLMConfig, spread: float, *, seed: int = 3) -> GLMModel:
    """A network in evaluation mode in which every matrix says something, of either architecture."""
    torch.manual_seed(seed)
    model = GLMModel(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "layernorm" not in name and not name.endswith("bias"):
                parameter.normal_(0.0, spread)
    return model


@pytest.fixture(scope="session")
def tiny_config(tokenizer: BilingualTokenizer) -> GLMConfig:
    """Two layers of width 32; weights large enough for logits that differ clearly."""
    return GLMConfig(
        num_layers=2,
        hidden_size=32,
        num_attention_heads=4,
        vocab_size=-(-tokenizer.num_tokens // 128) * 128,
        max_sequence_length=64,
        initializer_range=0.2,
    )


@pytest.fixture(scope="session")
def tiny_model(tiny_config: GLMConfig) -> GLMModel:
    """A network with random weights in evaluation mode; tests must not change it."""
    state = torch.get_rng_state()
    torch.manual_seed(3)
    model = GLMModel(tiny_config).eval().requires_grad_(False)
    torch.set_rng_state(state)
    return model


@pytest.fixture(scope="session")
def infiller(tiny_model: GLMModel, tokenizer: BilingualTokenizer) -> Infiller:
    """The tiny model, ready to fill."""
    return Infiller(tiny_model, tokenizer)


@pytest.fixture(scope="session")
def documents(text_lines: list[str]) -> list[str]:
    return ["\n".join(text_lines[i : i + 1 + i % 9]) for i in range(0, 300, 5)]


@pytest.fixture(scope="session")
def source(tokenizer: BilingualTokenizer, documents: list[str]) -> Source:
    ids = [np.array(tokenizer.encode(text)) for text in documents]
    return Source("text", Shard.from_documents(ids, tokenizer), 1.0)


@pytest.fixture
def no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs end without a picture: drawing one takes longer than training a tiny model."""

    def draw_nothing(log: Path, output: Path, *, title: str | None = None) -> None:
        assert log.exists()

    monkeypatch.setattr("openglm.pretraining.model_folder.draw_curves", draw_nothing)
