"""Fixtures of the tests of the trainers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support import tiny
from support.hub import CachedHub, cached_hub
from support.training_jobs import TinyJobs


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    with tiny.one_thread():
        yield


@pytest.fixture(scope="session")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> TinyJobs:
    folder = tmp_path_factory.mktemp("training")
    tiny.llm(folder / "llama")
    tiny.llm(folder / "dropping", attention_dropout=0.3)
    tiny.encoders(folder)
    for samples in (8, 21):
        for turns in (1, 2):
            tiny.manifest(folder / f"{samples}", samples, turns)
    return TinyJobs(folder)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CachedHub:
    """A cache of the Hugging Face hub, empty at first; the hub itself is out of reach."""
    return cached_hub(tmp_path, monkeypatch)
