"""Studies that others touch by Optuna's own means between our finetunes: never one too many, and none twice."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import strategies as st
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import OptunaError
from optuna.trial import TrialState, create_trial
from sqlalchemy.exc import SQLAlchemyError

from acsearch.config.table_file import load_table
from acsearch.errors import StudyError
from acsearch.runners.base import Observation, Progress
from acsearch.runners.recorded import RecordedRunner
from acsearch.study import study as studies
from acsearch.study.stored import StoredStudy
from acsearch.study.study import Study
from support.fuzzing import Draw, assert_helpful, cases
from support.homes import TempHome

TABLE = load_table("law_v1")
POOL = len(TABLE.representations)
BUDGET = 3
ROW = IntDistribution(0, POOL - 1)

# mostly what there is, so that studies go on
CANDIDATES = st.integers(0, POOL - 1) | st.sampled_from([0, 0, 1, 1, 99, -1, POOL, 2.0, "clip", None, True, [1]])
DISTRIBUTIONS: st.SearchStrategy[BaseDistribution] = st.sampled_from(
    [ROW, ROW, ROW, ROW, ROW, IntDistribution(0, 99), FloatDistribution(0, 9), CategoricalDistribution([1, 2])]
)
ATTRIBUTES = st.sampled_from(
    [("representation", "x"), ("surplus", True), ("points", {}), ("scores", {"x": 1}), ("seconds", 1.0), ("mine", [1])]
)


class Interrupted(Exception):
    """The controller is killed."""


class Touched(RecordedRunner):
    """Looked up, and counted; others may do something in the middle of a finetune, and the controller may die."""

    def __init__(self, meanwhile: Callable[[], None]) -> None:
        super().__init__(TABLE)
        object.__setattr__(self, "asked", [])
        object.__setattr__(self, "meanwhile", meanwhile)

    def finetune(self, candidate: int, trial: int, run: str | None, progress: Progress) -> Observation:
        self.asked.append((trial, candidate))  # type: ignore[attr-defined]
        self.meanwhile()  # type: ignore[attr-defined]
        return super().finetune(candidate, trial, run, progress)


def enqueue(study: optuna.Study, draw: Draw) -> None:
    params = draw(st.sampled_from([{}, {"learning_rate": 0.1}])) | draw(
        st.just({}) | st.builds(dict, candidate=CANDIDATES)
    )
    attributes = dict([draw(ATTRIBUTES)]) if draw(st.booleans()) else None
    study.enqueue_trial(params, user_attrs=attributes)


def ask(study: optuna.Study, draw: Draw) -> None:
    study.ask(draw(st.sampled_from([{}, {"width": FloatDistribution(0, 1)}])))


def ask_for_a_candidate(study: optuna.Study, draw: Draw) -> None:
    study.ask({"candidate": draw(DISTRIBUTIONS)})


def tell(study: optuna.Study, draw: Draw) -> None:
    """Ends a trial that runs, ours or another's. Results are rare, because they end the study."""
    numbers = [trial.number for trial in study.trials if trial.state == TrialState.RUNNING]
    if numbers:
        state = draw(st.sampled_from([TrialState.FAIL] * 6 + [TrialState.PRUNED, TrialState.COMPLETE]))
        study.tell(draw(st.sampled_from(numbers)), 0.5 if state == TrialState.COMPLETE else None, state)


def add(study: optuna.Study, draw: Draw) -> None:
    state = draw(st.sampled_from([TrialState.RUNNING, TrialState.WAITING, TrialState.FAIL] * 3 + [TrialState.COMPLETE]))
    row = draw(st.integers(0, POOL - 1))
    study.add_trial(
        create_trial(
            state=state,
            value=1.0 if state == TrialState.COMPLETE else None,
            params={"candidate": row},
            distributions={"candidate": ROW},
            user_attrs=dict([draw(ATTRIBUTES)]),
        )
    )


def copy(study: optuna.Study, draw: Draw) -> None:
    if study.trials:
        study.add_trial(draw(st.sampled_from(study.trials)))


def set_attribute(study: optuna.Study, draw: Draw) -> None:
    trials = [trial for trial in study.trials if not trial.state.is_finished()]
    if trials:
        study._storage.set_trial_user_attr(draw(st.sampled_from(trials))._trial_id, *draw(ATTRIBUTES))


def set_candidate(study: optuna.Study, draw: Draw) -> None:
    trials = [trial for trial in study.trials if trial.state == TrialState.RUNNING and not trial.params]
    if trials:
        row = draw(st.integers(0, POOL - 1))
        study._storage.set_trial_param(draw(st.sampled_from(trials))._trial_id, "candidate", row, ROW)


def delete(study: optuna.Study, draw: Draw) -> None:
    if study.trials and draw(st.integers(0, 3)) == 0:
        storage: Any = study._storage
        with contextlib.closing(sqlite3.connect(storage._backend.engine.url.database)) as connection, connection:
            number = draw(st.sampled_from(study.trials)).number
            connection.execute("delete from trials where number = ?", (number,))


OPERATIONS = [enqueue, enqueue, ask, ask_for_a_candidate, tell, add, copy, set_attribute, set_candidate, delete]


def touch(study: optuna.Study, draw: Draw) -> None:
    """Something that Optuna, or SQLite, lets others do."""
    operation = draw(st.sampled_from(OPERATIONS))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna's, of candidates that there are not
        # Optuna refuses it, or stumbles over what was deleted
        with contextlib.suppress(ValueError, TypeError, RuntimeError, KeyError, SQLAlchemyError, OptunaError):
            operation(study, draw)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage with a study that has just been started."""
    home = TempHome(tmp_path_factory.mktemp("fresh"))
    study = home.start(budget=BUDGET, policy="random")
    storage: Any = study.optuna_study._storage
    storage._backend.engine.dispose()
    return home.folder / "studies.db"


@pytest.fixture
def unwatched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody watches, so that the law need not be fitted for them."""
    monkeypatch.setattr(studies.ProgressPoller, "poll", lambda self: None)


@cases(300, st.data())
def test_others_touch_a_study(fresh: Path, tmp_path: Path, unwatched: None, damaged: st.DataObject) -> None:
    """It ends with its budget spent, or is refused in one line."""
    draw, home = damaged.draw, TempHome(tmp_path)
    shutil.copy(fresh, tmp_path / "studies.db")
    ours = home.open_storage(create=False)
    theirs = optuna.storages.RDBStorage(home.storage_url)
    sampler = optuna.samplers.RandomSampler(seed=draw(st.integers(0, 9)))
    others = optuna.load_study(study_name="s", storage=theirs, sampler=sampler)
    asked: list[tuple[int, int]] = []

    def meanwhile() -> None:
        happens = draw(st.integers(0, 5))
        if happens == 0:
            raise Interrupted
        if happens == 1:
            touch(others, draw)

    try:
        for _ in range(draw(st.integers(1, 3))):
            for _ in range(draw(st.integers(0, 4))):
                touch(others, draw)
            runner = Touched(meanwhile)
            try:
                study = StoredStudy.open(ours, home.claims("s"), "s")
                Study(study, runner, lambda event: None).run()
            except Interrupted:
                pass
            except StudyError as error:
                assert_helpful(error.line, ["study 's'"])
            else:
                assert sum(trial.state.is_finished() for trial in study.trials()) >= BUDGET  # or it ended too early
            asked += runner.asked  # type: ignore[attr-defined]
    finally:
        for storage in (ours, theirs):
            storage.remove_session()
            storage.engine.dispose()
    assert len({trial for trial, _ in asked}) <= BUDGET
    assert len({row for _, row in asked}) == len(set(asked)) == len({trial for trial, _ in asked})
