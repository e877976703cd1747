"""Markdown tables."""

from __future__ import annotations

from openglm.markdown import markdown_table


def test_columns_may_be_aligned() -> None:
    assert markdown_table(["a", "b"], [["xx", "1"]], right=(1,)).splitlines() == [
        "| a  | b |",
        "|----|--:|",
        "| xx | 1 |",
    ]
    assert markdown_table(["a", "b"], [["xx", "1"]]).splitlines() == ["| a | b |", "| --- | --- |", "| xx | 1 |"]


def test_a_cell_keeps_to_its_place() -> None:
    """Line breaks and bars in a label would begin other rows and cells."""
    assert markdown_table(["a"], [["x|y\nz"]]).splitlines()[-1] == "| x\\|y z |"
