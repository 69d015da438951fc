"""Two rounds of `make chaos`, which between them kill controllers, trainers, torchrun, PostgreSQL and S3."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from chaos import places, rounds
from support.fork_server import Forks

pytestmark = pytest.mark.services


@pytest.fixture(scope="module")
def world(forked: Forks, tmp_path_factory: pytest.TempPathFactory) -> Iterator[places.World]:
    with places.world(tmp_path_factory.mktemp("chaos"), forked) as made:
        yield made


@pytest.mark.parametrize(
    ("seed", "victims"),  # all killed in the first half of the study
    [(2804, {"launcher", "controller", "trainer"}), (6946, {"postgresql", "s3", "controller"})],
)
def test_a_study_is_as_undisturbed(world: places.World, seed: int, victims: set[str]) -> None:
    """Two processes that train, and servers; `docs/chaos.md` says what is looked at."""
    kind, _ = rounds.schedule(seed)
    outcome = rounds.play(seed, world, rounds.undisturbed(kind, world))
    assert {who for who, _ in outcome.kills} == victims
    assert not outcome.wrong, str(outcome)
