"""What was changed in a storage behind acsearch's back is noticed where a study is read, and one line says where."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest
from optuna.distributions import IntDistribution
from optuna.trial import FrozenTrial, TrialState
from typer.testing import CliRunner

from acsearch.cli.main import app
from acsearch.errors import StudyError
from acsearch.policies.sampler import PARAMETER
from acsearch.study.schema import StudyContent, content_of
from acsearch.study.stored import StoredStudy
from support.bundled_studies import run
from support.homes import TempHome
from trainers.errors import AcsearchError

OF_TRIAL_1 = "trial_id = (select trial_id from trials where number = 1)"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finetunes of three are done, and the third was left."""
    folder = tmp_path_factory.mktemp("finished")
    run(TempHome(folder).start(budget=4), 2, left=True)
    return folder


@pytest.fixture
def home(finished: Path, tmp_path: Path) -> TempHome:
    return TempHome(shutil.copytree(finished, tmp_path / "home"))


def execute(home: TempHome, *statements: str) -> None:
    with contextlib.closing(sqlite3.connect(home.folder / "studies.db")) as connection, connection:
        for statement in statements:
            assert connection.execute(statement).rowcount > 0, statement


def attribute(key: str, change: str) -> str:
    where = f"key = '{key}' and {OF_TRIAL_1}"
    return f"update trial_user_attributes set value_json = {change} where {where}"


CHANGES: dict[str, tuple[list[str], str]] = {
    "value": ([f"update trial_values set value = 99 where {OF_TRIAL_1}"], "trial 1: its value is 99, and 0.4.* by its"),
    "value in its last digits": (
        [f"update trial_values set value = value + 1e-6 where {OF_TRIAL_1}"],
        "trial 1: its value is",
    ),
    "points": (
        [attribute("points", "json_set(value_json, '$.mme', 1.5)")],
        "trial 1: its score on mme is .* by its points",
    ),
    "scores": ([attribute("scores", "json_set(value_json, '$.mme', 0.5)")], "trial 1: its score on mme is 0.5, and"),
    "no scores": (
        [f"delete from trial_user_attributes where key = 'scores' and {OF_TRIAL_1}"],
        "trial 1: .* without scores",
    ),
    "no errors": (
        [f"delete from trial_user_attributes where key = 'errors' and {OF_TRIAL_1}"],
        "trial 1: .* without errors",
    ),
    "no attributes": (
        [f"delete from trial_user_attributes where {OF_TRIAL_1}"],
        "trial 1: .* without checkpoint, errors",
    ),
    "no value": ([f"delete from trial_values where {OF_TRIAL_1}"], "trial 1: COMPLETE, value None"),
    "no candidate": ([f"delete from trial_params where {OF_TRIAL_1}"], "trial 1: complete, without a candidate"),
    "no row": (["delete from trials where number = 1"], "trial 1 is missing: trials are not numbered from 0 without"),
    "no first row": (["delete from trials where number = 0"], "trial 0 is missing"),
    "no last row": (["delete from trials where number = 2"], "trial 2 is missing, and was worked on"),
    "another number": (["update trials set number = 5 where number = 1"], "trial 1 is missing"),
    "a number twice": (["update trials set number = 0 where number = 1"], "trial 1 is missing"),
    "a date": (["update trials set datetime_complete = '0001-01-01' where number = 1"], "trials.1.finished: .* year 1"),
    "seconds": ([attribute("seconds", "'-1'")], "trials.1.attributes.seconds"),
    "errors": ([attribute("errors", "'{\"mme\": NaN}'")], "trials.1.attributes.errors.mme"),
    "another representation": ([attribute("representation", "'\"DINOv2\"'")], "trial 1: 'DINOv2' is not candidate"),
    "a time of an attempt": (
        [
            "update study_user_attributes set value_json = json_set(value_json, '$[0].began', 'x') "
            "where key = 'attempts-trial-1'"
        ],
        "attempts-trial-1.0.began: Invalid isoformat",
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_of_a_trial_is_noticed(home: TempHome, what: str) -> None:
    home.study().snapshot()
    statements, says = CHANGES[what]
    execute(home, *statements)
    before = home.content()
    with pytest.raises(StudyError, match=f"study 's'.*{says}") as raised:
        home.study().snapshot()
    assert len(raised.value.line.splitlines()) == 1
    for command in (["show"], ["status"], ["resume", "--tracking", home.tracking_uri]):
        done = CliRunner().invoke(app, ["study", command[0], "s", "--storage", home.storage_url, *command[1:]])
        assert isinstance(done.exception, AcsearchError)
        assert done.output == ""
    assert home.content() == before


def test_rounding_of_other_machines_is_none(home: TempHome) -> None:
    """Sums in another order differ in their last digits."""
    execute(
        home,
        f"update trial_values set value = value * (1 + 1e-14) where {OF_TRIAL_1}",
        attribute("scores", "json_set(value_json, '$.mme', json_extract(value_json, '$.mme') * (1 - 1e-14))"),
    )
    assert len(home.study().snapshot().finished) == 2


def test_what_others_noted_is_let_be(home: TempHome) -> None:
    home.study().optuna_study.set_user_attr("note", {"by": ["somebody", 1.5]})
    execute(home, "insert into trial_user_attributes (trial_id, key, value_json) values (2, 'note', 'NaN')")
    assert len(home.study().snapshot().finished) == 2


# -- logs of jobs ------------------------------------------------------------------------------------------------------


def with_log(home: TempHome, log: str) -> str:
    """What `study status` prints, where a job's log is said to be there."""
    job = {"cluster": "c", "job": "1", "log": log, "submitted": "2026-11-24T09:00:00"}
    home.study().optuna_study.set_user_attr("job-trial-2", job)
    done = CliRunner().invoke(app, ["study", "status", "s"], env={"ACSEARCH_HOME": str(home.folder)})
    assert done.exit_code == 0, done.output
    return done.output


def test_status_prints_the_end_of_a_job_s_log(home: TempHome) -> None:
    home.jobs.mkdir()
    (home.jobs / "1_0_log.err").write_text("".join(f"line {number} of the log\n" for number in range(9)))
    output = with_log(home, str(home.jobs / "1_0_log.err"))
    assert [line.strip() for line in output.splitlines() if "of the log" in line] == [
        f"line {number} of the log" for number in range(4, 9)
    ]


def elsewhere(home: TempHome) -> str:
    return str(home.folder.parent / "secret")


def above(home: TempHome) -> str:
    return f"{home.jobs}/../../secret"


def linked(home: TempHome) -> str:
    (home.jobs / "link").symlink_to(home.folder.parent / "secret")
    return str(home.jobs / "link")


def nowhere(home: TempHome) -> str:
    return "\0"


@pytest.mark.parametrize("place", [elsewhere, above, linked, nowhere])
def test_status_reads_no_log_outside_of_the_folder_of_jobs(home: TempHome, place: Callable[[TempHome], str]) -> None:
    home.jobs.mkdir()
    (home.folder.parent / "secret").write_text("a secret\n")
    assert "a secret" not in with_log(home, place(home))


def test_a_log_that_is_a_pipe_is_not_waited_for(home: TempHome) -> None:
    home.jobs.mkdir()
    os.mkfifo(home.jobs / "log")
    assert json.dumps("job 1 of c")[1:-1] in with_log(home, str(home.jobs / "log"))


def test_a_trial_that_is_being_finished_runs() -> None:
    """Optuna reads the state of trials first, and their values after it: somebody may have told one in between."""
    running = FrozenTrial(
        number=0,
        trial_id=1,
        state=TrialState.RUNNING,
        value=0.5,
        datetime_start=datetime(2026, 1, 1),
        datetime_complete=datetime(2026, 1, 2),
        params={PARAMETER: 1},
        distributions={PARAMETER: IntDistribution(0, 12)},
        user_attrs={},
        system_attrs={},
        intermediate_values={},
    )
    (found,) = content_of("s", {"budget": 1}, [running]).trials
    assert (found.state, found.value, found.finished, found.candidate) == ("RUNNING", None, None, 1)


def test_what_does_not_fit_is_read_again(home: TempHome, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = home.study()
    read, times = StoredStudy.content, list[int]()

    def torn(self: StoredStudy) -> StudyContent:
        times.append(0)
        if len(times) < 3:
            raise ValueError("parts of two moments")
        return read(self)

    monkeypatch.setattr(StoredStudy, "content", torn)
    assert len(stored.snapshot().finished) == 2
    assert len(times) == 3
