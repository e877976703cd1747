"""`Infiller`: what users hold in hand, on random weights, where every fill is a surprise."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from openglm.blanks import BlankedText, BlankKind, PartA
from openglm.engine.stop_tokens import StopTokens
from openglm.errors import ContextLengthError, InputError, OptionError, UnsupportedBlankError
from openglm.infill.infiller import Infiller
from openglm.infill.prompt import build_prompt
from openglm.infill.results import Filled
from openglm.layouts import PartBState, lay_out
from openglm.network.config import GLMConfig
from openglm.network.model import GLMModel
from openglm.tokenizer import BilingualTokenizer

TEXTS = [
    "Yesterday [MASK] walked.",
    "老师[MASK]走到了[MASK]。",
    "[MASK]",
    "the [sMASK] old [MASK][MASK] bridge [gMASK]",
    "a\t[MASK] \n 　b😀[MASK]",
]


@pytest.fixture(scope="module")
def infiller(tiny_model: GLMModel, tokenizer: BilingualTokenizer) -> Infiller:
    return Infiller(tiny_model, tokenizer)


def tokens(result: object) -> list[list[int]]:
    return [blank.token_ids for blank in result.blanks]  # type: ignore[attr-defined]


@torch.inference_mode()
def true_logprob(infiller: Infiller, text: str, fills: list[list[int]], reasons: list[str]) -> float:
    """Log-probability of fills by one forward pass over the whole layout: an independent account."""
    from openglm.network.attention import prefix_mask

    prompt = build_prompt(text, infiller.tokenizer, infiller.model.config)
    layout = lay_out(prompt.part_a, [np.array(f, np.int64) for f in fills],
                     infiller.tokenizer.markers)  # fmt: skip
    ids = torch.from_numpy(layout.input_ids)[None]
    positions = torch.from_numpy(np.stack([layout.position_ids, layout.block_position_ids]))[None]
    logits = infiller.model(ids, positions, prefix_mask(torch.tensor([layout.separator]), len(layout)))[0]
    scores = logits.log_softmax(-1)[torch.arange(len(layout)), torch.from_numpy(layout.targets)]
    total, at = 0.0, layout.separator
    for fill, reason in zip(fills, reasons, strict=True):
        counted = len(fill) + (1 if reason == "stop" else 0)
        total += float(scores[at : at + counted].sum())
        at += len(fill) + 1
    return total


@pytest.mark.parametrize(
    "options",
    [
        {"max_new_tokens": 6},
        {"max_new_tokens": 5, "temperature": 1.0, "seed": 3},
        {"max_new_tokens": 4, "num_beams": 3, "num_return_sequences": 3},
        {"max_new_tokens": 6, "min_new_tokens": 3},
    ],
)
def test_logprobs_are_those_of_the_model(infiller: Infiller, options: dict[str, int]) -> None:
    for text, result in zip(TEXTS, infiller.fill(TEXTS, **options), strict=True):
        for answer in (result, *result.alternatives):
            reasons = [blank.finish_reason for blank in answer.blanks]
            expected = true_logprob(infiller, text, tokens(answer), reasons)
            assert answer.logprob == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_new_tokens": 5},
        {"temperature": 1.0, "seed": 11, "max_new_tokens": 7},
        {"temperature": 0.8, "top_k": 20, "top_p": 0.9, "seed": 4, "num_return_sequences": 3, "max_new_tokens": 5},
        {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 4},
        {"repetition_penalty": 1.5, "min_new_tokens": 2, "max_new_tokens": 6},
    ],
)
def test_a_batch_gives_what_single_calls_give(infiller: Infiller, options: dict[str, float]) -> None:
    together = infiller.fill(TEXTS, **options)
    for text, result in zip(TEXTS, together, strict=True):
        alone = infiller.fill(text, **options)
        assert tokens(result) == tokens(alone)
        assert [tokens(a) for a in result.alternatives] == [tokens(a) for a in alone.alternatives]
        assert result.logprob == pytest.approx(alone.logprob, abs=1e-3)


def test_everything_but_blanks_is_untouched(infiller: Infiller) -> None:
    for text, result in zip(TEXTS, infiller.fill(TEXTS, max_new_tokens=4), strict=True):
        literals, done = BlankedText.parse(text).literals, 0
        for literal, blank in zip(literals, result.blanks, strict=False):
            assert result.text[done : blank.start] == literal
            assert result.text[blank.start : blank.end] == blank.text
            done = blank.end
        assert result.text[done:] == literals[-1]


@given(st.lists(st.text(max_size=12), min_size=2, max_size=4))
def test_literals_of_any_kind_survive(infiller: Infiller, literals: list[str]) -> None:
    blanked = BlankedText(tuple(literals), (BlankKind.MASK,) * (len(literals) - 1))
    result = infiller.fill(blanked, max_new_tokens=2, truncate="around")
    pieces, done = [], 0
    for blank in result.blanks:
        pieces.append(result.text[done : blank.start])
        done = blank.end
    assert [*pieces, result.text[done:]] == literals


def test_seed_repeats_and_differs(infiller: Infiller) -> None:
    options = {"temperature": 1.0, "max_new_tokens": 8, "num_return_sequences": 4}
    first, again = (infiller.fill(TEXTS[0], seed=5, **options) for _ in range(2))
    other = infiller.fill(TEXTS[0], seed=6, **options)
    answers = [tokens(a) for a in (first, *first.alternatives)]
    assert answers == [tokens(a) for a in (again, *again.alternatives)]
    assert answers != [tokens(a) for a in (other, *other.alternatives)]
    assert len({str(a) for a in answers}) > 1
    single = infiller.fill(TEXTS[0], seed=5, temperature=1.0, max_new_tokens=8)
    assert tokens(single) == answers[0]


def test_limits_per_blank(infiller: Infiller) -> None:
    result = infiller.fill("a [MASK] b [MASK] c [MASK]", max_new_tokens=[1, 2, 3], min_new_tokens=[1, 2, 0])
    lengths = [len(blank.token_ids) for blank in result.blanks]
    assert lengths[0] == 1
    assert lengths[1] == 2
    assert lengths[2] <= 3
    for blank in result.blanks[:2]:
        assert blank.finish_reason == "length"


def test_beams_equal_exhaustive_search(tokenizer: BilingualTokenizer) -> None:
    """With beams enough to hold every hypothesis the search is exact."""
    torch.manual_seed(8)
    config = GLMConfig(1, 16, 2, -(-tokenizer.num_tokens // 128) * 128, max_sequence_length=32, initializer_range=0.3)
    model = GLMModel(config).eval()
    infiller = Infiller(model, tokenizer)
    allowed = [tokenizer.encode(c)[0] for c in "的一是"]
    eop = tokenizer.markers.eop
    banned = torch.ones(config.vocab_size, dtype=torch.bool)
    banned[[*allowed, eop]] = False
    infiller._planner._stop_tokens = StopTokens((eop,), banned)
    text = "老师[MASK]，[MASK]。"
    every = []
    for lengths in itertools.product(range(3), repeat=2):
        for flat in itertools.product(allowed, repeat=sum(lengths)):
            fills = [list(flat[: lengths[0]]), list(flat[lengths[0] :])]
            reasons = ["length" if len(fill) == 2 else "stop" for fill in fills]
            every.append((true_logprob(infiller, text, fills, reasons), fills))
    every.sort(key=lambda scored: -scored[0])
    best = infiller.fill(text, num_beams=60, num_return_sequences=8, max_new_tokens=2)
    for answer, (score, fills) in zip((best, *best.alternatives), every, strict=False):
        assert answer.logprob == pytest.approx(score, abs=1e-3)
        assert tokens(answer) == fills


def test_beams_differ_in_text_and_come_best_first(infiller: Infiller) -> None:
    for text in TEXTS:
        best = infiller.fill(text, num_beams=12, num_return_sequences=12, max_new_tokens=3)
        answers = [best, *best.alternatives]
        assert len({answer.text for answer in answers}) == len(answers)
        scores = [answer.logprob for answer in answers]
        assert scores == sorted(scores, reverse=True)


def test_length_penalty_ranks_the_beams(infiller: Infiller) -> None:
    def score(answer: Filled) -> float:
        values = [value for blank in answer.blanks for value in blank.token_logprobs]
        return sum(values) / len(values) ** 0.7

    plain = infiller.fill(TEXTS[0], num_beams=6, max_new_tokens=5)
    ranked = infiller.fill(TEXTS[0], num_beams=6, num_return_sequences=6, max_new_tokens=5, length_penalty=0.7)
    scores = [score(answer) for answer in (ranked, *ranked.alternatives)]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] >= score(plain) - 1e-6


def test_stream_gives_what_fill_gives(infiller: Infiller) -> None:
    for text in TEXTS:
        for options in ({"max_new_tokens": 6}, {"max_new_tokens": 6, "temperature": 1.0, "seed": 2}):
            filled = infiller.fill(text, **options)
            pieces = list(infiller.stream(text, **options))
            for number, blank in enumerate(filled.blanks):
                mine = [piece for piece in pieces if piece.blank == number]
                assert "".join(piece.text for piece in mine) == blank.text
                assert [piece.finish_reason for piece in mine][-1] == blank.finish_reason
                assert all(piece.finish_reason is None for piece in mine[:-1])
            assert [piece.blank for piece in pieces] == sorted(piece.blank for piece in pieces)


def test_special_tokens_are_never_generated(infiller: Infiller) -> None:
    banned = set(infiller.tokenizer.never_generated)
    result = infiller.fill(TEXTS[0], temperature=3.0, seed=1, num_return_sequences=40, max_new_tokens=20)
    for answer in (result, *result.alternatives):
        for token in itertools.chain.from_iterable(tokens(answer)):
            assert token not in banned
            assert token < infiller.tokenizer.num_tokens


def test_blanked_text_cannot_be_injected(infiller: Infiller) -> None:
    blanked = BlankedText(("user wrote [MASK] and <|endofpiece|> ", "."), (BlankKind.MASK,))
    prompt = build_prompt(blanked, infiller.tokenizer, infiller.model.config)
    assert len(prompt.part_a.blank_positions) == 1
    special = set(infiller.tokenizer.special.values())
    assert sum(int(t) in special for t in prompt.part_a.ids) == 3  # [CLS], one blank, end
    assert infiller.fill(blanked, max_new_tokens=2).text.startswith("user wrote [MASK] and <|endofpiece|> ")


def test_a_space_before_the_blank_is_not_doubled(infiller: Infiller) -> None:
    with_space = build_prompt("the [MASK] bridge", infiller.tokenizer, infiller.model.config)
    without = build_prompt("the[MASK] bridge", infiller.tokenizer, infiller.model.config)
    assert with_space.part_a.ids.tolist() == without.part_a.ids.tolist()
    spaced = infiller.fill("the [MASK] bridge", max_new_tokens=3)
    written = infiller.tokenizer.decode(spaced.blanks[0].token_ids)
    assert written == f" {spaced.blanks[0].text}"


def test_part_b_reads_what_lay_out_says(infiller: Infiller) -> None:
    fills = [[5, 6, 7], [], [8]]
    layout = lay_out(PartA(np.arange(20, 32), np.array([3, 5, 9])), [np.array(f, np.int64) for f in fills],
                     infiller.tokenizer.markers)  # fmt: skip
    part_b, read = PartBState([3, 5, 9], infiller.tokenizer.markers), []
    for number, fill in enumerate(fills):
        read.append(part_b.next_input())
        for token in fill:
            part_b.write(token)
            read.append(part_b.next_input())
        if number < 2:
            part_b.next_blank()
    part_b = slice(layout.separator, None)
    assert [r[0] for r in read] == layout.input_ids[part_b].tolist()
    assert [r[1] for r in read] == layout.position_ids[part_b].tolist()
    assert [r[2] for r in read] == layout.block_position_ids[part_b].tolist()


def test_no_blank(infiller: Infiller) -> None:
    with pytest.raises(InputError, match="no blank"):
        infiller.fill("plain text")
    with pytest.raises(InputError, match="text 2 of 2"):
        infiller.fill(["a [MASK]", "plain"])
    with pytest.raises(InputError, match="no blank"):
        infiller.fill("")
    assert infiller.fill([]) == []


def test_too_long_says_how_much_and_how_to_cut(infiller: Infiller) -> None:
    text = "the river " * 40 + "[MASK]" + " a small house" * 40
    with pytest.raises(ContextLengthError) as error:
        infiller.fill(text)
    count = (
        len(infiller.tokenizer.encode("the river " * 40)) - 1 + len(infiller.tokenizer.encode(" a small house" * 40))
    )
    assert str(count) in str(error.value).replace(str(count + 1), str(count))
    assert "61" in str(error.value)
    assert "truncate" in str(error.value)
    result = infiller.fill(text, truncate="around", max_new_tokens=3)
    assert result.truncated > 0
    assert result.text.startswith("the river " * 40)
    assert result.text.endswith(" a small house" * 40)
    for side in ("start", "end"):
        with pytest.raises(ContextLengthError, match="cut a blank off"):
            infiller.fill(text.replace("the river " * 40, "x") if side == "start" else text.split("]")[0] + "]",
                          truncate=side)  # fmt: skip


def test_truncation_keeps_the_near_text(infiller: Infiller) -> None:
    text = "far " * 80 + "near [MASK]"
    prompt = build_prompt(text, infiller.tokenizer, infiller.model.config, truncate="start")
    assert len(prompt.part_a) == infiller.model.config.max_sequence_length
    full = infiller.tokenizer.encode("far " * 80 + "near")
    assert prompt.part_a.ids[1:-2].tolist() == full[prompt.dropped :]


def test_blank_the_model_was_not_trained_with(tiny_model: GLMModel, tokenizer: BilingualTokenizer) -> None:
    values = tiny_model.config.to_dict() | {"blanks": ["[MASK]"]}
    model = GLMModel(GLMConfig.from_dict(values))
    with pytest.raises(UnsupportedBlankError, match="trained without \\[gMASK\\]"):
        Infiller(model, tokenizer).fill("a [gMASK]")


def test_wrong_vocabulary(tokenizer: BilingualTokenizer) -> None:
    model = GLMModel(GLMConfig(1, 8, 2, 128, max_sequence_length=16))
    with pytest.raises(OptionError, match="vocabulary"):
        Infiller(model, tokenizer)


def test_unknown_option_and_wrong_use_of_stream(infiller: Infiller) -> None:
    with pytest.raises(OptionError, match="max_new_tokens"):
        infiller.fill(TEXTS[0], max_length=3)
    with pytest.raises(OptionError, match="stream"):
        infiller.stream(TEXTS[0], num_beams=2)


def test_one_megabyte_of_text(infiller: Infiller) -> None:
    text = "房子 and house, " * 60_000 + "[MASK]"
    assert len(text.encode()) > 1_000_000
    result = infiller.fill(text, truncate="start", max_new_tokens=2)
    assert result.text.startswith(text[:-6])


def test_model_without_block_positions(tokenizer: BilingualTokenizer) -> None:
    torch.manual_seed(2)
    config = GLMConfig(1, 16, 2, -(-tokenizer.num_tokens // 128) * 128, max_sequence_length=32,
                       block_position_encoding=False, initializer_range=0.2)  # fmt: skip
    result = Infiller(GLMModel(config), tokenizer).fill(["a [MASK] b [MASK]", "[MASK]"], max_new_tokens=4)
    assert len(result) == 2
