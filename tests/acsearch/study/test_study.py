"""Studies: the walk, the budget, and what happens when a controller is killed or has company."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest
from typer.testing import CliRunner

from acsearch.cli.main import app
from acsearch.config.study_file import Source, load_study, update
from acsearch.config.table_file import load_table, shipped
from acsearch.errors import StudyError
from acsearch.runners.recorded import RecordedRunner
from acsearch.storage.creation import create_study
from acsearch.storage.home import Home
from acsearch.study.events import Event, Finetuned, Finetuning, Proposed, Resumed, Waiting
from acsearch.study.snapshot import Snapshot
from acsearch.study.start import start_study
from acsearch.study.stored import StoredStudy
from acsearch.study.study import Study
from acsearch.study.trials import Trials
from support import ROOT
from support.homes import TempHome
from trainers.errors import ConfigError

LOOKED_UP = RecordedRunner(load_table("law_v1"))
CONTROLLER = ROOT / "tests/support/slow_controller.py"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("ACSEARCH_HOME", str(tmp_path / "runs"))
    return Home()


def start(home: Home, name: str = "s", budget: int = 4, **changes: object) -> StoredStudy:
    config = load_study("law_v1")
    config = replace(config, file=update(config.file, **changes))
    return start_study(home.open_storage(create=True), home.claims(name), name=name, config=config, budget=budget)


def reopen(home: Home, name: str = "s") -> StoredStudy:
    return StoredStudy.open(home.open_storage(create=False), home.claims(name), name)


def ignore(event: Event) -> None:
    pass


def proposals(snapshot: Snapshot) -> list[str]:
    return [record.representation for record in sorted(snapshot.finetunes, key=lambda record: record.trial)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    home = Home(storage=f"sqlite:///{tmp_path_factory.mktemp('undisturbed') / 'studies.db'}")
    study = start(home, budget=6)
    Study(study, LOOKED_UP, ignore).run()
    return study.snapshot()


def test_the_walk(home: Home) -> None:
    study, events = start(home), []
    Study(study, LOOKED_UP, events.append).run()
    assert [(type(event), event.trial) for event in events] == [
        (kind, trial) for trial in range(4) for kind in (Proposed, Finetuning, Finetuned)
    ]
    snapshot = study.snapshot()
    assert len(set(proposals(snapshot))) == 4
    table = snapshot.table
    for record in snapshot.finished:
        assert record.candidate is not None
        assert list(record.points.values()) == table.scores[record.candidate].tolist()
        assert record.objective == pytest.approx(table.scaled[record.candidate].mean())
    assert [step.number for step in snapshot.steps] == [0, 1, 2, 3, 4]
    regret = [step.recommendation.expected_regret for step in snapshot.steps[1:]]
    assert regret[-1] < regret[0]


def test_a_study_for_one_benchmark(home: Home) -> None:
    study = start(home, objective="textvqa_val")
    Study(study, LOOKED_UP, ignore).run()
    snapshot = study.snapshot()
    assert snapshot.best is not None
    points = snapshot.best.points["textvqa_val"]
    assert snapshot.displayed_objective(snapshot.best) == pytest.approx(points)
    assert points == max(record.points["textvqa_val"] for record in snapshot.finished)


def test_a_larger_budget_goes_on_where_it_stopped(home: Home, undisturbed: Snapshot) -> None:
    study = start(home, budget=3)
    Study(study, LOOKED_UP, ignore).run()
    assert proposals(study.snapshot()) == proposals(undisturbed)[:3]
    again = reopen(home)
    Study(again, LOOKED_UP, ignore).run()  # nothing left to do
    assert len(again.snapshot().finetunes) == 3
    with pytest.raises(ConfigError, match="choose 3 to 13"):
        again.raise_budget(2)
    again.raise_budget(6)
    Study(again, LOOKED_UP, ignore).run()
    assert proposals(again.snapshot()) == proposals(undisturbed)


def test_names_are_taken_once(home: Home) -> None:
    start(home)
    with pytest.raises(StudyError, match=r"exists, 0 of 4 finetunes done.*study resume s"):
        start(home)
    with pytest.raises(StudyError, match="no study 't': there are s"):
        reopen(home, "t")


FOREIGN = {
    "empty": lambda study: None,
    "one that minimises": lambda study: None,
    "one with attributes": lambda study: study.set_user_attr("budget", 7),
    "one with trials": lambda study: study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2),
}


@pytest.mark.parametrize("resume", [True, False])
@pytest.mark.parametrize("kind", FOREIGN)
def test_a_study_of_somebody_else_is_not_taken_over(tmp_path: Path, kind: str, resume: bool) -> None:
    home = TempHome(tmp_path)
    direction = "minimize" if kind == "one that minimises" else "maximize"
    FOREIGN[kind](optuna.create_study(study_name="s", storage=home.open_storage(create=True), direction=direction))
    before = home.content()
    places = ["--storage", home.storage_url, "--tracking", home.tracking_uri, *(["--resume"] if resume else [])]
    done = CliRunner().invoke(app, ["study", "start", "law_v1", "--name", "s", *places])
    assert isinstance(done.exception, StudyError)
    assert re.match(r"study 's' is in the storage and acsearch did not start it.* another --name", str(done.exception))
    with pytest.raises(StudyError, match="acsearch did not start it"):
        home.start()
    assert home.content() == before


def test_a_study_is_created_as_optuna_creates_it(tmp_path: Path) -> None:
    """In one transaction, which Optuna does not offer."""
    attributes = {"budget": 4, "acsearch": {"ü": [1, None]}}
    for folder in ("ours", "theirs"):
        (tmp_path / folder).mkdir()
    ours, theirs = TempHome(tmp_path / "ours"), TempHome(tmp_path / "theirs")
    assert create_study(ours.open_storage(create=True), "s", attributes)
    study = optuna.create_study(study_name="s", storage=theirs.open_storage(create=True), direction="maximize")
    for key, value in attributes.items():
        study.set_user_attr(key, value)
    assert ours.content()[0] == theirs.content()[0]


def test_a_name_is_taken_by_whoever_comes_first(tmp_path: Path) -> None:
    storage = TempHome(tmp_path).open_storage(create=True)
    assert create_study(storage, "s", {"budget": 4, "started": "now"})
    assert create_study(storage, "s", {"budget": 4, "started": "now"})  # whose answer was lost
    assert not create_study(storage, "s", {"budget": 4, "started": "later"})
    assert optuna.load_study(study_name="s", storage=storage).user_attrs == {"budget": 4, "started": "now"}


def test_a_changed_table_is_refused(home: Home, tmp_path: Path) -> None:
    copy = tmp_path / "table.csv"
    original = shipped("table.csv")["law_v1"]
    copy.write_text(original.read_text())
    copy.with_suffix(".yaml").write_text(original.with_suffix(".yaml").read_text())
    config = replace(load_study("law_v1"), source=Source(table=str(copy)))
    study = start_study(home.open_storage(create=True), home.claims("s"), name="s", config=config, budget=2)
    Study(study, LOOKED_UP, ignore).run()
    copy.write_text(copy.read_text().replace("15.66", "15.67"))
    with pytest.raises(StudyError, match="has changed since the study was started"):
        reopen(home).snapshot()


@pytest.mark.parametrize("crash_after", ["ask", "propose", "finetune"])
def test_a_trial_left_behind_is_taken_up(home: Home, undisturbed: Snapshot, crash_after: str) -> None:
    """What the storage holds when a controller died right after each of its steps."""
    study = start(home)
    inner = study.optuna_study
    inner.sampler = Trials(study, print)._sampler
    trial = inner.ask()
    if crash_after != "ask":
        row = trial.suggest_int("candidate", 0, 12)
        if crash_after == "finetune":
            trial.set_user_attr("points", dict(zip(study.table.benchmarks, study.table.scores[row], strict=True)))
    assert [record.state for record in study.snapshot().finetunes] == ["interrupted"]
    events: list[Event] = []
    again = reopen(home)
    Study(again, LOOKED_UP, events.append).run()
    assert isinstance(events[0], Resumed)
    assert events[0].trial == 0
    assert proposals(again.snapshot()) == proposals(undisturbed)[:4]
    assert len(inner.trials) == 4


def test_a_trial_beyond_the_budget_is_never_started(home: Home) -> None:
    """Somebody asked without the lock, as another version or a script might."""
    study = start(home, budget=2)
    inner = study.optuna_study
    inner.sampler = Trials(study, print)._sampler
    for _ in range(4):
        inner.ask()
    Study(study, LOOKED_UP, ignore).run()
    snapshot = study.snapshot()
    assert [record.trial for record in snapshot.finished] == [0, 1]


def spawn(home: Path, budget: int, seconds: float, log: Path) -> subprocess.Popen[bytes]:
    environment = os.environ | {"ACSEARCH_HOME": str(home)}
    command = [sys.executable, str(CONTROLLER), "s", str(budget), str(seconds), str(log)]
    return subprocess.Popen(command, env=environment)


def lines(log: Path, what: str) -> list[tuple[int, int]]:
    if not log.exists():
        return []
    words = [line.split() for line in log.read_text().splitlines()]
    return [(int(trial), int(candidate)) for kind, trial, candidate, _ in words if kind == what]


@pytest.mark.slow
def test_killed_at_any_moment_and_resumed(tmp_path: Path, undisturbed: Snapshot) -> None:
    """kill -9 at random moments until the study is done: the same proposals, the budget exact."""
    moments = random.Random(0)
    folder, log = tmp_path / "runs", tmp_path / "log"
    kills = 0
    for _ in range(40):
        process = spawn(folder, 4, 0.15, log)
        begun = len(lines(log, "begin"))
        deadline = time.monotonic() + 30
        while len(lines(log, "begin")) == begun and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.3))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        if process.wait() == 0:
            break
    assert process.returncode == 0
    assert kills >= 2
    begun_trials = lines(log, "begin")
    rows = dict(begun_trials)
    assert set(begun_trials) == set(rows.items())  # a trial never changed its candidate
    names = [undisturbed.table.representations[rows[trial]] for trial in sorted(rows)]
    assert names == proposals(undisturbed)[:4]
    home = Home(storage=f"sqlite:///{folder / 'studies.db'}")
    snapshot = reopen(home).snapshot()
    assert [record.state for record in snapshot.finetunes] == ["complete"] * 4
    np.testing.assert_array_equal(snapshot.steps[-1].recommendation.p_best, undisturbed.steps[4].recommendation.p_best)


@pytest.mark.slow
def test_controllers_in_a_race_keep_the_budget(tmp_path: Path) -> None:
    """Three at once, twice: every finetune is run by one of them, once, and never one too many."""
    for round_ in range(2):
        folder, log = tmp_path / f"runs-{round_}", tmp_path / f"log-{round_}"
        processes = [spawn(folder, 5, 0.1, log) for _ in range(3)]
        assert [process.wait(timeout=120) for process in processes] == [0, 0, 0]
        assert sorted(trial for trial, _ in lines(log, "begin")) == [0, 1, 2, 3, 4]
        assert len({candidate for _, candidate in lines(log, "end")}) == 5


@pytest.mark.slow
def test_a_living_controller_keeps_its_trial(tmp_path: Path) -> None:
    """A second controller does not take over what the first is still working on; it waits until that is finished."""
    folder, log = tmp_path / "runs", tmp_path / "log"
    first = spawn(folder, 1, 6, log)
    try:
        deadline = time.monotonic() + 30
        while not lines(log, "begin") and time.monotonic() < deadline:
            time.sleep(0.05)
        home = Home(storage=f"sqlite:///{folder / 'studies.db'}")
        events: list[Event] = []
        study = reopen(home)
        Study(study, LOOKED_UP, events.append).run()
        assert [(type(event), event.trial) for event in events] == [(Waiting, 0), (Finetuned, 0)]
        assert [record.state for record in study.snapshot().finetunes] == ["complete"]
    finally:
        first.kill()
        first.wait()
