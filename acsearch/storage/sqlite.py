"""SQLite databases of studies and of MLflow: found, made whole or not at all, and checked before they are used."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from acsearch.errors import StudyError
from acsearch.redaction import redact
from trainers.utils.locks import Locks

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


def sqlite_file(url: str, option: str, table: str) -> Path | None:
    """The file of an SQLite URL, None for other URLs.

    Raises StudyError when it names no file, or the file is there and is not a database with this table: both tools
    would otherwise write their own tables into somebody else's.
    """
    if not url.startswith("sqlite"):
        return None
    import sqlalchemy

    try:
        database = sqlalchemy.make_url(url).database
    except sqlalchemy.exc.ArgumentError as error:
        raise StudyError(f"{option} {redact(url)}: not a URL") from error
    if not database or database == ":memory:":
        raise StudyError(f"{option} {redact(url)}: names no file; for instance sqlite:///{table}.db")
    file = Path(database)
    if file.exists():
        try:  # rw: what a killed process left half-written is rolled back, even by a reader
            with closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=rw", uri=True, timeout=60)) as connection:
                known = connection.execute("select 1 from sqlite_master where name = ?", (table,)).fetchone()
        except sqlite3.Error as error:
            raise StudyError(f"{option} {redact(url)}: not an SQLite database: {error}") from error
        if known is None:
            raise StudyError(f"{option} {redact(url)}: a database of something else; it has no table {table!r}")
    return file


def lock_folder(file: Path) -> Path:
    return file.with_name(file.name + ".locks")


def create_database(file: Path, create: Callable[[str], object]) -> None:
    """Make an SQLite database whole or not at all: elsewhere, then renamed, and by one process only."""
    try:
        with Locks(lock_folder(file)).exclusive("create"):
            if not file.exists():
                fresh = file.with_name(f"{file.name}.new")
                fresh.unlink(missing_ok=True)
                create(f"sqlite:///{fresh.absolute()}")
                fresh.rename(file)
    except OSError as error:
        raise StudyError(f"{file}: cannot be made: {error.strerror}") from error
