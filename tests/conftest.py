"""Fixtures shared by the tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from PIL import ImageFile

from acsearch.config.prior_file import load_prior
from acsearch.config.table_file import load_table
from acsearch.law.prior import Prior
from acsearch.tables.table import Table
from support import ROOT, fork_server
from support.homes import SETTINGS

# the files that take longest, so that test processes that share the work end together
LONGEST = (
    "studies/test_micro_study.py",
    "integration/test_slurm.py",
    "integration/test_docker.py",
    "integration/test_real_weights.py",
    "chaos/test_chaos.py",
    "integration/test_readme.py",
    "trainers/training/test_kills.py",
    "fuzz/test_checkpoints.py",
    "acsearch/runners/test_training_runner.py",
    "acsearch/storage/test_leases.py",
    "acsearch/doctor/test_real_servers.py",
    "acsearch/storage/test_outages.py",
    "trainers/training/test_launch.py",
    "trainers/training/test_preemption.py",
    "trainers/checkpoints/test_shared_stages.py",
    "trainers/model/test_fsdp.py",
    "acsearch/cli/test_cli.py",
    "acsearch/study/test_study.py",
    "acsearch/study/test_attempts.py",
    "acsearch/policies/test_policies.py",
    "acsearch/bundles/test_work_files.py",
    "studies/test_micro_pretrain.py",
    "acsearch/config/test_bad_input.py",
    "fuzz/test_data.py",
    "fuzz/test_files.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first."""
    place = {ROOT / "tests" / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path, len(place)))


@pytest.fixture(scope="session", autouse=True)
def nobody_s_settings() -> Iterator[None]:
    """The settings of whoever runs the tests do not lead them elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        for name in SETTINGS:
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(autouse=True)
def whole_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """lmms-eval, once it is imported, lets Pillow take half a picture for a whole one, in all of the process."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", False)


@pytest.fixture(scope="session")
def forked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[fork_server.Forks]:
    """Starts acsearch in a second, where a test starts it often and is not about the start."""
    with fork_server.serving(tmp_path_factory.mktemp("forks")) as made:
        yield made


@pytest.fixture
def at_once(forked: fork_server.Forks) -> Iterator[None]:
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
