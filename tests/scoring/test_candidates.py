"""Answers in a tree score as they do alone, in any company."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from openglm.blanks import Markers, PartA
from openglm.errors import InputError
from openglm.infill.infiller import Infiller
from openglm.layouts import lay_out
from openglm.network.model import GLMModel
from openglm.scoring import candidates as module
from openglm.scoring.candidates import CandidateBatch, grouped, token_logprobs
from openglm.scoring.question import Question
from openglm.scoring.tree import tree_of
from openglm.tokenizer import BilingualTokenizer

from .conftest import plain_logprobs, questions

MARKERS = Markers(sop=1, eop=2)


def test_tree_of_the_docstring() -> None:
    tree = tree_of((((7, 8),), ((7, 9),), ((5,),)), MARKERS, False)
    assert tree.input_ids.tolist() == [1, 7]
    assert tree.block_position_ids.tolist() == [1, 2]
    assert tree.targets.tolist() == [7, 8, 7, 9, 5]
    assert tree.read_at.tolist() == [0, 1, 0, 1, 0]
    assert tree.lengths.tolist() == [2, 2, 1]
    with_ends = tree_of((((7, 8),), ((7, 9),), ((5,),)), MARKERS, True)
    assert with_ends.input_ids.tolist() == [1, 7, 8, 9, 5]
    assert with_ends.lengths.tolist() == [3, 3, 2]


def test_single_tokens_need_the_opening_marker_only() -> None:
    tree = tree_of(tuple(((token,),) for token in range(10, 110)), MARKERS, False)
    assert len(tree) == 1
    assert tree.targets.tolist() == list(range(10, 110))


@given(st.data())
@settings(max_examples=40)
def test_every_path_is_a_layout(tokenizer: BilingualTokenizer, data: st.DataObject) -> None:
    question = data.draw(questions(tokenizer))
    tree = tree_of(question.candidates, tokenizer.markers, True)
    at = np.split(tree.read_at, np.cumsum(tree.lengths)[:-1])
    for nodes, fills in zip(at, question.candidates, strict=True):
        layout = lay_out(question.part_a, fills, tokenizer.markers)
        part_b = slice(layout.separator, None)
        assert tree.input_ids[nodes].tolist() == layout.input_ids[part_b].tolist()
        assert question.part_a.blank_positions[tree.blanks[nodes]].tolist() == layout.position_ids[part_b].tolist()
        assert tree.block_position_ids[nodes].tolist() == layout.block_position_ids[part_b].tolist()
        seen = tree.sees[np.ix_(nodes, nodes)]
        assert (seen == np.tri(len(nodes), dtype=np.bool_)).all()
        assert (tree.sees[nodes].sum(1) == np.arange(1, len(nodes) + 1)).all()


@given(st.data(), st.booleans())
@settings(max_examples=40)
def test_the_tree_scores_as_one_layout_per_candidate(
    tiny_model: GLMModel, tokenizer: BilingualTokenizer, data: st.DataObject, ends: bool
) -> None:
    some = data.draw(st.lists(questions(tokenizer, empty=ends), min_size=1, max_size=4))
    batch = CandidateBatch.of(some, tokenizer.markers, tokenizer.eos, ends=ends)
    with torch.no_grad():
        together = batch.candidate_logprobs(tiny_model).tolist()
    expected = [value for each in some for value in plain_logprobs(tiny_model, tokenizer, each, ends)]
    assert together == pytest.approx(expected, abs=1e-4)
    assert batch.offsets.tolist()[-1] == len(expected)


@given(st.data())
@settings(max_examples=20)
def test_company_changes_nothing(tiny_model: GLMModel, tokenizer: BilingualTokenizer, data: st.DataObject) -> None:
    some = data.draw(st.lists(questions(tokenizer), min_size=2, max_size=6))
    together = token_logprobs(tiny_model, some, tokenizer.markers, tokenizer.eos, tokens_at_once=data.draw(limits))
    for question, values in zip(some, together, strict=True):
        alone = token_logprobs(tiny_model, [question], tokenizer.markers, tokenizer.eos)[0]
        for a, b in zip(values, alone, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-4)


limits = st.integers(1, 400)


@given(st.data(), limits)
@settings(max_examples=30)
def test_groups_hold_every_question_once_and_keep_the_bound(
    tokenizer: BilingualTokenizer, data: st.DataObject, limit: int
) -> None:
    some = data.draw(st.lists(questions(tokenizer), min_size=1, max_size=8))
    groups = list(grouped(some, tokenizer.markers, tokens_at_once=limit))
    assert sorted(i for group in groups for i in group) == list(range(len(some)))
    for group in groups:
        batch = CandidateBatch.of([some[i] for i in group], tokenizer.markers, tokenizer.eos)
        assert len(group) == 1 or batch.input_ids.numel() <= limit


def test_too_many_candidates_for_one_tree_are_asked_in_parts(
    tiny_model: GLMModel, tokenizer: BilingualTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = tuple((tuple(range(20 + i, 23 + i)),) for i in range(40))
    question = Question(
        PartA(np.array([tokenizer.cls, 50, 51, tokenizer.eos]), np.array([2])), many, tuple(range(40)), ("x",) * 40
    )
    whole = token_logprobs(tiny_model, [question], tokenizer.markers, tokenizer.eos)[0]
    monkeypatch.setattr(module, "NODES_AT_ONCE", 30)
    assert len(module._in_parts(question)) > 4
    parts = token_logprobs(tiny_model, [question], tokenizer.markers, tokenizer.eos)[0]
    np.testing.assert_allclose(np.array(parts), np.array(whole), atol=1e-4)


def test_gradients_are_those_of_plain_layouts(
    tiny_model: GLMModel, tokenizer: BilingualTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same loss through one pass per answer, and with logits made again in the backward pass."""
    model = GLMModel(tiny_model.config).eval()
    model.load_state_dict(tiny_model.state_dict())
    ids = np.array([tokenizer.cls, 40, 41, 42, tokenizer.eos])
    candidates = tuple(((20, i % 3 + 25, i + 30),) for i in range(9))
    question = Question(PartA(ids, np.array([2])), candidates, tuple(range(9)), tuple(map(str, range(9))), 1, (1,))
    batch = CandidateBatch.of([question], tokenizer.markers, tokenizer.eos)

    def gradient(scores: torch.Tensor) -> torch.Tensor:
        model.zero_grad()
        torch.nn.functional.cross_entropy(scores[None], torch.tensor([1])).backward()
        assert model.word_embeddings.weight.grad is not None
        return model.word_embeddings.weight.grad.clone()

    from_tree = gradient(batch.candidate_logprobs(model))
    alone = [dataclasses.replace(question, candidates=(each,), owner=(0,)) for each in candidates]
    singles = CandidateBatch.of(alone, tokenizer.markers, tokenizer.eos)
    torch.testing.assert_close(from_tree, gradient(singles.candidate_logprobs(model)), atol=1e-4, rtol=1e-3)
    monkeypatch.setattr(module, "LOGITS_AT_ONCE", 0)  # sixteen rows at a time, so more than one piece
    assert len(batch.nodes) <= 16 < len(singles.nodes)
    torch.testing.assert_close(from_tree, gradient(singles.candidate_logprobs(model)), atol=1e-4, rtol=1e-3)


def test_what_cannot_be_a_tree() -> None:
    with pytest.raises(InputError, match="at least one candidate"):
        tree_of((), MARKERS)
    with pytest.raises(InputError, match="for 1 and for 2 blanks"):
        tree_of((((3,),), ((3,), (4,))), MARKERS)
    with pytest.raises(InputError, match="score the ends"):
        tree_of((((),),), MARKERS, False)


def test_infiller_uses_the_same_numbers(infiller: Infiller) -> None:
    ranked = infiller.choose("老师[MASK]，[MASK]。", [["走到了", "河边"], ["走", "市场"]])
    assert {tuple(each.fills) for each in ranked} == {("走到了", "河边"), ("走", "市场")}
