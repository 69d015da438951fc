"""Fixtures of the tests of the doctor."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The doctor's checks may take as long as they take on a machine that has much to do."""
    monkeypatch.setattr("acsearch.doctor.examine.LIMIT", 600.0)
