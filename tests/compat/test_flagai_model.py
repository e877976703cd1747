"""FlagAI's GLMModel and its relatives: recorded logits, memory, scores; files; bad input."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from flagai.model.glm_model import (
    GLMForMultiTokenCloze,
    GLMForMultiTokenClozeFast,
    GLMForSeq2Seq,
    GLMForSequenceClassification,
    GLMForSingleTokenCloze,
    GLMModel,
)
from flagai.model.prompt import PromptSpell
from openglm.checkpoints.convert import convert
from openglm.checkpoints.formats import FLAGAI, HUGGINGFACE, OPENGLM, THUDM
from openglm.checkpoints.native import save_model
from openglm.errors import CheckpointError, ConfigError, InputError, ModelNotFoundError, OptionError
from openglm.network.config import GLMConfig
from openglm.network.model import GLMModel as Network
from openglm.tokenizer import BilingualTokenizer

TOLERANCE = 5e-5
SMALL = ["scale1", "scale8", "scale05", "noblock"]
CONFIG: dict[str, Any] = {
    "num_layers": 2,
    "hidden_size": 16,
    "num_attention_heads": 2,
    "vocab_size": 128,
    "max_sequence_length": 32,
    "max_memory_length": 0,
}


def tiny(kind: type[Any] = GLMModel, **changes: Any) -> Any:
    torch.manual_seed(5)
    values = {**CONFIG, **changes}
    model = kind(values, **{k: v for k, v in changes.items() if k not in CONFIG}).eval()
    for parameter in model.parameters():
        parameter.data.mul_(5)
    return model


def ids_and_positions(*shape: int) -> tuple[Tensor, Tensor]:
    ids = torch.randint(0, 128, shape, generator=torch.Generator().manual_seed(2))
    positions = torch.arange(shape[-1]).expand(*shape)
    return ids, torch.stack([positions, torch.zeros_like(positions)], dim=-2)


# --- recorded outputs ----------------------------------------------------------------


def assert_recorded(outputs: dict[str, Tensor], case: str, logits: Tensor) -> None:
    read = torch.ones(logits.shape[:2], dtype=torch.bool)
    mask = outputs[f"{case}.attention_mask"]
    if mask.dim() == 4:  # rows that see nothing are padding
        read = mask.bool().any(-1)[:, 0].expand(read.shape)
    if f"{case}.logits" in outputs:
        assert (logits - outputs[f"{case}.logits"])[read].abs().max() < TOLERANCE
    else:
        columns = logits[..., outputs["logit_columns"]]
        assert (columns - outputs[f"{case}.logits_columns"])[read].abs().max() < TOLERANCE
        assert (logits.logsumexp(-1) - outputs[f"{case}.logsumexp"])[read].abs().max() < TOLERANCE


@pytest.mark.parametrize("name", ["flagai-tiny", *(f"flagai-small/{name}" for name in SMALL)])
@torch.no_grad()
def test_recorded_logits_and_memory(reference: Path, name: str) -> None:
    model = GLMModel.from_pretrain(download_path=reference, model_name=name).eval()
    outputs = load_file(reference / name / "io.safetensors")
    cases = sorted({key.rsplit(".", 1)[0] for key in outputs if key.endswith(".input_ids")})
    plain = [case for case in cases if not case.startswith("mem_")]
    assert len(plain) >= 2

    def inputs(case: str) -> list[Tensor]:
        return [outputs[f"{case}.{part}"] for part in ("input_ids", "position_ids", "attention_mask")]

    for case in plain:
        assert_recorded(outputs, case, model(*inputs(case))["logits"])
    if name.endswith("noblock"):
        return
    output = model(*inputs("mem_context"), return_memory=True)
    assert_recorded(outputs, "mem_context", output["logits"])
    for step in range(5):
        output = model(*inputs(f"mem_step{step}"), mems=output["hidden_states"], return_memory=True)
        assert_recorded(outputs, f"mem_step{step}", output["logits"])
    memory = output["hidden_states"]
    assert len(memory) == model.config["num_layers"] + 1
    for number, state in enumerate(memory):
        assert (state - outputs[f"mem_final.hidden_{number}"]).abs().max() < TOLERANCE


@pytest.mark.parametrize("to", [OPENGLM, FLAGAI, HUGGINGFACE, THUDM])
@torch.no_grad()
def test_other_formats(reference: Path, tmp_path: Path, to: str) -> None:
    """FlagAI's classes read what openglm reads; only the hub's format computes another GELU."""
    name = "flagai-small/scale1"
    ranks = 2 if to in (FLAGAI, THUDM) else 1
    convert(reference / name, tmp_path / "new", to=to, model_parallel=ranks, without_tokenizer=True)
    if to == THUDM:
        (tmp_path / "new/config.json").write_text('{"num_attention_heads": 6}', encoding="utf-8")
    model = GLMModel.from_pretrain(download_path=tmp_path, model_name="new").eval()
    outputs = load_file(reference / name / "io.safetensors")
    logits = model(*(outputs[f"blocks_padded.{part}"] for part in ("input_ids", "position_ids", "attention_mask")))
    difference = (logits["logits"] - outputs["blocks_padded.logits"]).abs().max()
    assert (difference < TOLERANCE) == (to != HUGGINGFACE)
    assert difference < 1e-2


@pytest.fixture(scope="module")
def cloze(reference: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((reference / "cloze.json").read_text(encoding="utf-8"))
    assert (len(content["multi_token"]), len(content["single_token"])) == (4, 6)
    return content


@pytest.mark.parametrize(
    ("options", "recorded"),
    [
        ({}, "scores_length_penalty_0.0"),
        ({"length_penalty": 0.5}, "scores_length_penalty_0.5"),
        ({"length_penalty": 1.0}, "scores_length_penalty_1.0"),
        ({"take_softmax": False}, "scores_no_softmax"),
    ],
)
@torch.no_grad()
def test_recorded_scores(reference: Path, cloze: dict[str, Any], options: dict[str, Any], recorded: str) -> None:
    model = GLMForMultiTokenCloze.from_pretrain(reference, "flagai-tiny", **options).eval()
    for case in cloze["multi_token"]:
        ids, positions, separators, targets, mask = (
            torch.tensor(case[part]) for part in ("input_ids", "position_ids", "separator", "target_ids", "loss_mask")
        )
        grouped = model(ids[None], positions[None], separators[None], targets[None], mask[None])["logits"]
        assert grouped.shape == (1, len(case["choices"]))
        assert (grouped[0] - torch.tensor(case[recorded])).abs().max() < 1e-3
        rows = model(ids, positions, separators, targets, mask)["logits"]
        assert torch.allclose(rows, grouped[0])
        labels = torch.tensor([1])
        result = model(ids[None], positions[None], separators[None], targets[None], mask[None], labels=labels)
        assert torch.allclose(result["loss"], F.cross_entropy(grouped, labels))


@torch.no_grad()
def test_recorded_scores_of_fast_decoding(reference: Path, cloze: dict[str, Any]) -> None:
    model = GLMForMultiTokenClozeFast.from_pretrain(reference, "flagai-tiny").eval()
    for case in cloze["multi_token"]:
        separator, choices = case["separator"][0], case["choice_ids"]
        longest = max(map(len, choices))
        blank = case["position_ids"][0][0][separator]
        text = torch.tensor(case["input_ids"][0][:separator])[None]
        positions = torch.stack([torch.arange(separator), torch.zeros(separator, dtype=torch.long)])[None]
        inputs = torch.tensor([[50006, *ids[:-1], *[50000] * (longest - len(ids))] for ids in choices])
        targets = torch.tensor([[*ids, *[0] * (longest - len(ids))] for ids in choices])
        mask = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids in choices])
        places = torch.stack([torch.full((longest,), blank), torch.arange(1, longest + 1)]).expand(len(choices), 2, -1)
        seen = torch.full((1, len(choices)), separator)
        output = model(
            text, positions, torch.tensor([separator]), inputs[None], places[None], seen, targets[None], mask[None]
        )
        assert (output["logits"][0] - torch.tensor(case["scores_fast_decode"])).abs().max() < 1e-3


@torch.no_grad()
def test_recorded_verbalizers(reference: Path, cloze: dict[str, Any]) -> None:
    raw, soft = (
        GLMForSingleTokenCloze.from_pretrain(reference, "flagai-tiny", take_softmax=softmax).eval()
        for softmax in (False, True)
    )
    for case in cloze["single_token"]:
        inputs = [torch.tensor([case[part]]) for part in ("input_ids", "position_ids", "separator", "verbalizer_ids")]
        output = raw(*inputs)
        assert (output["logits"][0] - torch.tensor(case["logits"])).abs().max() < TOLERANCE
        assert output["target_logits"].shape == (1, 50048)
        assert (soft(*inputs)["logits"][0] - torch.tensor(case["log_softmax"])).abs().max() < 1e-3
        result = raw(*inputs, labels=torch.tensor([2]))
        assert torch.allclose(result["loss"], F.cross_entropy(output["logits"], torch.tensor([2])))


@pytest.mark.parametrize("kind", ["lstm", "mlp", "none"])
@torch.no_grad()
def test_recorded_prompts(reference: Path, kind: str) -> None:
    recorded = load_file(reference / "prompt_encoder.safetensors")
    prompt = PromptSpell(5, 24, kind)
    start = f"{kind}.param."
    prompt.load_state_dict({name[len(start) :]: value for name, value in recorded.items() if name.startswith(start)})
    assert (prompt() - recorded[f"{kind}.output"]).abs().max() < 1e-5


# --- what follows from the definitions -------------------------------------------------


def test_parameters_have_the_published_names() -> None:
    model = tiny()
    assert model.state_dict().keys() == model.network.state_dict().keys()
    assert all(p is q for p, q in zip(model.parameters(), model.network.parameters(), strict=True))
    wrapped = tiny(GLMForSeq2Seq)
    assert wrapped.state_dict().keys() == model.state_dict().keys() == dict(wrapped.named_parameters()).keys()
    wrapped.load_state_dict(model.state_dict())
    assert {"pool_layer.weight", "multichoice_head.bias", "model.word_embeddings.weight"} <= tiny(
        GLMForSequenceClassification, class_num=3
    ).state_dict().keys()


def test_devices_and_dtypes_reach_all_of_the_network() -> None:
    model = tiny()
    ids, positions = ids_and_positions(2, 6)
    expected = model(ids, positions, torch.tensor([4]))["logits"]
    assert model.cuda("cpu") is model
    assert torch.equal(copy.deepcopy(model)(ids, positions, torch.tensor([4]))["logits"], expected)
    halved = copy.deepcopy(model).bfloat16()
    logits = halved(ids, positions, torch.tensor([4]))["logits"]
    assert logits.dtype == torch.bfloat16
    assert halved.network.logits(torch.ones(1, 16, dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert (logits.float() - expected).abs().max() < 0.05 * expected.abs().max()


@torch.no_grad()
def test_memory_says_the_same_as_one_pass() -> None:
    model = tiny()
    ids, positions = ids_and_positions(2, 9)
    whole = model(ids, positions, torch.tensor([4, 4]))["logits"]
    first = model(ids[:, :4], positions[..., :4], torch.tensor([4, 4]), return_memory=True)
    rest = model(ids[:, 4:], positions[..., 4:], torch.tensor(0), first["hidden_states"], return_memory=True)
    assert torch.allclose(torch.cat([first["logits"], rest["logits"]], 1), whole, atol=1e-5)
    assert [memory.shape for memory in rest["hidden_states"]] == [(2, 9, 16)] * 3
    assert model(ids, positions, torch.tensor(9))["hidden_states"] == []


@torch.no_grad()
def test_memory_is_as_long_as_the_configuration_says() -> None:
    model = tiny(max_memory_length=6)
    ids, positions = ids_and_positions(1, 5)
    first = model(ids, positions, torch.tensor(5))["hidden_states"]
    second = model(ids, positions, torch.tensor(5), mems=first)["hidden_states"]
    assert [m.shape[1] for m in first] == [5] * 3
    assert [m.shape[1] for m in second] == [6] * 3
    assert torch.equal(second[0][:, 0], first[0][:, -1])


def test_gradients_pass_through_memory_only_when_asked() -> None:
    model = tiny()
    ids, positions = ids_and_positions(1, 4)
    for detach in (True, False):
        memory = model(ids, positions, torch.tensor(4), return_memory=True, detach_memory=detach)["hidden_states"]
        assert memory[0].requires_grad == (not detach)


def test_loss_is_the_mean_over_all_positions() -> None:
    model = tiny(checkpoint_activations=True).train()
    ids, positions = ids_and_positions(2, 6)
    output = model(ids, positions, torch.tensor([0]), labels=ids)
    expected = F.cross_entropy(output["logits"].flatten(0, 1), ids.flatten())
    assert torch.allclose(output["loss"], expected)
    output["loss"].backward()
    assert model.transformer.layers[0].attention.dense.weight.grad.abs().sum() > 0


@torch.no_grad()
def test_sequence_to_sequence_loss_counts_what_its_mask_counts() -> None:
    model = tiny(GLMForSeq2Seq)
    ids, positions = ids_and_positions(2, 6)
    targets = ids.clone()
    targets[0, 4] = 0  # counts nothing
    mask = torch.zeros(2, 6)
    mask[:, 3:] = 1
    output = model(ids, positions, torch.tensor([0]), loss_mask=mask, target_ids=targets)
    assert output["logits"].shape == (12, 128)
    losses = F.cross_entropy(output["logits"], targets.flatten(), reduction="none").view(2, 6)
    losses[0, 4] = 0
    assert torch.allclose(output["loss"], losses[:, 3:].sum() / 6)


@torch.no_grad()
def test_classification_pools_what_it_is_told_to() -> None:
    ids, positions = ids_and_positions(2, 6)
    separators = torch.tensor([4, 3])
    for token, where in (("cls", [0, 0]), ("start", [4, 3]), ("pad", [3, 2])):
        model = tiny(GLMForSequenceClassification, class_num=3, pool_token=token)
        hidden = model.model(ids, positions, separators)["logits"][[0, 1], where]
        expected = model.multichoice_head(torch.tanh(model.pool_layer(hidden)))
        assert torch.allclose(model(ids, positions, separators)["logits"], expected)
    model = tiny(GLMForSequenceClassification, class_num=1)
    grouped = model(ids[None], positions[None], separators[None], labels=torch.tensor([1]))
    assert grouped["logits"].shape == (1, 2)
    assert grouped["loss"] > 0


@torch.no_grad()
def test_prompts_take_the_place_of_words() -> None:
    model = tiny(spell_length=2, spell_func="mlp")
    ids, positions = ids_and_positions(2, 6)
    where = torch.tensor([[1, 2], [3, 4]])
    with_prompt = model(ids, positions, torch.tensor(6), prompt_pos=where)["logits"]
    model.word_embeddings.weight[100:102] = model.prompt_spell()[0]
    replaced = ids.clone().scatter_(1, where, torch.tensor([[100, 101], [100, 101]]))
    expected = model(replaced, positions, torch.tensor(6))["logits"]
    # The output projection changed with the embedding, but for the rows that were not touched.
    assert torch.allclose(with_prompt[..., :100], expected[..., :100], atol=1e-5)


def test_freezing_leaves_the_first_layers_and_the_prompt() -> None:
    model = tiny(spell_length=2, tune_prefix_layers=1)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all(name.startswith(("transformer.layers.0.", "prompt_spell.")) for name in trained)
    assert {name.split(".")[0] for name in trained} == {"transformer", "prompt_spell"}


# --- files -----------------------------------------------------------------------------


def test_configuration_and_weights_come_back(tmp_path: Path) -> None:
    model = tiny(spell_length=2)
    model.save_config(tmp_path / "config.json")
    model.save_weights(tmp_path / "pytorch_model.bin")
    other = GLMModel.init_from_json(tmp_path / "config.json")
    other.load_weights(tmp_path / "pytorch_model.bin")
    assert other.config["spell_length"] == 2
    assert other.config["checkpoint_activations"] is False
    loaded = GLMModel.from_pretrain(tmp_path.parent, tmp_path.name)
    for name, tensor in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor), name
        assert torch.equal(loaded.state_dict()[name], tensor), name


@pytest.mark.parametrize(
    "wrap", [lambda s: s, lambda s: {"module": s}, lambda s: {f"model.{k}": v for k, v in s.items()}]
)
def test_wrapped_weights(tmp_path: Path, wrap: Any) -> None:
    model, other = tiny(), GLMModel(CONFIG)
    torch.save(wrap(model.state_dict()), tmp_path / "weights.bin")
    other.load_weights(tmp_path / "weights.bin")
    assert torch.equal(other.word_embeddings.weight, model.word_embeddings.weight)


def test_heads_are_loaded_too(tmp_path: Path) -> None:
    model = tiny(GLMForSequenceClassification, class_num=3)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    torch.save({"module": model.state_dict()}, tmp_path / "pytorch_model.bin")
    loaded = GLMForSequenceClassification.from_pretrain(tmp_path.parent, tmp_path.name, class_num=3)
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    with pytest.warns(UserWarning, match="4 tensors in it are not used: pool_layer"):
        GLMModel.from_pretrain(tmp_path.parent, tmp_path.name)
    with pytest.raises(CheckpointError, match="multichoice_head"):
        GLMForSequenceClassification.from_pretrain(tmp_path.parent, tmp_path.name, class_num=2)


def test_what_is_missing_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "part.bin"
    model = tiny()
    state = dict(model.state_dict())
    final = state.pop("transformer.final_layernorm.bias")
    torch.save({**state, "stranger": final}, path)
    with pytest.warns(UserWarning, match="tensors") as warned:
        tiny().load_weights(path)
    said = " ".join(str(warning.message) for warning in warned)
    assert "transformer.final_layernorm.bias" in said
    assert "stranger" in said
    torch.save({"word_embeddings.weight": torch.zeros(3, 16)}, path)
    with pytest.raises(CheckpointError, match=r"word_embeddings.weight has shape \[3, 16\]"):
        tiny().load_weights(path)
    torch.save({"stranger": final}, path)
    with pytest.raises(CheckpointError, match="none of its 1 tensors"):
        tiny().load_weights(path)
    torch.save({"module": {"word_embeddings.weight": Path("x")}}, path)
    with pytest.raises(CheckpointError, match="refused"):
        tiny().load_weights(path)


def test_a_missing_model_is_never_random(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelNotFoundError, match=r"pytorch_model\.bin"):
        GLMModel.from_pretrain(model_name="GLM-large-ch")
    with pytest.raises(ModelNotFoundError, match="openglm models"):
        GLMModel.from_pretrain(model_name="glm-huge-ch")
    folder = tmp_path / "checkpoints/mine"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    with pytest.raises(CheckpointError, match="no weights there"):
        GLMModel.from_pretrain(model_name="mine")
    assert GLMModel.from_pretrain(model_name="mine", only_download_config=True).config["hidden_size"] == 16


def test_options_overrule_the_configuration(reference: Path) -> None:
    model = GLMModel.from_pretrain(
        reference / "flagai-small", "scale1", attention_dropout_prob=0.0, max_memory_length=7
    )
    assert model.transformer.layers[0].attention.dropout == 0.0
    assert (model.max_memory_length, model.config["max_memory_length"]) == (7, 7)
    with pytest.raises(CheckpointError, match="do not fit"):
        GLMModel.from_pretrain(reference / "flagai-small", "scale1", max_sequence_length=128)


def test_names_in_any_case(reference: Path, tmp_path: Path) -> None:
    shutil.copytree(reference / "flagai-small/scale1", tmp_path / "GLM-large-ch", copy_function=shutil.copyfile)
    model = GLMModel.from_pretrain(download_path=tmp_path, model_name="glm-large-ch")
    assert model.config["hidden_size"] == 48


def test_bad_input() -> None:
    model = tiny()
    ids, positions = ids_and_positions(2, 6)
    with pytest.raises(OptionError, match="position_ids"):
        model(ids)
    with pytest.raises(OptionError, match=r"shape \[3\]"):
        model(ids, positions, torch.tensor([1, 2, 3]))
    with pytest.raises(OptionError, match=r"shape \[2, 1, 5, 6\]"):
        model(ids, positions, torch.ones(2, 1, 5, 6))
    with pytest.raises(OptionError, match="mems holds 1"):
        model(ids, positions, torch.tensor(6), mems=[torch.zeros(2, 1, 16)])
    with pytest.raises(OptionError, match="spell_length"):
        model(ids, positions, torch.tensor(6), prompt_pos=torch.zeros(2, 1, dtype=torch.long))
    with pytest.raises(InputError, match=r"ids must be below 128, .* positions below 33"):
        model(ids, positions + 30, torch.tensor(6))
    with pytest.raises(InputError, match="ids must be below 128"):
        model(ids + 128, positions, torch.tensor(6))
    with pytest.raises(OptionError, match="class_num"):
        GLMForSequenceClassification(CONFIG)
    with pytest.raises(OptionError, match="pool_token"):
        GLMForSequenceClassification({**CONFIG, "class_num": 2}, pool_token="mean")
    with pytest.raises(OptionError, match="needs labels"):
        tiny(GLMForSingleTokenCloze).compute_loss(input_ids=ids)
    with pytest.raises(OptionError, match="dec_input_ids"):
        tiny(GLMForMultiTokenClozeFast)(ids, positions, torch.tensor([6, 6]))
    with pytest.raises(ConfigError, match="hidden_size"):
        GLMModel({"num_layers": 2})


def test_other_architectures_are_refused(tmp_path: Path, tokenizer: BilingualTokenizer) -> None:
    network = Network(GLMConfig(2, 16, 2, 128, max_sequence_length=32, architecture="modern"))
    with pytest.raises(OptionError, match="'modern' cannot be used through flagai"):
        GLMModel(CONFIG, network)
    with pytest.raises(ConfigError, match="'modern' has no configuration"):
        GLMModel({**CONFIG, "architecture": "modern"})
    save_model(tmp_path / "ours", network, tokenizer)
    with pytest.raises(OptionError, match="'modern' cannot be written for FlagAI"):
        GLMModel.from_pretrain(download_path=tmp_path, model_name="ours")
