"""A few rounds of `make chaos`: one controller, two processes that train, and servers that go away."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from chaos import checks, forks, places, rounds


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[places.World]:
    folder = tmp_path_factory.mktemp("chaos")
    with forks.serving(folder) as forked, places.world(folder, forked) as made:
        yield made


@pytest.fixture(scope="module")
def twin(world: places.World) -> checks.Found:
    return rounds.undisturbed("alone", world)


@pytest.mark.parametrize("seed", [0, 2])
def test_a_study_is_as_undisturbed(world: places.World, twin: checks.Found, seed: int) -> None:
    outcome = rounds.play(seed, world, twin)
    assert outcome.kills
    assert not outcome.wrong, str(outcome)
