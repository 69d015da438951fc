"""States, beliefs and results are values that nobody can change."""

from __future__ import annotations

from types import ModuleType

import pytest

from acsearch.policies import acquisition, base, recommendation, registry, replay
from support.records import cannot_be_changed


@pytest.mark.parametrize("module", [acquisition, base, recommendation, registry, replay], ids=lambda one: one.__name__)
def test_records_cannot_be_changed(module: ModuleType) -> None:
    cannot_be_changed(module, "_FitCache")
