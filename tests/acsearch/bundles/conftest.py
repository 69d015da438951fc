"""Fixtures of the tests of bundles."""

from __future__ import annotations

from pathlib import Path

import pytest

from acsearch.study.snapshot import Snapshot
from support.bundled_studies import run
from support.homes import TempHome


@pytest.fixture
def here(tmp_path: Path) -> TempHome:
    return TempHome(tmp_path / "here")


@pytest.fixture
def there(tmp_path: Path) -> TempHome:
    return TempHome(tmp_path / "there")


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return run(TempHome(tmp_path_factory.mktemp("undisturbed")).start(budget=6))
