"""Results and priors are values that nobody can change."""

from __future__ import annotations

from types import ModuleType

import pytest

from acsearch.law import bayes, diagnostics, features, least_squares, prior
from support.records import cannot_be_changed


@pytest.mark.parametrize("module", [bayes, diagnostics, features, least_squares, prior], ids=lambda one: one.__name__)
def test_records_cannot_be_changed(module: ModuleType) -> None:
    cannot_be_changed(module)
