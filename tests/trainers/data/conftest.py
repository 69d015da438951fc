"""Fixtures of the tests of the data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from support import tiny
from support.tiny_samples import samples
from trainers.data.samples import Samples
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
def original(folder: Path, words: Any) -> Samples:
    """24 samples of two turns, three of them without an image, as LLaVA's JSON."""
    return samples(tiny.manifest(folder, turns=2), words)


@pytest.fixture(scope="session")
def vision(folder: Path) -> VisionRepresentation:
    registry = load_registry(tiny.encoders(folder))
    return build_representation(parse("clip@32+siglip@32"), registry)
