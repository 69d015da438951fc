"""Fixtures shared by the tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import forks
import pytest
from places import SETTINGS

from acsearch.config.prior_file import load_prior
from acsearch.config.table_file import load_table
from acsearch.law.prior import Prior
from acsearch.tables.table import Table

ROOT = Path(__file__).parent.parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, so that the processes end together."""
    names = "micro_study slurm training docker chaos readme leases pipeline store doctor outages cli study policy"
    longest = [f"test_{name}.py" for name in names.split()]
    items.sort(key=lambda item: longest.index(item.path.name) if item.path.name in longest else len(longest))


@pytest.fixture(scope="session", autouse=True)
def nobody_s_settings() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in SETTINGS:
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(scope="session")
def forked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[forks.Forks]:
    """Starts acsearch in a second, where a test starts it often and is not about the start."""
    with forks.serving(tmp_path_factory.mktemp("forks")) as made:
        yield made


@pytest.fixture
def at_once(forked: forks.Forks) -> Iterator[None]:
    """Whatever processes a test starts start at once."""
    with forked.instead():
        yield


@pytest.fixture(scope="session")
def v1() -> Table:
    return load_table("law_v1")


@pytest.fixture(scope="session")
def v3() -> Table:
    return load_table("law_v3")


@pytest.fixture(scope="session")
def ravel() -> Table:
    """57 encoders on 11 benchmarks, without C; not ours to ship."""
    path = ROOT.parent / "shared" / "data" / "ravel_qwen25.csv"
    if not path.exists():
        pytest.skip(f"needs the RAVEL table at {path.relative_to(ROOT.parent)}, which is not part of this repository")
    return load_table(str(path))


@pytest.fixture(scope="session")
def weak() -> Prior:
    return load_prior("weak")
