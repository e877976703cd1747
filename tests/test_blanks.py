"""The layout, against a second description of it in plain Python loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openglm.batches import NO_DOCUMENT, Arrays, Batch, pack, pad
from openglm.blanks import BlankedText, BlankKind, Markers, PartA, build_part_a, tokens_beside_text
from openglm.errors import InputError
from openglm.layouts import Layout, blank_out, blank_out_many, fills_of, lay_out, put_back, remove_spans

SOP, EOP, EOS, PAD = 901, 902, 903, 904
MASK, SMASK = 911, 912
MARKERS = Markers(SOP, EOP)


def naive(part_a: list[int], answers: list[tuple[int, list[int]]], closed: bool) -> dict[str, list[Any]]:
    """The diagram of `openglm.blanks`, read token by token."""
    ids, targets, loss, position, block = [], [], [], [], []
    for index, token in enumerate(part_a):
        ids.append(token)
        targets.append(token)
        loss.append(False)
        position.append(index)
        block.append(0)
    for blank, fill in answers:
        previous = SOP
        for count, token in enumerate([*fill, EOP] if closed else fill, 1):
            ids.append(previous)
            targets.append(token)
            loss.append(True)
            position.append(blank)
            block.append(count)
            previous = token
    return {
        "input_ids": ids,
        "targets": targets,
        "loss_mask": loss,
        "position_ids": position,
        "block_position_ids": block,
    }


def assert_same(layout: Layout, expected: dict[str, list[Any]]) -> None:
    for name, values in expected.items():
        assert getattr(layout, name).tolist() == values, name


def ints(values: Any) -> np.ndarray[Any, Any]:
    return np.array(values, dtype=np.int64)


@st.composite
def cut_texts(draw: st.DrawFn, most: int = 40) -> tuple[list[int], list[tuple[int, int]], list[int]]:
    """A text, spans in it in text order (they may touch), and an order to write them in."""
    tokens = draw(st.lists(st.integers(0, 900), max_size=most))
    flags = draw(st.lists(st.integers(0, 2), min_size=len(tokens), max_size=len(tokens)))
    spans: list[tuple[int, int]] = []
    for index, flag in enumerate(flags):  # 0: kept, 1: goes on with the span before it, 2: opens a span
        if flag == 1 and spans and spans[-1][1] == index:
            spans[-1] = (spans[-1][0], index + 1)
        elif flag:
            spans.append((index, index + 1))
    return tokens, spans, draw(st.permutations(range(len(spans))))


def cut(tokens: list[int], spans: list[tuple[int, int]], order: list[int]) -> Layout:
    return blank_out(
        ints(tokens), ints([a for a, _ in spans]), ints([b for _, b in spans]), MASK, MARKERS, order=ints(order)
    )


@given(cut_texts())
def test_cut_text_matches_the_diagram(case: tuple[list[int], list[tuple[int, int]], list[int]]) -> None:
    tokens, spans, order = case
    part_a: list[int] = []
    blank_of: dict[int, int] = {}  # start of a span -> where its blank stands
    index = 0
    for start, end in [*spans, (len(tokens), len(tokens))]:
        part_a += tokens[index:start]
        if start < end:
            blank_of[start] = len(part_a)
            part_a.append(MASK)
        index = end
    answers = [(blank_of[spans[k][0]], tokens[slice(*spans[k])]) for k in order]
    layout = cut(tokens, spans, order)
    assert_same(layout, naive(part_a, answers, closed=True))
    assert layout.separator == len(part_a)
    assert len(layout) == len(part_a) + sum(end - start + 1 for start, end in spans)


@given(cut_texts())
def test_cut_text_is_put_back(case: tuple[list[int], list[tuple[int, int]], list[int]]) -> None:
    tokens, spans, order = case
    layout = cut(tokens, spans, order)
    assert put_back(layout).tolist() == tokens
    assert [fill.tolist() for _, fill in fills_of(layout)] == [tokens[slice(*spans[k])] for k in order]


@given(st.lists(st.integers(0, 900), min_size=1, max_size=30), st.data())
def test_open_end_is_put_back(tokens: list[int], data: st.DataObject) -> None:
    tokens = [*tokens, EOS]
    start = data.draw(st.integers(0, len(tokens) - 1))
    layout = blank_out(ints(tokens), ints([start]), ints([len(tokens)]), MASK, MARKERS, ends_with_eop=False)
    assert_same(layout, naive([*tokens[:start], MASK], [(start, tokens[start:])], closed=False))
    assert put_back(layout).tolist() == tokens
    assert layout.targets[-1] == EOS
    assert EOP not in layout.input_ids.tolist() + layout.targets.tolist()


@given(
    st.lists(st.integers(0, 900), min_size=1, max_size=20),
    st.lists(st.lists(st.integers(0, 900), max_size=5), max_size=6),
    st.data(),
)
def test_answers_in_any_order_and_of_any_length(part_a: list[int], fills: list[list[int]], data: st.DataObject) -> None:
    fills = fills[: len(part_a)]
    where = data.draw(st.permutations(range(len(part_a))))[: len(fills)]
    layout = lay_out(
        PartA(ints(part_a), ints(sorted(where))),
        [ints(fill) for fill in fills],
        MARKERS,
        blanks=np.argsort(np.argsort(where)),
    )
    assert_same(layout, naive(part_a, list(zip(where, fills, strict=True)), closed=True))
    assert [(p, f.tolist()) for p, f in fills_of(layout)] == list(zip(where, fills, strict=True))
    assert layout.loss_mask.sum() == sum(len(fill) + 1 for fill in fills)


def test_diagram_of_the_module() -> None:
    """The drawing in the documentation, number by number."""
    layout = lay_out(
        PartA(ints([1, 2, 3, MASK, 4, MASK, EOS]), ints([3, 5])), [ints([21, 22, 23]), ints([31])], MARKERS
    )
    assert layout.input_ids.tolist() == [1, 2, 3, MASK, 4, MASK, EOS, SOP, 21, 22, 23, SOP, 31]
    assert layout.targets[7:].tolist() == [21, 22, 23, EOP, 31, EOP]
    assert layout.position_ids.tolist() == [0, 1, 2, 3, 4, 5, 6, 3, 3, 3, 3, 5, 5]
    assert layout.block_position_ids.tolist() == [0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 1, 2]
    assert layout.loss_mask.tolist() == [False] * 7 + [True] * 6
    assert layout.separator == 7


def test_empty_fill_is_one_closed_step() -> None:
    layout = lay_out(PartA(ints([5, MASK, 6]), ints([1])), [ints([])], MARKERS)
    assert layout.input_ids[3:].tolist() == [SOP]
    assert layout.targets[3:].tolist() == [EOP]
    assert put_back(layout).tolist() == [5, 6]


def test_empty_fill_without_end_is_refused() -> None:
    with pytest.raises(InputError, match="eop"):
        lay_out(PartA(ints([5, MASK]), ints([1])), [ints([])], MARKERS, ends_with_eop=False)


def test_blank_without_fill_stays() -> None:
    layout = lay_out(PartA(ints([MASK, 5, MASK]), ints([2])), [ints([7, 8])], MARKERS)
    assert put_back(layout).tolist() == [MASK, 5, 7, 8]


def test_one_blank_id_per_span() -> None:
    part_a = remove_spans(ints([1, 2, 3, 4, 5]), ints([0, 2]), ints([2, 3]), ints([MASK, SMASK]))
    assert part_a == PartA(ints([MASK, SMASK, 4, 5]), ints([0, 1]))


def test_cutting_leaves_the_text_alone() -> None:
    tokens = ints([1, 2, 3, 4])
    blank_out(tokens, ints([1]), ints([3]), MASK, MARKERS)
    assert tokens.tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("starts", "ends"),
    [
        ([2], [2]),  # empty
        ([3], [2]),  # backwards
        ([1, 2], [3, 4]),  # overlapping
        ([4, 1], [5, 2]),  # out of order
        ([-1], [2]),  # in front of the text
        ([5], [7]),  # behind the text
        ([1, 3], [2]),  # a span without end
        ([1], [2, 4]),  # an end without span
    ],
)
def test_malformed_spans_are_refused(starts: list[int], ends: list[int]) -> None:
    with pytest.raises(InputError):
        remove_spans(ints([1, 2, 3, 4, 5, 6]), ints(starts), ints(ends), MASK)


@pytest.mark.parametrize("where", [[3], [-1], [0, 7]])
def test_blanks_outside_part_a_are_refused(where: list[int]) -> None:
    with pytest.raises(InputError, match="outside Part A of 3 tokens"):
        PartA(ints([1, MASK, 2]), ints(where))


@pytest.mark.parametrize(
    ("blanks", "fills"), [(None, 2), (None, 0), ([0], 2), ([0, 1], 1), ([1], 1), ([-1], 1), ([], 1)]
)
def test_malformed_answers_are_refused(blanks: list[int] | None, fills: int) -> None:
    with pytest.raises(InputError):
        lay_out(PartA(ints([1, MASK, 2]), ints([1])), [ints([7])] * fills, MARKERS, blanks=blanks)


def test_part_a_of_equal_numbers_is_equal() -> None:
    one, same = PartA(ints([1, MASK, 2]), ints([1])), PartA(ints([1, MASK, 2]), ints([1]))
    assert one == same
    assert hash(one) == hash(same)
    assert len({one, same, PartA(ints([1, MASK, 2])), PartA(ints([1, MASK, 3]), ints([1]))}) == 3
    assert one.behind(ints([8, 9])) == PartA(ints([8, 9, 1, MASK, 2]), ints([3]))


@given(
    st.lists(st.lists(st.integers(0, 900), max_size=4), min_size=1, max_size=4),
    st.lists(st.sampled_from(list(BlankKind)), min_size=3, max_size=3),
)
def test_part_a_of_a_text(literals: list[list[int]], kinds: list[BlankKind]) -> None:
    kinds = kinds[: len(literals) - 1]
    part_a = build_part_a(literals, kinds, [MASK] * len(kinds), cls=5, eos=EOS)
    text = [5, *literals[0]]
    for literal in literals[1:]:
        text += [MASK, *literal]
    open_end = bool(kinds) and kinds[-1] is BlankKind.GMASK and not literals[-1]
    assert part_a.ids.tolist() == (text if open_end else [*text, EOS])
    assert part_a.ids[part_a.blank_positions].tolist() == [MASK] * len(kinds)
    assert len(part_a) == sum(map(len, literals)) + tokens_beside_text(kinds, bool(literals[-1]))


def test_part_a_is_found_in_a_layout() -> None:
    part_a = PartA(ints([1, MASK, 2, MASK, 3]), ints([1, 3]))
    assert lay_out(part_a, [ints([7]), ints([])], MARKERS, blanks=[1, 0]).part_a == part_a
    assert lay_out(part_a, [], MARKERS, blanks=[]).part_a == PartA(part_a.ids)


def read_back(batch: Batch[Arrays], row: int, number: int) -> dict[str, Any]:
    """One layout, as the batch holds it."""
    where = np.flatnonzero(batch.documents[row] == number)
    assert where.tolist() == list(range(where[0], where[-1] + 1)), "a layout is in pieces"
    here = slice(where[0], where[-1] + 1)
    return {
        "input_ids": batch.input_ids[row, here].tolist(),
        "targets": batch.targets[row, here].tolist(),
        "loss_mask": batch.loss_mask[row, here].tolist(),
        "position_ids": batch.position_ids[row, 0, here].tolist(),
        "block_position_ids": batch.position_ids[row, 1, here].tolist(),
        "in_part_a": batch.in_part_a[row, here].tolist(),
    }


def assert_holds(batch: Batch[Arrays], layouts: list[Layout]) -> None:
    """Every layout stands in the batch once and unchanged; all else is padding."""
    assert sorted(i for row in batch.placed for i in row) == list(range(len(layouts)))
    for r, row in enumerate(batch.placed):
        for number, i in enumerate(row):
            found = read_back(batch, r, number)
            assert_same(layouts[i], {k: v for k, v in found.items() if k != "in_part_a"})
            separator = layouts[i].separator
            assert found["in_part_a"] == [True] * separator + [False] * (len(layouts[i]) - separator)
        assert (batch.documents[r] != NO_DOCUMENT).sum() == sum(len(layouts[i]) for i in row)
        assert set(batch.documents[r].tolist()) <= {NO_DOCUMENT, *range(len(row))}
    empty = batch.documents == NO_DOCUMENT
    assert (batch.input_ids[empty] == PAD).all()
    assert (batch.targets[empty] == PAD).all()
    assert not batch.loss_mask[empty].any()
    assert not batch.in_part_a[empty].any()
    assert not batch.position_ids.transpose(0, 2, 1)[empty].any()


layout_lists = st.lists(cut_texts(most=20).map(lambda case: cut([*case[0], 5], case[1], case[2])), max_size=8)


@given(st.lists(cut_texts(most=20), min_size=1, max_size=5), st.data())
def test_many_texts_are_laid_out_like_each_alone(
    cases: list[tuple[list[int], list[tuple[int, int]], list[int]]], data: st.DataObject
) -> None:
    closes = np.array(data.draw(st.lists(st.booleans(), min_size=len(cases), max_size=len(cases))))
    alone, starts, ends, order = [], [], [], []
    offset = 0
    for (tokens, spans, own_order), closed in zip(cases, closes.tolist(), strict=True):
        own = ints([a for a, _ in spans]), ints([b for _, b in spans])
        alone.append(blank_out(ints(tokens), *own, MASK, MARKERS, order=ints(own_order), ends_with_eop=closed))
        order += [len(starts) + i for i in own_order]
        starts += [offset + a for a, _ in spans]
        ends += [offset + b for _, b in spans]
        offset += len(tokens)
    texts = ints([token for tokens, _, _ in cases for token in tokens])
    lengths = ints([len(tokens) for tokens, _, _ in cases])
    many = blank_out_many(
        texts, lengths, ints(starts), ints(ends), MASK, MARKERS, order=ints(order), ends_with_eop=closes
    )
    assert len(many) == len(alone)
    for layout, expected in zip(many, alone, strict=True):
        assert_same(layout, {name: getattr(expected, name).tolist() for name in naive([], [], True)})
        assert (layout.separator, layout.ends_with_eop) == (expected.separator, expected.ends_with_eop)


@given(layout_lists)
def test_padded_rows_read_back(layouts: list[Layout]) -> None:
    batch = pad(layouts, PAD)
    longest = max((len(layout) for layout in layouts), default=0)
    assert batch.input_ids.shape == (len(layouts), longest)
    assert batch.position_ids.shape == (len(layouts), 2, longest)
    assert [list(row) for row in batch.placed] == [[i] for i in range(len(layouts))]
    assert_holds(batch, layouts)


@given(layout_lists, st.integers(0, 30))
def test_packed_rows_read_back(layouts: list[Layout], spare: int) -> None:
    length = max((len(layout) for layout in layouts), default=0) + spare
    batch = pack(layouts, length, PAD)
    assert batch.input_ids.shape[1] == length
    assert_holds(batch, layouts)
    # No two rows that would fit into one.
    loads = sorted(sum(len(layouts[i]) for i in row) for row in batch.placed)
    assert len(loads) < 2 or loads[0] + loads[1] > length


def test_share_of_used_positions() -> None:
    layouts = [cut(list(range(9)), [], []), cut(list(range(3)), [], [])]
    assert pad(layouts, PAD).used == pytest.approx(12 / 18)
    assert pack(layouts, 12, PAD).used == 1.0


def test_rows_that_are_too_short_are_refused() -> None:
    layout = cut(list(range(10)), [(2, 4)], [0])
    with pytest.raises(InputError, match=str(len(layout))):
        pack([layout], len(layout) - 1, PAD)
    with pytest.raises(InputError, match=str(len(layout))):
        pad([layout], PAD, length=len(layout) - 1)
    assert pad([layout], PAD, length=len(layout) + 3).input_ids.shape == (1, len(layout) + 3)


kinds = st.sampled_from(list(BlankKind))
pieces = st.one_of(
    kinds.map(str), st.text(max_size=6), st.sampled_from(["[mask]", "[", "MASK]", "[[MASK]]", "[ MASK ]"])
)


@given(st.lists(pieces, max_size=8).map("".join))
def test_parsed_text_prints_as_itself(text: str) -> None:
    blanked = BlankedText.parse(text)
    assert str(blanked) == text
    assert len(blanked.kinds) == sum(text.count(str(kind)) for kind in BlankKind)
    assert not any(str(kind) in literal for literal in blanked.literals for kind in BlankKind)


@given(st.lists(st.tuples(kinds, st.text(max_size=5), st.text(max_size=5)), max_size=6), st.text(max_size=5))
def test_fills_stand_where_substitute_says(parts: list[tuple[BlankKind, str, str]], last: str) -> None:
    """Literals and fills may hold any wording, that of blanks too."""
    blanked = BlankedText((*[literal for _, literal, _ in parts], last), tuple(kind for kind, _, _ in parts))
    text, spans = blanked.substitute([fill for _, _, fill in parts])
    assert [text[start:end] for start, end in spans] == [fill for _, _, fill in parts]
    assert text == "".join(literal + fill for _, literal, fill in parts) + last
    end = 0
    for (_, literal, _), (start, stop) in zip(parts, spans, strict=True):
        assert text[end:start] == literal
        end = stop


def test_literals_are_never_read_as_blanks() -> None:
    blanked = BlankedText(("a [MASK] b ", " c"), (BlankKind.SMASK,))
    text, spans = blanked.substitute(["[gMASK]"])
    assert text == "a [MASK] b [gMASK] c"
    assert spans == [(11, 18)]


def test_number_of_fills_and_literals_must_fit() -> None:
    with pytest.raises(InputError, match="2 fills"):
        BlankedText.parse("a [MASK] b").substitute(["x", "y"])
    with pytest.raises(InputError, match="literals"):
        BlankedText(("a",), (BlankKind.MASK,))
