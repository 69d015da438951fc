"""Fixtures of the tests of the encoders."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.tiny_encoders import write_checkpoints


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoints(tmp_path_factory.mktemp("checkpoints"))
