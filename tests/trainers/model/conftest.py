"""Fixtures of the tests of the model."""

from __future__ import annotations

from pathlib import Path

import pytest

from support import tiny, tiny_samples
from trainers.data.samples import Samples


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("model")
    for kind in ("llama", "qwen2"):
        tiny.llm(made / kind, kind)
    tiny.encoders(made)
    return made


@pytest.fixture(scope="session")
def samples(folder: Path) -> Samples:
    return tiny_samples.samples(tiny.manifest(folder / "data", turns=2), tiny.tokenizer())
