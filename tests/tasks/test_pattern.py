"""Patterns: what they say, what they cut, what they refuse."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openglm.blanks import BlankKind
from openglm.errors import ContextLengthError, DataError
from openglm.infill.prompt import build_prompt
from openglm.network.model import GLMConfig
from openglm.tasks.pattern import Pattern, fields_of, render
from openglm.tokenizer import BilingualTokenizer


def test_fields_blanks_and_text() -> None:
    pattern = Pattern.parse("{a.b:shorten} 说{{[MASK]}}，{c:strip,lower}[sMASK]{a.b}")
    assert pattern.fields == ("a.b", "c")
    assert pattern.kinds == (BlankKind.MASK, BlankKind.SMASK)
    assert pattern.can_be_shortened
    assert str(pattern) == "{a.b:shorten} 说{{[MASK]}}，{c:strip,lower}[sMASK]{a.b}"


def test_modifiers(tokenizer: BilingualTokenizer) -> None:
    values = {"a": "The sun was rising. ", "b": ["x", "y"], "n": 3}
    filled = Pattern.parse("{a:lower,strip}! {b:join=、} {n} [MASK]{{}}").fill(values, tokenizer, 64)
    assert str(filled.blanked) == "the sun was rising! x、y 3 [MASK]{}"
    assert render("{a:lower,strip}?", values) == "the sun was rising?"
    assert fields_of("{a:lower,strip}?{n}") == ("a", "n")


def test_whole_text_is_read_as_a_prompt_is(tokenizer: BilingualTokenizer, tiny_config: GLMConfig) -> None:
    """Where nothing may be cut, the ids are those of the text itself."""
    filled = Pattern.parse("the {who} [MASK] of {what}.").fill({"who": "old teacher", "what": "it"}, tokenizer, 64)
    prompt = build_prompt(str(filled.blanked), tokenizer, tiny_config)
    part_a = filled.part_a(tokenizer)
    assert part_a == prompt.part_a
    assert filled.cut == 0


def test_blanks_in_an_example_are_text(tokenizer: BilingualTokenizer) -> None:
    filled = Pattern.parse("{a}[MASK]").fill({"a": "[MASK] and [gMASK]"}, tokenizer, 64)
    assert len(filled.part_a(tokenizer).blank_positions) == 1
    assert filled.blanked.literals[0] == "[MASK] and [gMASK]"


def test_the_longest_field_is_cut_from_its_side(tokenizer: BilingualTokenizer) -> None:
    long, short = "老师走到了河边。" * 5, "医生"
    ids = tokenizer.encode(long)
    pattern = Pattern.parse("{long:shorten=start}，{short:shorten}[MASK]。")
    whole = pattern.fill({"long": long, "short": short}, tokenizer, 512)
    size = len(whole.part_a(tokenizer))
    cut = pattern.fill({"long": long, "short": short}, tokenizer, size - 7)
    assert cut.cut_from == {"long": 7}
    assert cut.literals[0][: len(ids) - 7] == tuple(ids[7:])
    assert cut.literals[0][len(ids) - 7 :] == whole.literals[0][len(ids) :]
    assert cut.literals[1] == whole.literals[1]
    assert len(cut.part_a(tokenizer)) == size - 7
    from_end = Pattern.parse("{long:shorten}[MASK]。").fill({"long": long}, tokenizer, 20)
    assert from_end.literals[0] == tuple(ids[: len(from_end.literals[0])])


@given(st.data())
@settings(max_examples=60)
def test_shortening_keeps_every_blank_and_the_rest(tokenizer: BilingualTokenizer, data: st.DataObject) -> None:
    text = st.text("老师走到了河边 abc,。", max_size=40)
    values = {name: data.draw(text) for name in "xyz"}
    source = data.draw(
        st.sampled_from(
            [
                "{x:shorten}[MASK]{y:shorten=start}那么{z}[sMASK]",
                "[MASK]{x:shorten} {y:shorten} {z}[gMASK]",
                "{x:shorten}[MASK]。",
            ]
        )
    )
    pattern = Pattern.parse(source)
    whole = pattern.fill(values, tokenizer, 10_000)
    room = data.draw(st.integers(1, 80))
    try:
        filled = pattern.fill(values, tokenizer, room)
    except ContextLengthError:
        fixed = pattern.fill({**values, **dict.fromkeys("xy", "")}, tokenizer, 10_000)
        assert len(fixed.part_a(tokenizer)) + 2 > room
        return
    part_a = filled.part_a(tokenizer)
    kinds = [tokenizer.blank_id(kind) for kind in pattern.kinds]
    assert part_a.ids[part_a.blank_positions].tolist() == kinds
    assert len(part_a) <= room
    lost = len(whole.part_a(tokenizer)) - len(part_a)
    assert lost <= filled.cut <= lost + 1  # one more where an end token was reserved
    assert set(filled.cut_from) <= {"x", "y"}
    assert (lost == 0) or len(part_a) >= room - 1


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("no blank {x}", "no blank"),
        ("{x[MASK]", "lone {"),
        ("x}[MASK]", "lone }"),
        ("{}[MASK]", "without a name"),
        ("{x:shroten}[MASK]", "shorten"),
        ("{x:shorten=left}[MASK]", "end or start"),
        ("{x:strip=1}[MASK]", "unknown modifier"),
    ],
)
def test_patterns_that_are_none(source: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Pattern.parse(source)


def test_values_that_do_not_fit(tokenizer: BilingualTokenizer) -> None:
    pattern = Pattern.parse("{sentence:shorten}[MASK]")
    with pytest.raises(DataError, match=r"sentence.*Did you mean 'sentences'"):
        pattern.fill({"sentences": "x"}, tokenizer, 64)
    with pytest.raises(DataError, match="is a list"):
        pattern.fill({"sentence": ["x"]}, tokenizer, 64)
    with pytest.raises(DataError, match="no text but None"):
        pattern.fill({"sentence": None}, tokenizer, 64)
    with pytest.raises(ContextLengthError, match="no field may be"):
        Pattern.parse("{sentence}[MASK]").fill({"sentence": "老师" * 40}, tokenizer, 20)
    with pytest.raises(ContextLengthError, match="may not be cut"):
        Pattern.parse("{sentence}{b:shorten}[MASK]").fill({"sentence": "老师" * 40, "b": "x"}, tokenizer, 20)
    with pytest.raises(DataError, match="cannot have one"):
        render("{x}[MASK]", {"x": ""})
