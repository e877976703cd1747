"""P-tuning: the encoder against recorded outputs, ids behind the vocabulary, files."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from openglm.blanks import PartA
from openglm.checkpoints.beside import load_prompt, save_prompt
from openglm.errors import CheckpointError, OptionError
from openglm.network.attention import dense_mask
from openglm.network.model import GLMModel
from openglm.network.prompt import (
    ENCODERS,
    PromptEncoder,
    PromptOptions,
    add_prompt,
    prompt_of,
    remove_prompt,
)
from openglm.scoring.question import Question


@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_encoder_agrees_with_the_published_one(reference: Path, encoder: str) -> None:
    from safetensors.torch import load_file

    recorded = load_file(reference / "prompt_encoder.safetensors")
    prefix = f"{encoder}.param."
    parameters = {name.removeprefix(prefix): value for name, value in recorded.items() if name.startswith(prefix)}
    tokens, width = parameters["spell_embeddings.weight"].shape
    prompt = PromptEncoder(tokens, width, encoder)
    prompt.load_state_dict(parameters)
    assert torch.allclose(prompt()[None], recorded[f"{encoder}.output"], atol=1e-6)


def prompted(model: GLMModel, encoder: str = "lstm") -> GLMModel:
    out = copy.deepcopy(model)
    add_prompt(out, PromptOptions(3, encoder))
    return out.eval()


def test_prompt_tokens_take_the_place_of_words(tiny_model: GLMModel) -> None:
    model = prompted(tiny_model)
    prompt = prompt_of(model)
    assert prompt is not None
    ids = torch.from_numpy(np.concatenate([model.prompt_ids, [5, 9, 12]]))[None]
    words = model.word_embeddings(ids)
    assert torch.equal(words[0, :3], prompt())
    assert torch.equal(words[0, 3:], tiny_model.word_embeddings.weight[[5, 9, 12]])
    assert model(ids).shape == (1, 6, model.config.vocab_size)
    assert torch.equal(model(ids[:, 3:]), tiny_model(ids[:, 3:])), "without the prompt it is the model it was"


def test_only_the_prompt_is_new(tiny_model: GLMModel) -> None:
    model = prompted(tiny_model, "mlp")
    new = set(model.state_dict()) - set(tiny_model.state_dict())
    assert {name.removeprefix("word_embeddings.") for name in new} == {
        "prompt_spell.spell_embeddings.weight",
        *(f"prompt_spell.mlp_head.{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")),
    }
    remove_prompt(model)
    assert list(model.state_dict()) == list(tiny_model.state_dict())
    assert len(model.prompt_ids) == 0


def test_a_question_gets_the_prompt_in_front(tiny_model: GLMModel) -> None:
    question = Question(
        PartA(np.array([1, 5, 2]), np.array([1])),
        (((7,),),),
        (0,),
        ("a",),
        prior=PartA(np.array([1, 2]), np.array([0])),
    )
    assert question.behind(()) is question
    moved = question.behind([640, 641])
    assert moved.part_a.ids.tolist() == [640, 641, 1, 5, 2]
    assert moved.part_a.blank_positions.tolist() == [3]
    assert moved.prior is not None
    assert moved.prior.ids.tolist() == [640, 641, 1, 2]


def test_gradients_reach_the_prompt_and_nothing_else(tiny_model: GLMModel) -> None:
    model = prompted(tiny_model)
    ids = torch.from_numpy(np.concatenate([model.prompt_ids, [5, 9]]))[None]
    visible = dense_mask(torch.zeros_like(ids), torch.ones_like(ids, dtype=torch.bool))
    model(ids, None, visible).square().mean().backward()
    reached = {name for name, value in model.named_parameters() if value.grad is not None}
    assert reached == {name for name, _ in model.named_parameters() if "prompt_spell" in name}


@pytest.mark.parametrize("encoder", ENCODERS)
def test_saving_and_loading_gives_the_same(tiny_model: GLMModel, tmp_path: Path, encoder: str) -> None:
    model = prompted(tiny_model, encoder)
    save_prompt(tmp_path, model, PromptOptions(3, encoder), base_model="some/model")
    other = copy.deepcopy(tiny_model)
    assert load_prompt(other, tmp_path) == PromptOptions(3, encoder)
    ids = torch.from_numpy(np.concatenate([model.prompt_ids, [5, 9]]))[None]
    with torch.no_grad():
        assert torch.equal(other.eval()(ids), model(ids))


def test_what_makes_no_sense_is_refused(tiny_model: GLMModel, tmp_path: Path) -> None:
    import dataclasses

    model = prompted(tiny_model)
    with pytest.raises(OptionError, match="has a prompt already"):
        add_prompt(model, PromptOptions())
    with pytest.raises(OptionError, match="leaves too little of the context"):
        add_prompt(copy.deepcopy(tiny_model), PromptOptions(40))
    with pytest.raises(OptionError, match="no prompt to save"):
        save_prompt(tmp_path, tiny_model, PromptOptions(), base_model="x")
    with pytest.raises(OptionError, match="lstm, mlp, none"):
        PromptOptions(4, "gru")
    save_prompt(tmp_path, model, PromptOptions(3), base_model="some/model")
    other = GLMModel(dataclasses.replace(tiny_model.config, hidden_size=16))
    with pytest.raises(CheckpointError, match="belongs to 'some/model'"):
        load_prompt(other, tmp_path)
