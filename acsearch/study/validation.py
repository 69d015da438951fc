"""What a study's storage holds may have been damaged, or written by something else: checked where it is read."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from acsearch.errors import StudyError
from acsearch.study.snapshot import Snapshot

# what text, keys and numbers of other kinds lead to, here and in Optuna, which asserts some of what it finds
_UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, AssertionError)

_VERSIONS = {"alembic_version", "version_info"}  # tables of one row each


def check_database(file: Path, url: str) -> None:
    """Raises StudyError for an SQLite storage that is damaged, or whose tables are not those of this Optuna.

    Optuna makes the tables that it does not find, so it would give a study without trials its whole budget again, and
    write into the storages of other versions before it refuses them.
    """
    import optuna.storages._rdb.models as models

    try:
        with closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=rw", uri=True, timeout=60)) as connection:
            problem = connection.execute("pragma quick_check(1)").fetchone()[0]
            tables = {row[0] for row in connection.execute("select name from sqlite_master where type = 'table'")}
            rows = [connection.execute(f"select count(*) from {name}").fetchone()[0] for name in tables & _VERSIONS]
    except sqlite3.Error as error:
        raise StudyError(f"--storage {url}: damaged: {error}; put a copy of it in its place") from error
    if problem != "ok":
        raise StudyError(f"--storage {url}: damaged: {problem}; put a copy of it in its place")
    missing = sorted((models.BaseModel.metadata.tables.keys() | _VERSIONS) - tables)
    if missing or rows != [1, 1]:
        lacks = f"no table {missing[0]!r}" if missing else "no version of its tables"
        raise StudyError(
            f"--storage {url}: written by another version of Optuna, or damaged: it has {lacks}; "
            "see optuna storage upgrade"
        )


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Around what reads a storage: raises StudyError where it cannot be understood."""
    import sqlalchemy.exc
    from optuna.exceptions import OptunaError

    try:
        yield
    except (*_UNREADABLE, sqlalchemy.exc.SQLAlchemyError, OptunaError) as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        raise StudyError(f"{what} cannot be read as acsearch wrote it: {type(error).__name__}: {reason}") from error


def check(snapshot: Snapshot) -> Snapshot:
    """The same. Raises StudyError for numbers that no study of these candidates can have."""
    table, name = snapshot.table, snapshot.name
    candidates, wanted = len(table.representations), set(table.benchmarks)
    if not 1 <= snapshot.budget <= candidates or snapshot.objective not in ("mean", *table.benchmarks):
        raise StudyError(f"study {name!r}: damaged: budget {snapshot.budget}, objective {snapshot.objective!r}")
    if not isinstance(snapshot.seed, int) or snapshot.seed < 0:
        raise StudyError(f"study {name!r}: damaged: its seed is {snapshot.seed!r}")
    for record in snapshot.finished:
        where = f"study {name!r}: damaged: finetune {record.trial + 1}"
        if record.candidate is None or not 0 <= record.candidate < candidates:
            raise StudyError(f"{where} is of candidate {record.candidate}, of {candidates}")
        if table.representations[record.candidate] != record.representation:
            raise StudyError(f"{where} is of {record.representation!r}, its candidate is another")
        numbers = [*record.points.values(), math.nan if record.objective is None else record.objective]
        if set(record.points) != wanted or not all(map(math.isfinite, numbers)):
            raise StudyError(f"{where} has not one finite score for each of {', '.join(table.benchmarks)}")
    return snapshot
