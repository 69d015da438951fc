"""Queries, products and results are values that nobody can change."""

from __future__ import annotations

from types import ModuleType

import pytest

from acsearch.scores import alignment, matching, pck
from support.records import cannot_be_changed


@pytest.mark.parametrize("module", [alignment, matching, pck], ids=lambda one: one.__name__)
def test_records_cannot_be_changed(module: ModuleType) -> None:
    cannot_be_changed(module)
