"""Published formats read by openglm's own loaders, and written again: the recorded logits come out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from openglm.checkpoints.checkpoint import Checkpoint
from openglm.checkpoints.convert import convert
from openglm.checkpoints.formats import FLAGAI, FORMATS, HUGGINGFACE, OPENGLM, THUDM
from openglm.checkpoints.published import SPECIAL_TOKENS
from openglm.checkpoints.resolve import open_checkpoint
from openglm.network.attention import prefix_mask
from openglm.network.config import GLMConfig
from openglm.network.model import GLMModel

from .reference import MODELS, TOLERANCE, Recorded, load

FOLDERS = {
    **{name: (name, FLAGAI) for name in MODELS if name.startswith("flagai")},
    "thudm-tiny-mp1": ("thudm-tiny-mp1", THUDM),
    "thudm-tiny-mp2": ("thudm-tiny-mp2", THUDM),
    "hf-tiny": ("hf-tiny", HUGGINGFACE),
}


def opened(fixtures: Path, name: str, tmp_path: Path) -> Checkpoint:
    """The folder, with the sizes beside it that the original code keeps on its command line."""
    folder = fixtures / FOLDERS[name][0]
    if FOLDERS[name][1] == THUDM:
        sizes = json.loads((fixtures / "thudm-tiny-args.json").read_text(encoding="utf-8"))
        folder = Path(shutil.copytree(folder, tmp_path / name, copy_function=shutil.copyfile))
        folder.chmod(0o755)
        heads = {"num_attention_heads": sizes["num_attention_heads"]}
        (folder / "config.json").write_text(json.dumps(heads), encoding="utf-8")
    return open_checkpoint(folder)


def largest_difference(model: GLMModel, recorded: Recorded) -> float:
    differences = []
    for case in recorded.cases:
        if case.startswith("mem_"):
            continue
        ids, positions, mask = recorded.inputs(case)
        separators = mask.reshape(-1)
        allowed = prefix_mask(separators.expand(len(ids)), ids.shape[1]) if mask.ndim < 2 else mask.bool()
        read = allowed.expand(len(ids), 1, *allowed.shape[2:]).any(-1)[:, 0]
        logits = model(ids, positions, allowed)
        if f"{case}.logits" in recorded.outputs:
            expected = recorded.outputs[f"{case}.logits"]
        else:
            logits = logits[..., recorded.outputs["logit_columns"]]
            expected = recorded.outputs[f"{case}.logits_columns"]
        differences.append(float((logits - expected)[read].abs().max()))
    assert len(differences) >= 2
    return max(differences)


@pytest.mark.parametrize("name", FOLDERS)
@torch.inference_mode()
def test_recorded_logits(reference: Path, tmp_path: Path, name: str) -> None:
    recorded = load(reference, name.replace("mp2", "mp1"))  # the same model in two pieces
    checkpoint = opened(reference, name, tmp_path)
    assert checkpoint.format == FOLDERS[name][1]
    assert checkpoint.config.gelu == ("erf" if checkpoint.format == HUGGINGFACE else "tanh")
    assert not checkpoint.weights.left_out
    model = checkpoint.network(device="cpu", dtype=torch.float32)
    assert largest_difference(model, recorded) < TOLERANCE


def test_two_ranks_are_bit_for_bit_the_model_of_one(reference: Path, tmp_path: Path) -> None:
    one, two = (opened(reference, f"thudm-tiny-mp{ranks}", tmp_path) for ranks in (1, 2))
    assert one.config == two.config
    assert one.weights.infos.keys() == two.weights.infos.keys()
    for name in one.weights.infos:
        assert torch.equal(one.weights.read(name), two.weights.read(name)), name


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("name", ["flagai-small/noblock", "thudm-tiny-mp2", "hf-tiny"])
@torch.inference_mode()
def test_recorded_logits_after_conversion(reference: Path, tmp_path: Path, name: str, to: str) -> None:
    recorded = load(reference, name.replace("mp2", "mp1"))
    source = opened(reference, name, tmp_path)
    ranks = 2 if to in (FLAGAI, THUDM) else 1
    done = convert(source.folder, tmp_path / "new", to=to, model_parallel=ranks, without_tokenizer=True)
    assert (done.source, done.target) == (source.format, to)
    written = open_checkpoint(tmp_path / "new")
    model = written.network(device="cpu", dtype=torch.float32)
    difference = largest_difference(model, recorded)
    if written.config.gelu == source.config.gelu:
        assert difference < TOLERANCE
        assert not [note for note in done.notes if "GELU" in note]
    else:  # the code of that format computes so; the command says it
        assert TOLERANCE < difference < 1e-2
        assert [note for note in done.notes if "GELU" in note]
    assert (to == OPENGLM) <= (written.config == source.config)


def test_vocabularies_come_along(reference: Path, tmp_path: Path) -> None:
    """The hub's Chinese model through all formats and back: the same ids, and files the hub's code knows."""
    folder, source = reference / "hf-tiny", open_checkpoint(reference / "hf-tiny").tokenizer()
    for to in (THUDM, FLAGAI, OPENGLM, HUGGINGFACE):
        done = convert(folder, tmp_path / to, to=to)
        folder = done.folder
        assert open_checkpoint(folder).tokenizer().identity == source.identity, to
        assert ("cog-pretrain.model" in done.files) == (to != OPENGLM)
    for name in ("added_tokens.json", "tokenizer_config.json"):
        ours, theirs = (
            json.loads((home / name).read_text(encoding="utf-8")) for home in (folder, reference / "hf-tiny")
        )
        theirs.pop("name_or_path", None)
        assert ours == theirs


@pytest.mark.parametrize(("vocabulary", "rows"), [("bert-base-uncased", 30592), ("gpt2", 50304), ("roberta", 50304)])
def test_english_vocabularies_come_along(reference: Path, tmp_path: Path, vocabulary: str, rows: int) -> None:
    """Through all formats: the same ids, and the special tokens that the models were trained with."""
    source = tmp_path / "source"
    shutil.copytree(reference.parent / "vocab" / vocabulary, source, copy_function=shutil.copyfile)
    source.chmod(0o755)
    config = GLMConfig(num_layers=1, hidden_size=8, num_attention_heads=2, vocab_size=rows, max_sequence_length=16)
    (source / "config.json").write_text(json.dumps(config.to_dict()), encoding="utf-8")
    torch.save(GLMModel(config).state_dict(), source / "pytorch_model.bin")
    before, kind = open_checkpoint(source).tokenizer(), vocabulary.partition("-")[0]
    names = set(before.special) & set(SPECIAL_TOKENS[kind])
    assert {name: before.special[name] for name in names} == {name: SPECIAL_TOKENS[kind][name] for name in names}
    assert {"mask", "sop", "eop", "cls", "eos"} <= names
    folder = source
    for to in (HUGGINGFACE, THUDM, FLAGAI, HUGGINGFACE, OPENGLM):
        folder = convert(folder, tmp_path / f"{to}-{folder.name}", to=to).folder
        assert open_checkpoint(folder).tokenizer().identity == before.identity, to
