"""CSV files that people open in a spreadsheet program, which would run what looks like a formula."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Iterable, Sequence

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_FORMULA = tuple("=+-@\t\r\n")


def spreadsheet_csv(rows: Iterable[Sequence[str]]) -> str:
    """Write rows as CSV, with a quote before each cell that is no number and would be taken for a formula.

    Source: OWASP, "CSV Injection".
    """
    text = io.StringIO(newline="")
    csv.writer(text).writerows([_harmless(cell) for cell in row] for row in rows)
    return text.getvalue()


def _harmless(cell: str) -> str:
    wide = unicodedata.normalize("NFKC", cell[:1])  # = + - @ have wide forms, which count as well
    return f"'{cell}" if wide.startswith(_FORMULA) and not _NUMBER.fullmatch(cell) else cell
