from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from openglm.blanks import Markers
from openglm.errors import InputError, OptionError, UnsupportedBlankError
from openglm.evaluation.language_model import count_windows, last_words, perplexity, signs_of
from openglm.evaluation.windows import SpecialIds, starts, windows
from openglm.infill.infiller import Infiller
from openglm.scoring.targets import target_logprobs

SIGNS = SpecialIds(cls=900, blank=901, eos=902, markers=Markers(903, 904))
TEXT = "Yesterday, the old teacher walked to the river; a farmer did not. 老师昨天走到了河边。"


@pytest.mark.parametrize("unidirectional", [False, True])
@pytest.mark.parametrize(
    ("length", "window", "stride"), [(75, 32, 8), (75, 32, 31), (20, 32, 32), (33, 32, 1), (2, 2, 1)]
)
def test_every_token_but_the_first_is_scored_once(length: int, window: int, stride: int, unidirectional: bool) -> None:
    tokens = np.arange(length)
    found = list(windows(tokens, SIGNS, window=window, stride=stride, unidirectional=unidirectional))
    scored = [int(t) for layout in found for t in layout.targets[layout.loss_mask]]
    assert sorted(scored) == list(range(1, length))
    assert len(found) == len(starts(length, window, stride))


def test_a_text_of_one_token_has_no_window() -> None:
    assert not list(windows(np.array([5]), SIGNS, window=8, stride=4, unidirectional=False))


def test_bad_windows() -> None:
    for window, stride in ((8, 9), (8, 0), (1, 1)):
        with pytest.raises(OptionError, match="stride"):
            list(windows(np.arange(9), SIGNS, window=window, stride=stride, unidirectional=False))


def test_judging_is_one_forward_pass_by_hand(infiller: Infiller) -> None:
    """Against the plain formula, row by row without padding."""
    signs = signs_of(infiller)
    tokens = np.array(infiller.tokenizer.encode(TEXT))
    layouts = [
        layout
        for unidirectional in (False, True)
        for layout in windows(tokens, signs, window=16, stride=6, unidirectional=unidirectional)
    ]
    found = list(target_logprobs(infiller.model, layouts, signs.eos, tokens_at_once=100))
    assert len(found) == len(layouts)
    for layout, (logprobs, first) in zip(layouts, found, strict=True):
        n = len(layout)
        index = torch.arange(n)
        mask = (index[None, :] < layout.separator) | (index[None, :] <= index[:, None])
        positions = torch.from_numpy(np.stack([layout.position_ids, layout.block_position_ids]))[None]
        with torch.no_grad():
            logits = infiller.model(torch.from_numpy(layout.input_ids)[None], positions, mask[None, None])[0]
        wanted = logits.log_softmax(-1)[index, torch.from_numpy(layout.targets)][torch.from_numpy(layout.loss_mask)]
        np.testing.assert_allclose(logprobs, wanted.numpy(), atol=1e-4)
        best = logits.argmax(-1).numpy() == layout.targets
        assert first.tolist() == best[layout.loss_mask].tolist()


@pytest.mark.parametrize("direction", ["bi", "uni"])
def test_perplexity_is_what_its_windows_say(infiller: Infiller, direction: str) -> None:
    seen: list[int] = []
    found = perplexity(
        infiller, [TEXT, "a letter"], direction=direction, sequence_length=17, stride=5, progress=seen.append
    )
    signs, loss, count = signs_of(infiller), 0.0, 0
    for text in (TEXT, "a letter"):
        tokens = np.array(infiller.tokenizer.encode(text))
        layouts = windows(tokens, signs, window=16, stride=5, unidirectional=direction == "uni")
        loss -= sum(float(values.sum()) for values, _ in target_logprobs(infiller.model, layouts, signs.eos))
        count += len(tokens) - 1
    assert found.tokens == count
    assert found.loss == pytest.approx(loss, rel=1e-5)
    assert found.perplexity == pytest.approx(math.exp(loss / count), rel=1e-4)
    words = len(TEXT.split()) - 1 + 1
    assert found.words == words
    assert found.word_perplexity == pytest.approx(math.exp(loss / words), rel=1e-3)
    assert sum(seen) == count_windows(infiller, [TEXT, "a letter"], 17, 5)


def test_the_first_window_is_the_same_in_both_settings(infiller: Infiller) -> None:
    short = "the old teacher"
    assert perplexity(infiller, [short], direction="bi") == perplexity(infiller, [short], direction="uni")


def test_words_are_counted_in_the_original(infiller: Infiller) -> None:
    found = perplexity(infiller, ["it's a letter."], originals=["it 's a letter ."])
    assert found.words == 4


def test_last_words(infiller: Infiller) -> None:
    """The word that the model itself writes is right; any other is not."""
    context = "the old teacher walked to"
    filled = infiller.fill(context + "[gMASK] ", max_new_tokens=1).blanks[0]
    piece = infiller.tokenizer.token_text(filled.token_ids[0]) if filled.token_ids else ""
    signs = signs_of(infiller)
    tokens = infiller.tokenizer.encode(context)
    for word in ("river", "teacher", "market"):
        wanted = infiller.tokenizer.encode(" " + word)
        from openglm.evaluation.windows import last_word

        for direction in ("bi", "uni"):
            layout = last_word(np.array(tokens), np.array(wanted), signs, unidirectional=direction == "uni")
            assert layout.targets[layout.loss_mask].tolist() == wanted
            _, first = next(target_logprobs(infiller.model, [layout], signs.eos))
            found = last_words(infiller, [f"{context} {word} \n"], direction=direction)
            assert found.accuracy == 100 * first.all()
    assert isinstance(piece, str)


def test_a_long_context_loses_its_beginning_and_says_so(infiller: Infiller) -> None:
    long = " ".join(["the old teacher walked to the river"] * 30)
    for direction in ("bi", "uni"):
        found = last_words(infiller, [long, "a letter"], direction=direction)
        assert (found.count, found.cut) == (2, 1)


def test_bad_input(infiller: Infiller) -> None:
    with pytest.raises(OptionError, match="direction"):
        perplexity(infiller, [TEXT], direction="both")
    with pytest.raises(OptionError, match="context of 64"):
        perplexity(infiller, [TEXT], sequence_length=65)
    with pytest.raises(OptionError, match="stride"):
        perplexity(infiller, [TEXT], sequence_length=9, stride=9)
    with pytest.raises(InputError, match="two tokens"):
        perplexity(infiller, [""])
    with pytest.raises(InputError, match="no texts"):
        last_words(infiller, [])
    with pytest.raises(InputError, match="text 2 has no word before"):
        last_words(infiller, ["a letter", "letter"])


def test_a_blank_the_model_was_not_trained_with(infiller: Infiller) -> None:
    import dataclasses

    from openglm.network.model import GLMModel

    config = dataclasses.replace(infiller.model.config, blanks=("[MASK]",))
    other = Infiller(GLMModel(config), infiller.tokenizer)
    assert (
        signs_of(other).blank == infiller.tokenizer.special["MASK" if "MASK" in infiller.tokenizer.special else "mask"]
    )
    with pytest.raises(UnsupportedBlankError, match="without"):
        last_words(other, ["a letter"], blank="[gMASK]")
