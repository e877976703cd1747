from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openglm.blanks import BlankKind
from openglm.errors import InputError, OptionError
from openglm.evaluation.infilling import blank_words, infilling
from openglm.infill.infiller import Infiller
from openglm.tasks.units import written_words


@given(st.text("ab 三维，. ", max_size=40), st.floats(0.05, 1.0), st.integers(0, 9))
def test_blanking_words_is_undone_by_the_answers(text: str, ratio: float, seed: int) -> None:
    blanked, answers = blank_words(text, ratio, np.random.default_rng(seed))
    assert blanked.substitute(answers)[0] == text
    words = len(written_words(text))
    assert sum(len(written_words(answer)) for answer in answers) == int(words * ratio)
    # Neighbours share a blank: between two blanks there is a word.
    assert all(written_words(literal) for literal in blanked.literals[1:-1])


def test_all_words_make_one_blank() -> None:
    blanked, answers = blank_words(" 三维 model ", 1.0, np.random.default_rng(0), BlankKind.SMASK)
    assert answers == ["三维 model"]
    assert str(blanked) == " [sMASK] "


def test_infilling(infiller: Infiller) -> None:
    texts = ["the old teacher walked to the river yesterday", "老师昨天走到了河边。", "short"]
    seen: list[int] = []
    found = infilling(infiller, texts, (0.3, 0.6), max_new_tokens=4, progress=seen.append)
    assert [each.ratio for each in found] == [0.3, 0.6]
    assert sum(seen) == 4
    for each in found:
        assert each.texts == 2  # the third has too few words
        assert 0 <= each.exact_match <= 100
        assert 0 < each.bleu_unfilled < 100
    assert found == infilling(infiller, texts, (0.3, 0.6), max_new_tokens=4)
    assert found[0].bleu_unfilled > found[1].bleu_unfilled


def test_what_is_filled_rightly_counts(infiller: Infiller, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the right fills BLEU and exact match are 100."""
    import dataclasses

    text = "the old teacher walked to the river yesterday"
    real = infiller.fill

    def right(texts: list[object], **options: object) -> list[object]:
        out = []
        for filled, blanked in zip(real(texts, **options), texts, strict=True):
            _, answers = blank_words(text, 0.5, np.random.default_rng([0, 0]))
            assert blanked.substitute(answers)[0] == text
            fills = [dataclasses.replace(f, text=a) for f, a in zip(filled.blanks, answers, strict=True)]
            out.append(dataclasses.replace(filled, text=text, blanks=fills))
        return out

    monkeypatch.setattr(infiller, "fill", right)
    (found,) = infilling(infiller, [text], (0.5,), max_new_tokens=2)
    assert found.exact_match == 100
    assert found.bleu == pytest.approx(100)


def test_bad_input(infiller: Infiller) -> None:
    for ratio in (0.0, 1.5):
        with pytest.raises(OptionError, match="ratio"):
            infilling(infiller, ["a b c"], (ratio,))
    with pytest.raises(InputError, match="enough words"):
        infilling(infiller, ["one", ""], (0.5,))
