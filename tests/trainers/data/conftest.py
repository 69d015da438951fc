"""Fixtures of the tests of the data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from support import tiny
from trainers.data.manifest import Manifest, read_manifest
from trainers.encoders import load_registry
from trainers.encoders.joined import VisionRepresentation, build_representation
from trainers.representation import parse


@pytest.fixture(scope="session")
def words() -> Any:
    return tiny.tokenizer()


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="session")
def original(folder: Path) -> Manifest:
    """24 samples of two turns, three of them without an image, as LLaVA's JSON."""
    return read_manifest(tiny.manifest(folder, turns=2))


@pytest.fixture(scope="session")
def vision(folder: Path) -> VisionRepresentation:
    registry = load_registry(tiny.encoders(folder))
    return build_representation(parse("clip@32+siglip@32"), registry)
