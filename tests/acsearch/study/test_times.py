"""Moments: kept in UTC, understood on machines of other time zones, and shown in the local time of each."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from acsearch.bundles.transfer import export_study, import_study
from acsearch.executors.controller import _Controller
from acsearch.runners.recorded import RecordedRunner
from acsearch.study import attempts as module
from acsearch.study.attempts import MOST, PAUSE, Attempt, Submission, not_before
from acsearch.study.schema import TrialContent
from acsearch.study.stored import StoredStudy
from acsearch.study.study import Study
from acsearch.study.times import now, parse
from support.homes import TempHome

Zone = Callable[[str], None]


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Zone]:
    """Moves this machine to another time zone."""

    def move(name: str) -> None:  # as POSIX writes it, which needs no list of zones
        monkeypatch.setenv("TZ", name)
        time.tzset()

    yield move
    monkeypatch.undo()
    time.tzset()


class Cluster:
    """A scheduler that has lost every job."""

    cluster = "tokyo"

    def alive(self, submission: Submission) -> bool:
        return False


def dispatcher(study: StoredStudy) -> _Controller:
    return _Controller(study, Cluster(), 1, lambda event: None)  # type: ignore[arg-type]


@pytest.mark.parametrize("crashes", [1, MOST])
def test_a_dispatcher_in_utc_takes_over_what_crashed_in_japan(
    tmp_path: Path, zone: Zone, monkeypatch: pytest.MonkeyPatch, crashes: int
) -> None:
    """It neither waits for nine hours nor counts what crashed before it was started."""
    monkeypatch.setattr(module, "PAUSE", timedelta(0))
    study = TempHome(tmp_path).start()
    zone("JST-9")
    study.note_attempts("trial-0", [Attempt.begin().end("crashed", "a node")] * crashes)
    study.note_submission("trial-0", Submission("tokyo", "17", "log", study.attempts("trial-0")[0].began))
    zone("UTC0")
    before = now().replace(microsecond=0)
    while now() < before + timedelta(seconds=1):  # attempts are kept to the second
        time.sleep(0.01)
    assert dispatcher(study)._is_ready("trial-0")


def test_a_pause_is_the_same_everywhere(zone: Zone) -> None:
    zone("JST-9")
    crashed = Attempt.begin().end("crashed", "a node")
    asked = now() - timedelta(minutes=1)
    there = not_before([crashed], asked)
    zone("BRT3")
    assert not_before([crashed], asked) == there
    assert there is not None
    assert crashed.ended is not None
    assert there == datetime.fromisoformat(crashed.ended) + PAUSE


def test_times_of_earlier_versions_are_local_times(zone: Zone) -> None:
    zone("JST-9")
    old = Attempt("here", "2026-01-01T21:00:00", "2026-01-01T21:00:10", "crashed", "a node")
    since = datetime(2026, 1, 1, 12, tzinfo=UTC)
    assert not_before([old], since) == since + timedelta(seconds=40)
    assert not_before([old], since + timedelta(seconds=1)) == since + timedelta(seconds=1)


def test_all_that_is_kept_has_a_time_zone(tmp_path: Path, zone: Zone) -> None:
    zone("JST-9")
    home = TempHome(tmp_path)
    study = home.start(budget=2, policy="random")
    Study(study, RecordedRunner(study.table), lambda event: None).run()
    with closing(sqlite3.connect(tmp_path / "studies.db")) as connection:
        about = json.loads(
            connection.execute("select value_json from study_user_attributes where key = 'acsearch'").fetchone()[0]
        )
    kept = [about["started"], *(one.began for one in study.attempts("trial-0"))]
    kept += [one.ended or "" for one in study.attempts("trial-0")]
    assert len(kept) == 3
    assert {parse(text).utcoffset() for text in kept} == {timedelta(hours=9)}
    assert {datetime.fromisoformat(text).utcoffset() for text in kept} == {timedelta(0)}
    here = home.study().snapshot()
    zone("UTC0")
    there = home.study().snapshot()
    assert here.started == there.started
    assert here.started_text == there.started_text
    for mine, theirs in zip(here.finetunes, there.finetunes, strict=True):
        assert (mine.started, mine.finished) == (theirs.started, theirs.finished)
        assert mine.finished is not None
        assert here.started - timedelta(seconds=1) <= mine.started <= mine.finished <= now()
        assert (mine.finished.utcoffset(), theirs.started.utcoffset()) == (timedelta(hours=9), timedelta(0))


def test_a_study_that_an_earlier_version_started(tmp_path: Path, zone: Zone) -> None:
    zone("JST-9")
    home = TempHome(tmp_path)
    study = home.start()
    about = study.optuna_study.user_attrs["acsearch"] | {"started": "2026-01-01T20:00:00.123456"}
    study.optuna_study.set_user_attr("acsearch", about)
    snapshot = home.study().snapshot()
    assert snapshot.started == datetime(2026, 1, 1, 11, 0, 0, 123456, tzinfo=UTC)
    assert snapshot.started_text == "2026-01-01T20:00:00.123456"  # by which its MLflow runs are found


@pytest.mark.parametrize("earlier", [True, False])
def test_times_of_a_bundle(tmp_path: Path, zone: Zone, earlier: bool) -> None:
    zone("JST-9")
    here, there = TempHome(tmp_path / "here"), TempHome(tmp_path / "there")
    study = here.start(budget=2, policy="random")
    Study(study, RecordedRunner(study.table), lambda event: None).run()
    if not earlier:
        export_study(here, "s", tmp_path / "bundle")
        zone("BRT3")
        import_study(there, tmp_path / "bundle")
        records = zip(here.study().snapshot().finetunes, there.study().snapshot().finetunes, strict=True)
        assert all((one.started, one.finished) == (other.started, other.finished) for one, other in records)
        return
    trial = {"number": 0, "state": "RUNNING", "value": None, "candidate": None, "pool": None, "attributes": {}}
    read = TrialContent.model_validate_json(json.dumps(trial | {"started": "2026-01-01T21:00:00", "finished": None}))
    assert read.started == datetime(2026, 1, 1, 12, tzinfo=UTC)


def test_people_are_shown_local_times(tmp_path: Path) -> None:
    """The study was started in Japan, and somebody looks at it there and elsewhere."""
    home = TempHome(tmp_path)
    study = home.start(budget=1)
    study.optuna_study.ask()
    crashed = Attempt("a node", "2026-01-01T12:00:00+00:00", "2026-01-01T12:00:10+00:00", "crashed", "gone")
    study.optuna_study.set_user_attr("attempts-trial-0", [asdict(crashed)])
    for name, shown in {"JST-9": "2026-01-01T21:00:10", "UTC0": "2026-01-01T12:00:10"}.items():
        command = [sys.executable, "-m", "acsearch", "study", "status", "s", "--storage", home.storage_url]
        done = subprocess.run(command, env=os.environ | {"TZ": name}, capture_output=True, text=True)
        assert f"crashed on a node, {shown}\n" in done.stdout, done.stderr
