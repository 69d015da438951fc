"""Two copies of one study are merged, or refused with the reason."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from optuna.distributions import IntDistribution
from optuna.trial import TrialState

from acsearch.bundles.transfer import export_study
from acsearch.errors import BundleError
from acsearch.study.snapshot import Snapshot
from support.bundled_studies import LOOKED_UP, carry, run, trials
from support.homes import Quiet, TempHome, tell
from trainers.errors import AcsearchError, ConfigError


@pytest.fixture(scope="module")
def forked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same study in two places, one finetune done and one left unfinished."""
    folder = tmp_path_factory.mktemp("forked")
    run(TempHome(folder / "there").start(budget=4), 1, left=True)
    carry(TempHome(folder / "there"), TempHome(folder / "here"))
    return folder


@pytest.fixture
def copies(forked: Path, here: TempHome, there: TempHome) -> tuple[TempHome, TempHome]:
    for place in (here, there):
        shutil.copytree(forked / place.folder.name, place.folder)
    return here, there


def end(
    place: TempHome, number: int, candidate: int, state: TrialState = TrialState.COMPLETE, more: float = 0.0
) -> None:
    """A trial of this candidate, ended as a policy and a cluster of another kind might have."""
    study, table = place.study(), LOOKED_UP.table
    inner = study.optuna_study
    trial_id = inner._storage.create_new_trial(inner._study_id) if number == len(inner.trials) else None
    trial_id = inner.trials[number]._trial_id if trial_id is None else trial_id
    if not inner.trials[number].params:
        inner._storage.set_trial_param(trial_id, "candidate", candidate, IntDistribution(0, 12))
        inner._storage.set_trial_user_attr(trial_id, "representation", table.representations[candidate])
    if state == TrialState.COMPLETE:
        found = LOOKED_UP.finetune(candidate, number, None, Quiet())
        scores = {name: points + more for name, points in found.scores.items()}
        tell(study, number, replace(found, scores=scores))
    elif state == TrialState.FAIL:
        inner.tell(number, state=state)


def running(place: TempHome) -> int:
    """The candidate of the unfinished trial 1."""
    return int(place.study().optuna_study.trials[1].params["candidate"])


def states(place: TempHome) -> list[tuple[int | None, str]]:
    return [(trial.params.get("candidate"), trial.state.name) for trial in place.study().optuna_study.trials]


def refused(
    source: TempHome, target: TempHome, why: str, error: type[AcsearchError] = BundleError, **options: Any
) -> None:
    before = target.content()
    with pytest.raises(error, match=why):
        carry(source, target, **options)
    assert target.content() == before


def test_running_here_and_finished_there(copies: tuple[TempHome, TempHome]) -> None:
    here, there = copies
    end(there, 1, running(there))
    carry(there, here)
    one, other = here.study().snapshot().finetunes[1], there.study().snapshot().finetunes[1]
    assert replace(one, finished=None) == replace(other, finished=None, attempts=())  # attempts stay where they were
    assert not carry(here, there).changes


def test_finished_here_and_running_there(copies: tuple[TempHome, TempHome]) -> None:
    here, there = copies
    end(here, 1, running(here))
    before = here.content()
    assert not carry(there, here).changes
    assert here.content() == before


def test_finished_in_both_alike(copies: tuple[TempHome, TempHome]) -> None:
    here, there = copies
    end(here, 1, running(here))
    end(there, 1, running(there))
    assert not carry(there, here).changes
    assert not carry(here, there).changes


def test_finished_in_both_otherwise(copies: tuple[TempHome, TempHome]) -> None:
    here, there = copies
    candidate = running(here)
    end(here, 1, candidate)
    end(there, 1, candidate, more=0.25)
    points = LOOKED_UP.table.scores[candidate][0]
    name = LOOKED_UP.table.representations[candidate]
    what = f"{name} was finetuned as trial 1 here and as trial 1 in the bundle"
    refused(there, here, f"{what}: mmbench_en is {points} here, {points + 0.25} there; nothing was imported")


def test_failed_in_one_and_complete_in_the_other(copies: tuple[TempHome, TempHome]) -> None:
    here, there = copies
    end(here, 1, running(here), TrialState.FAIL)
    end(there, 1, running(there))
    refused(there, here, "fail here, complete there; nothing was imported")
    refused(here, there, "complete here, fail there")


def test_failed_in_both(copies: tuple[TempHome, TempHome]) -> None:
    for place in copies:
        end(place, 1, running(place), TrialState.FAIL)
    assert not carry(copies[1], copies[0]).changes


def test_other_candidates_under_one_number(copies: tuple[TempHome, TempHome]) -> None:
    here, there = copies
    one, other, third = sorted({*range(13)} - {row for row, _ in states(here)})[:3]  # type: ignore[type-var]
    for place in copies:
        end(place, 1, running(place))
    end(here, 2, one)
    end(there, 2, other)
    known = [record.representation for record in here.study().snapshot().finished]
    carry(there, here)
    assert states(here)[2:] == [(one, "COMPLETE"), (other, "COMPLETE")]
    after = here.study().snapshot()
    assert [record.representation for record in after.finished][:3] == known  # what was recorded stays true
    assert not carry(there, here).changes  # it is known by its candidate, not by its number
    end(there, 3, third)
    refused(
        there, here, "have 5 finetunes together, and its budget is 4: nothing was imported; allow them with --budget 5"
    )
    refused(there, here, "choose 4 to 13", ConfigError, budget=14)
    carry(there, here, budget=5)
    assert states(here)[4] == (third, "COMPLETE")
    assert here.study().budget == 5
    carry(here, there)
    assert sorted(states(there)) == sorted(states(here))
    assert there.study().budget == 5


def test_asked_for_and_not_proposed(here: TempHome, there: TempHome, undisturbed: Snapshot) -> None:
    """What a controller leaves that dies between the two."""
    run(there.start(), 1)
    there.study().optuna_study.ask()
    carry(there, here)
    assert trials(here) == trials(there)
    other = next(row for row in range(13) if row not in dict(states(here)))
    end(there, 1, other)
    carry(there, here)
    assert states(here)[1] == (other, "COMPLETE")
    here.study().optuna_study.ask()
    assert not carry(there, here).changes
    refused_number = states(here)
    assert refused_number[2] == (None, "RUNNING")
    carry(here, there)
    assert states(there) == refused_number
    assert len(run(here.study()).finished) == 4


def test_the_larger_budget_counts(copies: tuple[TempHome, TempHome]) -> None:
    here, there = copies
    there.study().raise_budget(6)
    carry(there, here)
    assert here.study().budget == 6
    assert not carry(here, there).changes


def test_scores_are_united_or_refused(copies: tuple[TempHome, TempHome]) -> None:
    here, there = copies
    scored = {"alignment": [0.5] * 8, "correspondence": 20.0, "seconds": 1.0, "details": {}}
    here.study().optuna_study.set_user_attr("score-0", scored)
    there.study().optuna_study.set_user_attr("score-0", scored | {"seconds": 2.0})
    there.study().optuna_study.set_user_attr("score-1", scored)
    assert carry(there, here).changes.scores == 1
    assert here.study().optuna_study.user_attrs["score-1"] == scored
    there.study().optuna_study.set_user_attr("score-2", scored | {"correspondence": None})
    here.study().optuna_study.set_user_attr("score-2", scored)
    refused(there, here, r"was scored in both copies, A and C are 0.5 and 20.0 here and 0.5 and None in the bundle")


def test_another_study_of_the_same_name(here: TempHome, there: TempHome) -> None:
    here.start()
    there.start()
    refused(there, here, "another one of the same name: started is 20.* here and 20.* in the bundle")


def test_what_somebody_works_on_is_let_be(copies: tuple[TempHome, TempHome], tmp_path: Path) -> None:
    here, there = copies
    with there.claims("s").claim("trial-1"):
        assert export_study(there, "s", tmp_path / "b.tar.zst").in_progress == (1,)
    end(there, 1, running(there))
    with here.claims("s").claim("trial-1"):
        refused(there, here, "somebody works on trial-1 here right now")
    assert len(carry(there, here).changes.finish) == 1
