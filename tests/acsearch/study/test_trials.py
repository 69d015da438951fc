"""Trials that others wrote by Optuna's own means: taken within the budget, or refused with their numbers."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from acsearch.config.table_file import load_table
from acsearch.errors import StudyError
from acsearch.executors.controller import _Controller
from acsearch.runners.base import Observation, Progress
from acsearch.runners.recorded import RecordedRunner
from acsearch.study.events import Event
from acsearch.study.stored import StoredStudy
from acsearch.study.study import Study
from acsearch.study.trials import Trials
from support.homes import TempHome

TABLE = load_table("law_v1")
POOL = len(TABLE.representations)
ROW = IntDistribution(0, POOL - 1)


class Counting(RecordedRunner):
    """Looked up, and counted: the candidate of each trial that was finetuned."""

    def __init__(self) -> None:
        super().__init__(TABLE)
        object.__setattr__(self, "asked", [])

    def finetune(self, candidate: int, trial: int, run: str | None, progress: Progress) -> Observation:
        self.asked.append((trial, candidate))  # type: ignore[attr-defined]
        return super().finetune(candidate, trial, run, progress)


@pytest.fixture
def home(tmp_path: Path) -> TempHome:
    return TempHome(tmp_path)


@pytest.fixture
def study(home: TempHome) -> StoredStudy:
    return home.start(policy="random")


def run(study: StoredStudy) -> list[tuple[int, int]]:
    """Spend what is left of the budget. Returns the trials that were finetuned, with their candidates."""
    runner, events = Counting(), list[Event]()
    Study(study, runner, events.append).run()
    return list(runner.asked)  # type: ignore[attr-defined]


def finished(number: int = 0, **changes: object) -> FrozenTrial:
    """A trial of somebody else."""
    return create_trial(params={"candidate": number}, distributions={"candidate": ROW}, value=0.5, **changes)


def states(study: StoredStudy) -> Counter[str]:
    return Counter(record.state for record in study.snapshot().finetunes)


def test_candidates_that_wait_are_run_first_and_in_order(study: StoredStudy) -> None:
    for row in (7, 3):
        study.optuna_study.enqueue_trial({"candidate": row})
    study.optuna_study.enqueue_trial({})  # the policy chooses
    study.optuna_study.enqueue_trial({"learning_rate": 0.1})
    asked = run(study)
    assert asked[:2] == [(0, 7), (1, 3)]
    assert [trial for trial, _ in asked] == [0, 1, 2, 3]
    assert states(study) == {"complete": 4}


def test_what_waits_beyond_the_budget_goes_on_with_a_larger_one(study: StoredStudy) -> None:
    for row in range(6):
        study.optuna_study.enqueue_trial({"candidate": row})
    assert run(study) == [(0, 0), (1, 1), (2, 2), (3, 3)]
    assert states(study) == {"complete": 4, "waiting": 2}
    study.raise_budget(5)
    assert run(study) == [(4, 4)]


def test_a_candidate_is_not_finetuned_again(study: StoredStudy, caplog: pytest.LogCaptureFixture) -> None:
    first = run(study)
    study.raise_budget(6)
    study.optuna_study.enqueue_trial({"candidate": first[2][1]})
    second = run(study)
    assert len({row for _, row in first + second}) == 6
    assert states(study) == {"complete": 6}
    (said,) = [record.getMessage() for record in caplog.records if record.name == "acsearch"]
    assert said == f"study 's': trial 4 is of candidate {first[2][1]}, which trial 2 has: it is not run"


@pytest.mark.parametrize("row", [99, -1, POOL, "clip", 2.5, None, [1], {"a": 1}, True, "\x1b[2J"])
def test_a_candidate_that_there_is_not_costs_nothing(
    study: StoredStudy, caplog: pytest.LogCaptureFixture, row: object
) -> None:
    study.optuna_study.enqueue_trial({"candidate": row})
    assert len(run(study)) == 4
    assert states(study) == {"complete": 4}
    (said,) = [record.getMessage() for record in caplog.records if record.name == "acsearch"]
    assert said.isprintable()
    assert said.startswith(f"study 's': trial 0 asks for candidate {row!r:.50} of 0 to {POOL - 1}")


def test_a_candidate_of_another_pool_costs_nothing(study: StoredStudy) -> None:
    trial = study.optuna_study.ask({"candidate": IntDistribution(0, 99)})
    assert len(run(study)) == 4
    assert study.optuna_study.trials[trial.number].state == TrialState.FAIL
    assert states(study) == {"complete": 4}


@pytest.mark.parametrize("distribution", [FloatDistribution(0, 12), CategoricalDistribution([3, 5])], ids=str)
@pytest.mark.parametrize("state", [TrialState.RUNNING, TrialState.FAIL])
def test_candidates_of_another_kind_are_refused(
    study: StoredStudy, distribution: BaseDistribution, state: TrialState
) -> None:
    """Optuna takes no integers beside them any more."""
    trial = study.optuna_study.ask({"candidate": distribution})
    if state == TrialState.FAIL:
        study.optuna_study.tell(trial, state=state)
    with pytest.raises(StudyError, match="not as acsearch left it: trial 0 has candidates of another kind"):
        run(study)


def test_a_running_trial_with_a_candidate_or_without_is_taken_up(study: StoredStudy) -> None:
    study.optuna_study.sampler = optuna.samplers.RandomSampler(seed=0)
    chosen = study.optuna_study.ask({"candidate": ROW})
    study.optuna_study.ask()
    study.optuna_study.ask({"width": FloatDistribution(0, 1)})
    asked = run(study)
    assert asked[0] == (0, chosen.params["candidate"])
    assert [trial for trial, _ in asked] == [0, 1, 2, 3]


def test_of_two_trials_of_a_candidate_the_begun_one_has_it(study: StoredStudy) -> None:
    """A lower number gets the candidate of one that was begun, as where somebody asks without the lock."""
    inner = study.optuna_study
    waiting = inner.ask()
    ours = Trials(study, lambda event: None)
    begun = inner._storage.create_new_trial(inner._study_id)
    inner._storage.set_trial_param(begun, "candidate", 5, ROW)
    inner.set_user_attr("attempts-trial-1", [{"who": "here", "began": "2026-01-01T12:00:00+00:00"}])
    inner._storage.set_trial_param(waiting._trial_id, "candidate", 5, ROW)
    claimed = ours.claim_next()
    assert claimed is not None
    with claimed:
        assert (claimed.trial, claimed.candidate) == (1, 5)
    assert inner.trials[0].state == TrialState.FAIL


def test_what_failed_before_it_began_costs_nothing(study: StoredStudy) -> None:
    for _ in range(5):
        study.optuna_study.tell(study.optuna_study.ask(), state=TrialState.FAIL)
    assert len(run(study)) == 4


OTHERS: dict[str, Callable[[optuna.Study], object]] = {
    "complete": lambda study: study.add_trial(finished(3)),
    "complete without a candidate": lambda study: study.add_trial(create_trial(value=1.0)),
    "told": lambda study: study.tell(study.ask({"candidate": ROW}), 0.7),
    "pruned": lambda study: study.tell(study.ask({"candidate": ROW}), state=TrialState.PRUNED),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_results_of_others_are_refused_with_their_numbers(home: TempHome, study: StoredStudy, kind: str) -> None:
    study.optuna_study.enqueue_trial({"candidate": 2})
    study.optuna_study.enqueue_trial({"candidate": 99})
    OTHERS[kind](home.study().optuna_study)
    OTHERS[kind](home.study().optuna_study)
    with closing(sqlite3.connect(home.folder / "studies.db")) as connection:
        before = list(connection.iterdump())
        with pytest.raises(StudyError, match=r"not as acsearch left it: trial \d was told by something else") as error:
            run(home.study())
        assert list(connection.iterdump()) == before
    assert "\n" not in error.value.line
    assert "another --name" in error.value.line


def test_the_same_result_twice_is_refused(study: StoredStudy) -> None:
    asked = run(study)
    study.optuna_study.add_trial(study.optuna_study.trials[1])
    study.raise_budget(6)
    with pytest.raises(StudyError, match=rf"trial 4 is of candidate {asked[1][1]}, which trial 1 has; nothing was"):
        run(study)


@pytest.mark.parametrize("number", [1, 3])
def test_deleted_trials_are_not_run_again(home: TempHome, study: StoredStudy, number: int) -> None:
    run(study)
    with closing(sqlite3.connect(home.folder / "studies.db")) as connection, connection:
        connection.execute("delete from trials where number = ?", (number,))
    with pytest.raises(StudyError, match="trials were deleted"):
        run(home.study())


@pytest.mark.parametrize("state", [TrialState.COMPLETE, TrialState.FAIL])
def test_a_trial_that_somebody_tells_meanwhile_is_not_run_again(
    home: TempHome, study: StoredStudy, state: TrialState
) -> None:
    class Interrupted(Counting):
        def finetune(self, candidate: int, trial: int, run: str | None, progress: Progress) -> Observation:
            home.study().optuna_study.tell(trial, 0.5 if state == TrialState.COMPLETE else None, state)
            return super().finetune(candidate, trial, run, progress)

    with pytest.raises(StudyError, match="somebody told trial 0 while it was finetuned"):
        Study(study, Interrupted(), lambda event: None).run()
    if state == TrialState.COMPLETE:
        with pytest.raises(StudyError, match="trial 0 was told by something else"):
            run(home.study())
    else:
        assert [trial for trial, _ in run(home.study())] == [1, 2, 3]


def test_jobs_get_what_waits_and_what_was_left_half_proposed(study: StoredStudy) -> None:
    """The controller of jobs hands over what has a candidate and a name, and proposes the rest."""
    study.optuna_study.enqueue_trial({"candidate": 4})
    orphan = study.optuna_study._storage.create_new_trial(study.optuna_study._study_id)
    study.optuna_study._storage.set_trial_param(orphan, "candidate", 6, ROW)
    trials = Trials(study, lambda event: None)
    proposals = [trials.propose() for _ in range(4)]
    assert [(one.trial, one.candidate) for one in proposals if one][:2] == [(1, 6), (0, 4)]
    assert trials.propose() is None
    left = _Controller(study, None, 1, lambda event: None)._unfinished()  # type: ignore[arg-type]
    assert [work.number for work in left] == [0, 1, 2, 3]


def test_a_job_runs_only_what_can_be_run(study: StoredStudy) -> None:
    trial = study.optuna_study.ask({"candidate": IntDistribution(0, 99)})
    trial.set_user_attr("representation", "x")
    trials = Trials(study, lambda event: None)
    with pytest.raises(StudyError, match="has no trial 0"):
        trials.claim(0)
    for number in (1, 2):
        twin = study.optuna_study._storage.create_new_trial(study.optuna_study._study_id)
        study.optuna_study._storage.set_trial_param(twin, "candidate", 6, ROW)
        if number == 2:
            with pytest.raises(StudyError, match="trial 2 is of candidate 6, which trial 1 has"):
                trials.claim(2)
