"""SQLite databases of studies and of MLflow: created atomically, and checked before they are used.

A database is known by its resolved path, however its URL was written, and its locks lie beside it in `FILE.locks`, with
a folder for each study. So all who work on a database meet the same locks. One that has a second path, which cannot be
resolved (a hard link, a mount of the file alone), is refused; SQLite forbids these too, for its journal lies beside it.
"""

from __future__ import annotations

import os
import re
import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from acsearch.errors import StudyError
from acsearch.redaction import redact
from trainers.errors import first_line
from trainers.utils.locks import Locks

TIMEOUT = 10.0  # seconds to wait for a database that is locked, before it is used
_COPY = "put a copy of it in its place"
_PROBLEMS = {  # what SQLite says, by the name of its error, where neither the database nor acsearch is wrong
    "SQLITE_BUSY": "locked by another program, which has a transaction open; end that (fuser FILE names it)",
    "SQLITE_LOCKED": "locked by another program, which has a transaction open; end that (fuser FILE names it)",
    "SQLITE_READONLY": "may not be written by us: make it and its folder writable, or use another",
    "SQLITE_CANTOPEN": "cannot be opened: see that we may read and write it and its folder",
    "SQLITE_PERM": "cannot be opened: see that we may read and write it and its folder",
    "SQLITE_FULL": "its disk is full: make room, then resume",
    "SQLITE_IOERR": "its disk cannot be read or written: it may be full, over quota or gone",
}
_CREATE = ".create"  # the lock under which a database is created; no study has a name that begins with a dot
_VERSIONS = {"alembic_version", "version_info"}  # tables that have one row each


def check_database(file: Path, url: str) -> None:
    """Check an SQLite storage before Optuna opens it.

    Optuna creates the tables that it does not find. So without this check, a study whose trials were lost would run its
    whole budget again, and Optuna would write to storages of other versions before it refuses them.

    Args:
        file: The database.
        url: Its URL without passwords, for messages.

    Raises:
        StudyError: the database is damaged, or its tables are not those of the installed version of Optuna.
    """
    import optuna.storages._rdb.models as models

    try:
        with closing(_connect(file)) as connection:
            problem = connection.execute("pragma quick_check(1)").fetchone()[0]
            tables = {row[0] for row in connection.execute("select name from sqlite_master where type = 'table'")}
            rows = [connection.execute(f"select count(*) from {name}").fetchone()[0] for name in tables & _VERSIONS]
    except sqlite3.Error as error:
        raise StudyError(f"--storage {url}: {problem_of(error) or f'damaged: {error}; {_COPY}'}") from error
    if problem != "ok":
        raise StudyError(f"--storage {url}: damaged: {problem}; {_COPY}")
    missing = sorted((models.BaseModel.metadata.tables.keys() | _VERSIONS) - tables)
    if missing or rows != [1, 1]:
        lacks = f"no table {missing[0]!r}" if missing else "no version of its tables"
        raise StudyError(
            f"--storage {url}: written by another version of Optuna, or damaged: it has {lacks}; "
            "see optuna storage upgrade"
        )


def check_writable(file: Path, url: str) -> None:
    """Check that an SQLite database can be written, before a study begins or goes on.

    Args:
        file: The database.
        url: Its URL without passwords, for messages.

    Raises:
        StudyError: it is not ours to write, or another program does not let go of it.
    """
    try:
        with closing(_connect(file)) as connection:
            (version,) = connection.execute("pragma user_version").fetchone()
            connection.execute("begin immediate")
            connection.execute(f"pragma user_version = {version}")  # which opens a journal, in the same folder
            connection.execute("rollback")
    except sqlite3.Error as error:
        raise StudyError(f"--storage {url}: {problem_of(error) or first_line(error)}") from error


def _connect(file: Path) -> sqlite3.Connection:
    """Mode rw, because even a reader has to roll back what a killed process left; nothing is created."""
    return sqlite3.connect(f"{file.resolve().as_uri()}?mode=rw", uri=True, timeout=TIMEOUT, isolation_level=None)


def problem_of(error: BaseException | None) -> str | None:
    """What to do about an error, if it comes from one of SQLite's that says nothing about what the database holds."""
    if error is None:
        return None
    name = getattr(error, "sqlite_errorname", "")  # such as SQLITE_BUSY or SQLITE_READONLY_DIRECTORY
    problem = next((problem for start, problem in _PROBLEMS.items() if name.startswith(start)), None)
    return problem or problem_of(error.__cause__ or error.__context__)


def sqlite_file(url: str, option: str, table: str) -> Path | None:
    """The file of an SQLite URL.

    Args:
        url: Any URL.
        option: The option that gave the URL, for messages.
        table: A table that an existing database must have. Without this check, Optuna and MLflow would write their
            tables into any database.

    Returns:
        The resolved path, where there need not be a file yet; None for URLs of other databases.

    Raises:
        StudyError: the URL names no file, or a file that is not a database with this table, or has other paths too.
    """
    if not url.startswith("sqlite"):
        return None
    import sqlalchemy

    what = f"{option} {redact(url)}"
    try:
        given = sqlalchemy.make_url(url)
    except sqlalchemy.exc.ArgumentError as error:
        raise StudyError(f"{what}: not a URL") from error
    path, is_uri = given.database or "", given.query.get("uri") in ("true", "1")
    if "?" in url and not (is_uri and len(given.query) == 1):
        raise StudyError(f"{what}: nothing may follow a '?'; give sqlite:///{table}.db, for instance")
    if is_uri and path.startswith("file:"):
        path = unquote(urlsplit(path).path)
    if not path or path == ":memory:" or given.host:
        raise StudyError(f"{what}: names no file; for instance sqlite:///{table}.db")
    file = Path(os.path.realpath(path))
    if _is_there(file, what):
        try:
            with closing(_connect(file)) as connection:
                known = connection.execute("select 1 from sqlite_master where name = ?", (table,)).fetchone()
        except sqlite3.Error as error:
            raise StudyError(f"{what}: {problem_of(error) or f'not an SQLite database: {error}'}") from error
        if known is None:
            raise StudyError(f"{what}: a database of something else; it has no table {table!r}")
    return file


def sqlite_url(file: Path) -> str:
    """The URL of an SQLite database, whatever its path looks like."""
    return f"sqlite:///{quote(str(file))}"


def lock_folder(file: Path, study: str = "") -> Path:
    """The folder of the locks of an SQLite database, or of a study in it.

    Args:
        file: The database by its resolved path.
        study: Name of the study; empty for the folder of all.

    Raises:
        StudyError: the folder is a link to somewhere else.
    """
    folder = file.with_name(file.name + ".locks")
    if study == "create" and (folder / study).is_file():  # how earlier versions called the lock of the database
        (folder / study).unlink(missing_ok=True)
    for one in (folder, folder / study):
        if one.is_symlink():
            raise StudyError(f"{one}: a link, and locks are not written where links lead; remove it")
    return folder / study


def _is_there(file: Path, what: str) -> bool:
    """Whether there is a file that SQLite may open. Raises StudyError where there is something else."""
    try:
        found = file.stat()
    except FileNotFoundError:
        return False
    except PermissionError as error:
        raise StudyError(f"{what}: {error.strerror}; let its owner give you access, or use another") from error
    except OSError as error:
        raise StudyError(f"{what}: {error.strerror}") from error
    if not stat.S_ISREG(found.st_mode):
        raise StudyError(f"{what}: not an SQLite database: not a file")
    if found.st_nlink > 1 or _is_mounted(file):
        raise StudyError(
            f"{what}: the file has other names too (hard links, or a mount of this file alone), under which its locks "
            f"would be others; copy it, remove the links, or mount its folder"
        )
    return True


def _is_mounted(file: Path) -> bool:
    """Whether a file is a mount point by itself, as in `docker run -v studies.db:/studies.db`."""
    try:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    points = (line.split()[4] for line in mounts)
    return str(file) in {re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), point) for point in points}


def create_database(file: Path, create: Callable[[str], object]) -> None:
    """Create an SQLite database atomically: one process creates it under another name, and renames it.

    Args:
        file: The database, which is left alone where it exists.
        create: Creates the database at the URL that it is given.

    Raises:
        StudyError: the file cannot be written.
    """
    try:
        with Locks(lock_folder(file)).exclusive(_CREATE):
            if not file.exists():
                fresh = file.with_name(f"{file.name}.new")
                fresh.unlink(missing_ok=True)
                try:
                    create(sqlite_url(fresh.absolute()))
                    fresh.rename(file)
                finally:
                    fresh.unlink(missing_ok=True)
    except OSError as error:
        raise StudyError(f"{file}: cannot be made: {error.strerror}") from error
