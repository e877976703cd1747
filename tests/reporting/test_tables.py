"""Markdown tables."""

from __future__ import annotations

from openglm.reporting.tables import markdown_table


def test_aligned() -> None:
    table = markdown_table([["a", "b"], ["xx", "1"]], right=(1,), aligned=True)
    assert table.splitlines() == ["| a  | b |", "|----|--:|", "| xx | 1 |"]


def test_bars_and_ends_of_lines_stay_in_their_cell() -> None:
    table = markdown_table([["a", "b"], ["x|y", "1\n2"]])
    assert table.splitlines() == ["| a | b |", "| --- | --- |", "| x\\|y | 1 2 |"]
