"""What fails, how it is told apart, and what is tried again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from acsearch.config.study_file import load_study
from acsearch.errors import LeaseLostError
from acsearch.executors.local import assign_devices
from acsearch.runners.base import Observation, Progress
from acsearch.runners.recorded import RecordedRunner
from acsearch.storage.home import Home
from acsearch.study import attempts
from acsearch.study.attempts import MOST, PAUSE, Attempt, not_before, outcome_of
from acsearch.study.events import Event, Failed, Finetuned, Finetuning, Proposed, Resumed
from acsearch.study.start import start_study
from acsearch.study.stored import StoredStudy
from acsearch.study.study import Study
from trainers.errors import CandidateError, CrashedError, DataError, PreemptedError, TrainingError

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def tried(*outcomes: str | None) -> list[Attempt]:
    """One attempt a minute, each of half a minute."""
    made = []
    for place, outcome in enumerate(outcomes):
        began = NOW + timedelta(minutes=place)
        ended = None if outcome is None else (began + timedelta(seconds=30)).isoformat()
        made.append(Attempt("here", began.isoformat(), ended, outcome, outcome))
    return made


def test_when_to_try_again() -> None:
    assert not_before([], NOW) == NOW
    assert not_before(tried("preempted"), NOW) == NOW + timedelta(seconds=30)
    assert not_before(tried("crashed"), NOW) == NOW + timedelta(seconds=30) + PAUSE
    assert not_before(tried("crashed", None), NOW) == NOW + timedelta(minutes=1) + 2 * PAUSE  # killed without a word
    assert not_before(tried("crashed", "preempted", "crashed"), NOW) == NOW + timedelta(minutes=2, seconds=30) + PAUSE
    assert not_before(tried(*["crashed"] * MOST), NOW) is None
    assert not_before(tried("failed"), NOW) is None
    assert not_before(tried("refused"), NOW) is None
    later = NOW + timedelta(hours=1)
    assert not_before(tried(*["crashed"] * MOST), later) == later  # a person has asked anew


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (CandidateError("out of memory"), "failed"),
        (DataError("no image"), "refused"),
        (TrainingError("of another job"), "refused"),
        (CrashedError("a node is gone"), "crashed"),
        (OSError("disk full"), "crashed"),
        (PreemptedError("asked"), "preempted"),
        (KeyboardInterrupt(), "preempted"),
    ],
)
def test_how_it_ended(error: BaseException, outcome: str) -> None:
    assert outcome_of(error) == outcome


@dataclass(frozen=True, eq=False)
class Failing(RecordedRunner):
    """Looked up, but for what goes wrong before."""

    fail: Callable[[int], None] = lambda trial: None

    def finetune(self, candidate: int, trial: int, run: str | None, progress: Progress) -> Observation:
        self.fail(trial)
        return super().finetune(candidate, trial, run, progress)


@pytest.fixture
def study(tmp_path: Path) -> StoredStudy:
    home = Home(storage=f"sqlite:///{tmp_path / 'studies.db'}")
    storage, locks = home.open_storage(create=True), home.claims("law_v1")
    return start_study(storage, locks, name="law_v1", config=load_study("law_v1"), budget=3)


def run(study: StoredStudy, fail: Callable[[int], None]) -> list[Event]:
    events: list[Event] = []
    Study(study, Failing(load_study("law_v1").table, fail=fail), events.append).run()
    return events


def test_a_candidate_that_cannot_be_trained_is_spent_and_not_tried_again(study: StoredStudy) -> None:
    def fail(trial: int) -> None:
        if trial == 1:
            raise CandidateError("out of memory on a micro-batch")

    events = run(study, fail)
    found = study.snapshot().finetunes
    assert [one.state for one in found] == ["complete", "failed", "complete"]
    assert len({one.candidate for one in found}) == 3
    assert [(event.trial, event.reason) for event in events if isinstance(event, Failed)] == [
        (1, "CandidateError: out of memory on a micro-batch")
    ]
    assert study.snapshot().is_over
    assert run(study, fail) == []


def test_a_crash_is_tried_again_under_the_same_number(study: StoredStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "PAUSE", timedelta(seconds=0.01))
    crashes = iter([OSError("stale file handle"), CrashedError("rank 1 is gone")])

    def fail(trial: int) -> None:
        if error := next(crashes, None):
            raise error

    run(study, fail)
    assert [one.outcome for one in study.attempts("trial-0")] == ["crashed", "crashed", "done"]
    assert [one.state for one in study.snapshot().finetunes] == ["complete"] * 3


def test_it_does_not_crash_for_ever(study: StoredStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "PAUSE", timedelta(seconds=0.001))

    def fail(trial: int) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        run(study, fail)
    assert len(study.attempts("trial-0")) == MOST
    assert [one.state for one in study.snapshot().finetunes] == ["interrupted"]


def test_what_a_person_must_put_right_stops_the_study_and_costs_nothing(study: StoredStudy) -> None:
    def fail(trial: int) -> None:
        raise DataError("image 7 cannot be read")

    for _ in range(2):
        with pytest.raises(DataError, match="image 7"):
            run(study, fail)
    assert [one.outcome for one in study.attempts("trial-0")] == ["refused"] * 2
    run(study, lambda trial: None)
    assert [one.state for one in study.snapshot().finetunes] == ["complete"] * 3


def test_gpus_are_shared_out_where_there_are_enough() -> None:
    devices = ["0", "1", "2", "3", "GPU-4"]
    assert assign_devices(devices, 2, 2) == [["0", "1"], ["2", "3"]]
    assert assign_devices(devices, 5, 1) == [["0"], ["1"], ["2"], ["3"], ["GPU-4"]]
    assert assign_devices(devices, 3, 2) == [None] * 3  # they share all of them, as they would by hand
    assert assign_devices(devices, 1, 2) == [None]


def test_two_finetunes_at_a_time(tmp_path: Path) -> None:
    environment = os.environ | {"ACSEARCH_HOME": str(tmp_path)}
    for arguments in (["start", "law_v1", "--budget", "5", "--parallel", "2"], ["status", "law_v1", "--json"]):
        command = [sys.executable, "-m", "acsearch", "study", *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    status = json.loads(done.stdout)
    assert [one["state"] for one in status["finetunes"]] == ["complete"] * 5
    assert all([attempt["outcome"] for attempt in one["attempts"]] == ["done"] for one in status["finetunes"])


def test_work_that_was_taken_over_stops_at_the_next_heartbeat(
    study: StoredStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The runner reports nothing. Nobody goes on with the trial, so it is taken up again here."""
    lost = iter([LeaseLostError("trial-0 was taken over")])

    def heartbeat() -> None:
        if error := next(lost, None):
            raise error

    class Silent(RecordedRunner):
        def finetune(self, candidate: int, trial: int, run: str | None, progress: Progress) -> Observation:
            progress.heartbeat()
            return super().finetune(candidate, trial, run, progress)

    monkeypatch.setattr(study.claims, "heartbeat", heartbeat)
    events: list[Event] = []
    Study(study, Silent(load_study("law_v1").table), events.append).run()
    assert [type(event) for event in events if event.trial == 0] == [
        Proposed,
        Finetuning,
        Resumed,
        Finetuning,
        Finetuned,
    ]
    assert [one.outcome for one in study.attempts("trial-0")] == [None, "done"]
    assert [one.state for one in study.snapshot().finetunes] == ["complete"] * 3
