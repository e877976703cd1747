"""Conversions: every format into every other, all or nothing, in little memory."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import openglm
from openglm.checkpoints import convert as module
from openglm.checkpoints import published
from openglm.checkpoints.convert import convert
from openglm.checkpoints.foreign import config_from
from openglm.checkpoints.formats import FLAGAI, FORMATS, HUGGINGFACE, OPENGLM, THUDM
from openglm.checkpoints.logits import probe_logits
from openglm.checkpoints.native import save_model
from openglm.checkpoints.published import PublishedModel
from openglm.checkpoints.resolve import WRITE, open_checkpoint
from openglm.errors import CheckpointError, ConfigError, OptionError, TokenizerError
from openglm.network.attention import prefix_mask
from openglm.network.config import GLMConfig
from openglm.network.model import GLMModel
from openglm.tokenizer import BilingualTokenizer, ChineseTokenizer

TEXT = "老师[MASK]走到了市场。"


def listing(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def assert_same(model: GLMModel, other: GLMModel) -> None:
    assert list(model.state_dict()) == list(other.state_dict())
    for name, tensor in other.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


@pytest.fixture
def native(tmp_path: Path, tiny_model: GLMModel, tokenizer: BilingualTokenizer) -> Path:
    save_model(tmp_path / "native", tiny_model, tokenizer)
    return tmp_path / "native"


@pytest.mark.parametrize("second", FORMATS)
@pytest.mark.parametrize("first", FORMATS)
def test_every_format_into_every_other(
    native: Path, tmp_path: Path, tiny_model: GLMModel, tokenizer: BilingualTokenizer, first: str, second: str
) -> None:
    one = convert(native, tmp_path / "one", to=first)
    assert set(one.files) == set(listing(one.folder))
    two = convert(one.folder, tmp_path / "two", to=second)
    assert (two.source, two.target, two.parameters) == (first, second, tiny_model.config.num_parameters)
    infiller = openglm.load(two.folder, device="cpu")
    assert_same(infiller.model, tiny_model)
    assert infiller.tokenizer.identity == tokenizer.identity
    through_the_hub = HUGGINGFACE in (first, second)
    gelu = "erf" if second == HUGGINGFACE or (first, second) == (HUGGINGFACE, OPENGLM) else "tanh"
    kept = {field: getattr(infiller.model.config, field) for field in ("initializer_range",)}  # no other format has it
    assert infiller.model.config == dataclasses.replace(tiny_model.config, gelu=gelu, **kept)
    if not through_the_hub:
        before = openglm.load(native, device="cpu").fill(TEXT, max_new_tokens=6)
        assert infiller.fill(TEXT, max_new_tokens=6) == before


@pytest.mark.parametrize("to", [FLAGAI, THUDM])
@pytest.mark.parametrize("ranks", [2, 4])
def test_model_parallel_pieces(native: Path, tmp_path: Path, tiny_model: GLMModel, to: str, ranks: int) -> None:
    done = convert(native, tmp_path / "new", to=to, model_parallel=ranks)
    assert len([name for name in done.files if name.endswith((".bin", ".pt"))]) == ranks
    assert_same(openglm.load(done.folder, device="cpu").model, tiny_model)
    again = convert(done.folder, tmp_path / "again", to=to, model_parallel=4 // ranks)
    assert_same(openglm.load(again.folder, device="cpu").model, tiny_model)


def test_what_the_original_code_reads(native: Path, tmp_path: Path, tiny_model: GLMModel) -> None:
    """Tracker files, wrappers and names, as plain torch and JSON see them."""
    thudm = convert(native, tmp_path / "thudm", to=THUDM).folder
    tag = (thudm / "latest_checkpointed_iteration.txt").read_text(encoding="utf-8").strip()
    assert (thudm / "latest").read_text(encoding="utf-8").strip() == tag
    content = torch.load(thudm / tag / "mp_rank_00_model_states.pt", weights_only=True)
    assert list(content["module"]) == list(tiny_model.state_dict())
    assert {"iteration", "optimizer", "lr_scheduler", "mp_world_size"} < set(content)
    flagai = convert(native, tmp_path / "flagai", to=FLAGAI).folder
    state = torch.load(flagai / "pytorch_model.bin", weights_only=True)
    assert torch.equal(state["word_embeddings.weight"], tiny_model.word_embeddings.weight)
    values = json.loads((flagai / "config.json").read_text(encoding="utf-8"))
    asked = "num_layers vocab_size hidden_size num_attention_heads embedding_dropout_prob attention_dropout_prob \
        output_dropout_prob max_sequence_length max_memory_length checkpoint_activations checkpoint_num_layers \
        parallel_output relative_encoding block_position_encoding output_predict spell_length spell_func \
        attention_scale"
    assert set(asked.split()) <= set(values)
    hub = json.loads((convert(native, tmp_path / "hub", to=HUGGINGFACE).folder / "config.json").read_text("utf-8"))
    assert (hub["model_type"], hub["torch_dtype"]) == ("glm", "float32")


@pytest.mark.parametrize("to", FORMATS)
def test_shards_and_other_dtypes(native: Path, tmp_path: Path, tiny_model: GLMModel, to: str) -> None:
    done = convert(native, tmp_path / "new", to=to, dtype=torch.bfloat16, shard_bytes=30_000)
    assert (len([name for name in done.files if "-of-" in name]) > 2) == (to in (OPENGLM, HUGGINGFACE))
    written = open_checkpoint(done.folder)
    assert {info.dtype for info in written.weights.infos.values()} == {torch.bfloat16}
    for name, tensor in tiny_model.state_dict().items():
        assert torch.equal(written.weights.read(name), tensor.bfloat16())


def test_values_too_large_for_a_dtype(native: Path, tmp_path: Path, tokenizer: BilingualTokenizer) -> None:
    model = openglm.load(native, device="cpu").model
    with torch.no_grad():
        model.word_embeddings.weight[3, 4] = 1e5
    save_model(tmp_path / "large", model, tokenizer)
    with pytest.raises(CheckpointError, match=r"word_embeddings\.weight holds values too large for float16"):
        convert(tmp_path / "large", tmp_path / "new", to=OPENGLM, dtype=torch.float16)
    convert(tmp_path / "large", tmp_path / "new", to=OPENGLM, dtype=torch.bfloat16)


def test_folders_that_are_no_place_for_a_model(native: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    for place in (native, tmp_path / "file"):
        before = place.read_bytes() if place.is_file() else listing(place)
        with pytest.raises(OptionError, match="exists already"):
            convert(native, place, to=FLAGAI)
        assert before == (place.read_bytes() if place.is_file() else listing(place))
    (tmp_path / "empty").mkdir()
    convert(native, tmp_path / "empty", to=FLAGAI)
    with pytest.raises(CheckpointError, match="cannot be written"):
        convert(native, tmp_path / "file" / "new", to=FLAGAI)
    with pytest.raises(OptionError, match="unknown format"):
        convert(native, tmp_path / "new", to="onnx")


@pytest.mark.parametrize("to", [OPENGLM, HUGGINGFACE])
def test_formats_without_pieces(native: Path, tmp_path: Path, to: str) -> None:
    with pytest.raises(OptionError, match="no model-parallel pieces"):
        convert(native, tmp_path / "new", to=to, model_parallel=2)
    assert [path.name for path in tmp_path.iterdir()] == ["native"]


def test_networks_that_other_code_cannot_compute(
    tmp_path: Path, tiny_model: GLMModel, tokenizer: BilingualTokenizer
) -> None:
    model = GLMModel(dataclasses.replace(tiny_model.config, layernorm_epsilon=1e-6))
    save_model(tmp_path / "native", model, tokenizer)
    for to in (FLAGAI, HUGGINGFACE, THUDM):
        with pytest.raises(OptionError, match="layernorm_epsilon"):
            convert(tmp_path / "native", tmp_path / "new", to=to)
    convert(tmp_path / "native", tmp_path / "new", to=OPENGLM)


def test_only_our_format_holds_the_modern_architecture(
    tmp_path: Path, tiny_model: GLMModel, tokenizer: BilingualTokenizer
) -> None:
    sizes = {
        n: getattr(tiny_model.config, n) for n in ("num_layers", "hidden_size", "num_attention_heads", "vocab_size")
    }
    save_model(tmp_path / "native", GLMModel(GLMConfig(**sizes, architecture="modern")), tokenizer)
    for to in (FLAGAI, HUGGINGFACE, THUDM):
        with pytest.raises(OptionError, match=r"architecture 'modern' cannot be written for .* network of 2022"):
            convert(tmp_path / "native", tmp_path / "new", to=to)
    convert(tmp_path / "native", tmp_path / "new", to=OPENGLM)
    assert (tmp_path / "new/model.safetensors").read_bytes() == (tmp_path / "native/model.safetensors").read_bytes()
    values = {**sizes, "max_sequence_length": 64, "architecture": "modern"}
    with pytest.raises(ConfigError, match="'modern' has no configuration in this format"):
        config_from(values, Path("config.json"), gelu="erf")


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_all_or_nothing(
    native: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str, error: BaseException
) -> None:
    """Whatever stops a conversion at its very end, nothing is left of it."""

    def fail(*_: Any, **__: Any) -> None:
        raise error

    before = listing(tmp_path)
    monkeypatch.setattr(module, "carry_tokenizer", fail)
    expected = CheckpointError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        convert(native, tmp_path / "new", to=to)
    assert listing(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["native"]


def test_a_wrong_result_is_not_kept(native: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flipped value is found by comparing tensors, a wrong number of heads by comparing logits."""
    write = WRITE[OPENGLM]

    def flipped(folder: Path, *arguments: Any) -> None:
        write(folder, *arguments)
        path = folder / "model.safetensors"
        content = bytearray(path.read_bytes())
        content[-3] ^= 64
        path.write_bytes(content)

    def fewer_heads(folder: Path, *arguments: Any) -> None:
        write(folder, *arguments)
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        (folder / "config.json").write_text(json.dumps({**values, "num_attention_heads": 2}), encoding="utf-8")

    for wrong, words in ((flipped, "not what was written"), (fewer_heads, "logits before and after differ")):
        monkeypatch.setitem(WRITE, OPENGLM, wrong)
        with pytest.raises(CheckpointError, match=words):
            convert(native, tmp_path / "new", to=OPENGLM)
        assert [path.name for path in tmp_path.iterdir()] == ["native"]


def test_weights_that_are_not_numbers(flagai: Path, tmp_path: Path, tiny_model: GLMModel) -> None:
    state = {name: tensor.clone() for name, tensor in tiny_model.state_dict().items()}
    state["transformer.final_layernorm.bias"][3] = float("nan")
    torch.save(state, flagai / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"final_layernorm\.bias.*not finite"):
        convert(flagai, tmp_path / "new", to=OPENGLM)
    assert not (tmp_path / "new").exists()


def test_probed_logits_are_those_of_the_network(native: Path) -> None:
    checkpoint = open_checkpoint(native)
    model = checkpoint.network(device="cpu", dtype=torch.float32)
    ids, length = torch.arange(24) * 7919 % 640, 24
    positions = torch.stack([torch.arange(24).clamp(max=11), (torch.arange(24) - 11).clamp(min=0)])[None]
    mask = prefix_mask(torch.tensor([12]), length)
    expected = model(ids[None], positions, mask)
    assert (probe_logits(checkpoint.config, checkpoint.weights) - expected).abs().max() < 5e-5


# --- vocabularies --------------------------------------------------------------------


def test_a_vocabulary_from_elsewhere(flagai: Path, tmp_path: Path) -> None:
    (tmp_path / "vocabulary").mkdir()
    (flagai / "cog-pretrain.model").rename(tmp_path / "vocabulary" / "cog-pretrain.model")
    with pytest.raises(TokenizerError, match=r"--tokenizer.*--without-tokenizer"):
        convert(flagai, tmp_path / "new", to=OPENGLM)
    done = convert(flagai, tmp_path / "bare", to=OPENGLM, without_tokenizer=True)
    assert set(done.files) == {"checksums.json", "config.json", "model.safetensors"}
    assert "without a vocabulary" in done.notes
    done = convert(flagai, tmp_path / "new", to=OPENGLM, tokenizer=tmp_path / "vocabulary")
    assert isinstance(openglm.load(done.folder).tokenizer, ChineseTokenizer)


@pytest.fixture
def older(tiny_model: GLMModel, pieces: bytes, monkeypatch: pytest.MonkeyPatch) -> PublishedModel:
    """The tiny model, published with the older Chinese table."""
    config = tiny_model.config
    model = PublishedModel(
        "tiny", ("Tiny", "owner/tiny"), config.num_layers, config.hidden_size, 4, config.max_sequence_length,
        "chinese", config.vocab_size, ("[MASK]", "[sMASK]", "[gMASK]"), "zh", older_table=True,
    )  # fmt: skip
    monkeypatch.setattr(published, "PUBLISHED", (*published.PUBLISHED, model))
    return model


def test_the_older_table_is_repaired_for_the_hub(
    flagai: Path, tmp_path: Path, tiny_model: GLMModel, older: PublishedModel
) -> None:
    """As the published conversion did: `[gMASK]` gets an id of its own, and a copy of the row."""
    before = openglm.load(flagai).tokenizer
    assert before.special["gmask"] == before.special["eop"] == 307
    done = convert(flagai, tmp_path / "hub", to=HUGGINGFACE)
    assert [note for note in done.notes if "row 307" in note and "row 309" in note]
    after = openglm.load(done.folder)
    assert after.tokenizer.special["gmask"] == 309
    rows, expected = after.model.word_embeddings.weight, tiny_model.word_embeddings.weight.clone()
    expected[309] = expected[307]
    assert torch.equal(rows, expected)
    for to in (OPENGLM, FLAGAI, THUDM):
        kept = openglm.load(convert(flagai, tmp_path / f"kept-{to}", to=to).folder)
        assert kept.tokenizer.identity == before.identity
        assert_same(kept.model, tiny_model)
        back = openglm.load(convert(done.folder, tmp_path / f"back-{to}", to=to).folder)
        assert back.tokenizer.identity == after.tokenizer.identity, "the repaired table stays with its weights"
