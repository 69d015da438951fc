"""CSV files for spreadsheets: no cell is taken for a formula, and all of them are read back."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acsearch.tables.spreadsheet import spreadsheet_csv

CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=12) | st.builds(
    str.__add__,
    st.sampled_from([*"=+-@\t\r\n＝＋", "-1", "+.5"]),
    st.text("=1e+.x(", max_size=6),
)


def read(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text, newline="")))


@settings(max_examples=500, deadline=None, derandomize=True)
@given(st.lists(st.lists(CELLS, min_size=2, max_size=4), max_size=4))
def test_no_cell_is_a_formula(rows: list[list[str]]) -> None:
    again = read(spreadsheet_csv(rows))
    assert [len(row) for row in again] == [len(row) for row in rows]
    for cell, before in zip(sum(again, []), sum(rows, []), strict=True):  # noqa: RUF017
        assert cell in (before, f"'{before}")
        if cell.startswith(("=", "+", "-", "@", "\t", "\r", "＝", "＋", "－", "＠")):
            float(cell)


@pytest.mark.parametrize("cell", ["clip-l14@336", "-1.5", "+2", "-3e-05", "0.4900", "yes", "", ".5", "a=b"])
def test_names_and_numbers_stay(cell: str) -> None:
    assert read(spreadsheet_csv([[cell, "x"]])) == [[cell, "x"]]


@pytest.mark.parametrize("cell", ["=1+1", "@SUM(A1)", "+cmd|' /C calc'!A0", "-2+3", "\t=1", "\r=1", "-1 000", "＝1"])
def test_formulas_get_a_quote(cell: str) -> None:
    assert read(spreadsheet_csv([[cell, "x"]])) == [[f"'{cell}", "x"]]
