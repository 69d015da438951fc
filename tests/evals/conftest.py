"""Fixtures of the tests of evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.evaluation import RIGHT, write_questions


@pytest.fixture(scope="module", autouse=True)
def _datasets_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Data that lmms-eval prepares stays in the test's folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMMS_EVAL_DATASETS_CACHE", str(tmp_path_factory.mktemp("datasets")))
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield


@pytest.fixture
def questions(tmp_path: Path) -> dict[str, Path]:
    return {"micro_count": write_questions(tmp_path / "count.parquet", RIGHT)}
