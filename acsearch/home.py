"""Where studies live: their storage, their locks, and their MLflow record.

By default everything is under one folder, `acsearch-runs` (or $ACSEARCH_HOME): `studies.db` with all studies, which
is the truth, and `mlflow.db` with `mlartifacts/`, the record. The two are separate files because both tools keep their
schema's version in a table of the same name.
"""

from __future__ import annotations

import os
import sqlite3
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from acsearch.errors import StudyError
from acsearch.locks import Claims, Locks

if TYPE_CHECKING:
    import optuna
    import sqlalchemy

    from acsearch.track import Record


@dataclass(frozen=True)
class Home:
    """Addresses given by the user, None for the defaults. Nothing is made before it is needed."""

    storage: str | None = None
    tracking: str | None = None

    @property
    def folder(self) -> Path:
        return Path(os.environ.get("ACSEARCH_HOME", "acsearch-runs"))

    @property
    def work(self) -> Path:
        """Data, features, checkpoints and evaluations, shared by all studies."""
        return self.folder / "work"

    @property
    def store(self) -> str | None:
        """Where machines share what is in the work folder, as fsspec names it; see `trainers.store`."""
        return os.environ.get("ACSEARCH_WORK") or None

    @property
    def storage_url(self) -> str:
        return self.storage or os.environ.get("ACSEARCH_STORAGE") or f"sqlite:///{self.folder / 'studies.db'}"

    @property
    def tracking_uri(self) -> str:
        return self.tracking or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self.folder / 'mlflow.db'}"

    def open_storage(self, *, create: bool) -> optuna.storages.RDBStorage:
        """Raises StudyError when there is none, or it cannot be opened."""
        import optuna
        import sqlalchemy.exc

        from acsearch.damage import check_database

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        url, file = self.storage_url, _sqlite_file(self.storage_url, "--storage", "studies")
        try:
            if file is not None and not file.exists():
                if not create:
                    raise StudyError(f"no studies yet: {file} does not exist; acsearch study start")
                _create_database(file, lambda fresh: optuna.storages.RDBStorage(fresh).engine.dispose())
            if file is not None:
                check_database(file, _shown(url))
                return optuna.storages.RDBStorage(url, engine_kwargs={"connect_args": {"timeout": 60}})
            from acsearch.leases import alone
            from acsearch.patience import PatientStorage

            options = {"pool_pre_ping": True}
            engine = sqlalchemy.create_engine(url, **options)
            with alone(engine):
                return PatientStorage(url, engine_kwargs=options)
        except ImportError as error:
            raise StudyError(f"--storage {_shown(url)}: its driver is missing: {error}") from error
        except (sqlalchemy.exc.SQLAlchemyError, RuntimeError, ValueError, AssertionError) as error:
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise StudyError(f"--storage {_shown(url)}: not a study storage: {reason[0]}") from error

    @property
    def on_one_machine(self) -> bool:
        """Whether the studies can be worked on from this machine alone."""
        return self.storage_url.startswith("sqlite")

    @property
    def environment(self) -> dict[str, str]:
        """What a process elsewhere must be told to find the same studies: addresses, which command lines would show."""
        given = {"ACSEARCH_STORAGE": self.storage_url, "ACSEARCH_HOME": str(self.folder.absolute())}
        return given if self.tracking is None else given | {"MLFLOW_TRACKING_URI": self.tracking}

    @property
    def lease_seconds(self) -> float:
        from acsearch.leases import TERM

        return float(os.environ.get("ACSEARCH_LEASE_SECONDS", TERM))

    @property
    def patience(self) -> float:
        """Seconds after which whoever holds a piece of work is alive."""
        return 0.0 if self.on_one_machine else 1.5 * self.lease_seconds

    def locks(self, study: str) -> Claims:
        """Who works on what in a study: locks beside an SQLite storage, leases in a database server."""
        file = _sqlite_file(self.storage_url, "--storage", "studies")
        if file is not None:
            return Locks(_lock_folder(file) / study)

        from acsearch.leases import Leases

        return Leases(_engine(self.storage_url), study, self.lease_seconds)

    def open_record(self, study: str) -> Record:
        """The MLflow record. Raises StudyError when the server or store cannot be used."""
        uri, file = self.tracking_uri, _sqlite_file(self.tracking_uri, "--tracking", "experiments")
        _check_answers(uri)
        from acsearch.track import Record

        if file is None:
            return Record(uri, None, self.locks(study))
        if not file.exists():
            _create_database(file, lambda fresh: Record(fresh, None, self.locks(study)))
        return Record(f"sqlite:///{file.absolute()}", file.parent / "mlartifacts", self.locks(study))


@cache
def _engine(url: str) -> sqlalchemy.Engine:
    """One for all leases: a server has only so many connections."""
    import sqlalchemy

    return sqlalchemy.create_engine(url, pool_pre_ping=True)


def _sqlite_file(url: str, option: str, table: str) -> Path | None:
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
        raise StudyError(f"{option} {url}: not a URL") from error
    if not database or database == ":memory:":
        raise StudyError(f"{option} {url}: names no file; for instance sqlite:///{table}.db")
    file = Path(database)
    if file.exists():
        try:  # rw: what a killed process left half-written is rolled back, even by a reader
            with closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=rw", uri=True, timeout=60)) as connection:
                known = connection.execute("select 1 from sqlite_master where name = ?", (table,)).fetchone()
        except sqlite3.Error as error:
            raise StudyError(f"{option} {url}: not an SQLite database: {error}") from error
        if known is None:
            raise StudyError(f"{option} {url}: a database of something else; it has no table {table!r}")
    return file


def _check_answers(uri: str) -> None:
    """Ask a tracking server whether it is there, since MLflow's own client tries for minutes."""
    if uri.startswith(("http://", "https://")):
        try:
            urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=10).close()
        except urllib.error.HTTPError:
            pass  # it answers; what it thinks of us, the client will hear
        except (OSError, ValueError) as error:
            raise StudyError(f"--tracking {_shown(uri)}: no answer: {getattr(error, 'reason', error)}") from error


def _shown(url: str) -> str:
    """An address without its password."""
    import sqlalchemy

    try:
        return sqlalchemy.make_url(url).render_as_string(hide_password=True)
    except sqlalchemy.exc.ArgumentError:
        return "(not a URL)"


def _lock_folder(file: Path) -> Path:
    return file.with_name(file.name + ".locks")


def _create_database(file: Path, create: Callable[[str], object]) -> None:
    """Make an SQLite database whole or not at all: elsewhere, then renamed, and by one process only."""
    try:
        with Locks(_lock_folder(file)).exclusive("create"):
            if not file.exists():
                fresh = file.with_name(f"{file.name}.new")
                fresh.unlink(missing_ok=True)
                create(f"sqlite:///{fresh.absolute()}")
                fresh.rename(file)
    except OSError as error:
        raise StudyError(f"{file}: cannot be made: {error.strerror}") from error
