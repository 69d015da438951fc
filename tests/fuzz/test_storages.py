"""Damaged storages of studies, and those of other versions: taken as they are or refused, and never written to."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

from acsearch.config.study_file import load_study
from acsearch.errors import StudyError
from acsearch.reporting.tracking_server import open_record
from acsearch.runners.registry import make_runner
from acsearch.storage.home import Home
from acsearch.study.checks import check_free
from acsearch.study.start import start_study
from acsearch.study.stored import StoredStudy, summaries
from acsearch.study.study import Study
from support import fuzzing
from support.fuzzing import accepted, cases, damaged_bytes, damaged_tree

BUDGET = 2
ATTRIBUTES = ("study_user_attributes", "trial_user_attributes", "study_system_attributes")


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage with a finished study."""
    file = tmp_path_factory.mktemp("storages") / "studies.db"
    home = Home(f"sqlite:///{file}")
    config, storage = load_study("law_v1"), home.open_storage(create=True)
    study = start_study(storage, home.claims("there"), name="there", config=config, budget=BUDGET)
    Study(study, make_runner(study.source, file.parent / "work"), lambda event: None).run()
    storage.remove_session()
    storage.engine.dispose()
    return file


def look(file: Path) -> None:
    """All that reading a study takes, in the order in which the commands do."""
    home = Home(f"sqlite:///{file}")
    storage = home.open_storage(create=False)
    try:
        for summary in summaries(storage):
            snapshot = StoredStudy.open(storage, home.claims(summary.study_name), summary.study_name).snapshot()
            assert 1 <= snapshot.budget <= len(snapshot.table.representations)
            assert np.isfinite([snapshot.displayed_objective(record) for record in snapshot.finished]).all()
            if snapshot.is_scored and len(snapshot.finished) != BUDGET:  # the whole study is fitted too often otherwise
                assert np.isfinite(snapshot.steps[-1].recommendation.p_best).all()
    finally:
        storage.remove_session()
        storage.engine.dispose()


def rows(connection: sqlite3.Connection) -> list[tuple[str, int, str]]:
    """(table, row, JSON) of every attribute in the storage."""
    return [
        (table, number, text)
        for table in ATTRIBUTES
        for number, text in connection.execute(f"select rowid, value_json from {table} order by rowid")
    ]


STATEMENTS = [
    "update alembic_version set version_num = 'v9.9.9.a'",
    "update alembic_version set version_num = 'v2.6.0.a'",
    "update alembic_version set version_num = 'v0.9.0.a'",
    "delete from alembic_version",
    "insert into alembic_version values ('v3.0.0.a')",
    "drop table alembic_version",
    "drop table trial_heartbeats",
    "drop table trials",
    "drop table trial_params",
    "drop table trial_user_attributes",
    "drop table study_user_attributes",
    "alter table trials drop column datetime_start",
    "alter table trials rename column state to stat",
    "delete from trial_user_attributes",
    "delete from trial_values",
    "delete from trial_params",
    "delete from study_directions",
    "delete from study_user_attributes where key = 'budget'",
    "delete from trial_user_attributes where key = 'points'",
    "update trial_params set param_value = 99",
    "update trial_params set param_value = -1",
    "update trial_params set param_value = 'x'",
    "update trial_params set distribution_json = '{}'",
    "update trial_values set value = 'x'",
    "update trial_values set value_type = 'INF_POS'",
    "update trials set state = 'DONE'",
    "update trials set state = 'RUNNING'",
    "update trials set datetime_complete = 'yesterday'",
    "update trials set number = 7",
    "update studies set study_name = 'a/b'",
    "insert into studies values (9, 'of somebody else')",
    "update version_info set schema_version = 99",
    "delete from version_info",
]


def damage(draw: fuzzing.Draw, file: Path) -> None:
    """Bytes of the file, an attribute in it, or one of its tables."""
    kind = draw(st.sampled_from(["bytes", "attribute", "attribute", "attribute", "statement", "format"]))
    if kind == "bytes":
        file.write_bytes(draw(damaged_bytes(file.read_bytes())))
        return
    with contextlib.closing(sqlite3.connect(file)) as connection, connection:
        if kind == "statement":
            connection.execute(draw(st.sampled_from(STATEMENTS)))
            return
        table, number, text = draw(st.sampled_from(rows(connection)))
        if kind == "format":
            table, number, text = next(row for row in rows(connection) if '"format"' in row[2])
            changed = json.dumps(json.loads(text) | {"format": draw(st.sampled_from([1, 3, 99, "2", None, -1, 2.5]))})
        elif draw(st.integers(0, 4)) == 0:
            changed = draw(damaged_bytes(text.encode())).decode("utf-8", "replace")
        else:
            value: Any = json.loads(text)
            changed = json.dumps(draw(damaged_tree([value])), default=str)
            changed = changed[1:-1] if changed.startswith("[") else changed
        connection.execute(f"update {table} set value_json = ? where rowid = ?", (changed, number))


@cases(100, st.data())
def test_storage(database: Path, tmp_path: Path, damaged: st.DataObject) -> None:
    file = tmp_path / "studies.db"
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    shutil.copy(database, file)
    damage(damaged.draw, file)
    names = [str(file), "--storage", "study 'there'", "study 'a/b'", "prior", "polic"]
    accepted(lambda: look(file), tmp_path, names)


@pytest.fixture
def copied(database: Path, tmp_path: Path) -> Path:
    return shutil.copy(database, tmp_path / "studies.db")


@pytest.mark.parametrize("number", [1, 99])
def test_a_study_of_another_format_is_neither_replaced_nor_gone_on_with(copied: Path, number: int) -> None:
    with contextlib.closing(sqlite3.connect(copied)) as connection, connection:
        connection.execute(
            "update study_user_attributes set value_json = json_set(value_json, '$.format', ?) where key = 'acsearch'",
            (number,),
        )
    before, home, config = copied.read_bytes(), Home(f"sqlite:///{copied}"), load_study("law_v1")
    storage, locks = home.open_storage(create=True), home.claims("there")
    says = rf"study 'there' was written by another version of acsearch \(format {number};"
    with pytest.raises(StudyError, match=says):
        check_free(storage, locks, "there")
    for resume in (True, False):
        with pytest.raises(StudyError, match=says):
            start_study(storage, locks, name="there", config=config, budget=BUDGET + 1, resume=resume)
    assert copied.read_bytes() == before


def test_a_storage_without_its_trials_does_not_get_its_budget_again(copied: Path) -> None:
    with contextlib.closing(sqlite3.connect(copied)) as connection, connection:
        connection.execute("drop table trials")
    before = copied.read_bytes()
    with pytest.raises(StudyError, match="another version of Optuna, or damaged: it has no table 'trials'"):
        Home(f"sqlite:///{copied}").open_storage(create=True)
    assert copied.read_bytes() == before


def test_storage_and_record_are_not_taken_for_each_other(copied: Path, tmp_path: Path) -> None:
    record = tmp_path / "mlflow.db"
    with contextlib.closing(sqlite3.connect(record)) as connection, connection:
        connection.execute("create table experiments (experiment_id integer)")
        connection.execute("create table alembic_version (version_num text)")
    before = fuzzing.contents(tmp_path)
    with pytest.raises(StudyError, match="a database of something else; it has no table 'studies'"):
        Home(f"sqlite:///{record}").open_storage(create=True)
    with pytest.raises(StudyError, match="a database of something else; it has no table 'experiments'"):
        open_record(Home(tracking=f"sqlite:///{copied}"), "there")
    assert fuzzing.contents(tmp_path) == before


def test_a_thousand_cases_are_promised() -> None:
    """Each test fails by itself where it executes fewer than it promises."""
    files = Path(__file__).parent.glob("test_*.py")
    promised = [
        int(count) for file in files for count in re.findall(r"^@cases\(\s*(\d+),", file.read_text(), re.MULTILINE)
    ]
    assert sum(promised) >= 1000
