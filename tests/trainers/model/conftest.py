"""Fixtures of the tests of the model."""

from __future__ import annotations

from pathlib import Path

import pytest

from support import tiny
from trainers.data.manifest import Manifest, read_manifest


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("model")
    for kind in ("llama", "qwen2"):
        tiny.llm(made / kind, kind)
    tiny.encoders(made)
    return made


@pytest.fixture(scope="session")
def manifest(folder: Path) -> Manifest:
    return read_manifest(tiny.manifest(folder / "data", turns=2))
