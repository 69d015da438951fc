"""Packages that only happen to be installed."""

from __future__ import annotations

import importlib
import sys

import pytest

from trainers.encoders.import_block import without


def test_what_only_happens_to_be_installed_is_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "wave", raising=False)
    with without("wave"), pytest.raises(ImportError):
        importlib.import_module("wave")
    assert importlib.import_module("wave").open
    with without("wave"):  # somebody has it already
        assert importlib.import_module("wave").open
    assert "wave" in sys.modules
