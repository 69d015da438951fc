"""Fixtures of the tests of acsearch."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from acsearch.config import settings
from support.doctor import VARIABLES
from support.hub import CachedHub, cached_hub
from support.keypoint_pairs import write_spair


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an empty folder, with nothing set."""
    for name in os.environ:
        if name.startswith(VARIABLES):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    settings.read.cache_clear()


@pytest.fixture
def spair(tmp_path: Path) -> Path:
    """A small copy of SPair-71k."""
    return write_spair(tmp_path / "SPair-71k")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CachedHub:
    """A cache of the Hugging Face hub, empty at first; the hub itself is out of reach."""
    return cached_hub(tmp_path, monkeypatch)
