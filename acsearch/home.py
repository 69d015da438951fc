"""Where studies live: their storage, their locks, and their MLflow record.

By default everything is under one folder, `acsearch-runs` (or $ACSEARCH_HOME): `studies.db` with all studies, which
is the truth, and `mlflow.db` with `mlartifacts/`, the record. The two are separate files because both tools keep their
schema's version in a table of the same name.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from acsearch.errors import StudyError
from acsearch.locks import Locks

if TYPE_CHECKING:
    import optuna

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
    def storage_url(self) -> str:
        return self.storage or f"sqlite:///{self.folder / 'studies.db'}"

    @property
    def tracking_uri(self) -> str:
        return self.tracking or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self.folder / 'mlflow.db'}"

    def open_storage(self, *, create: bool) -> optuna.storages.RDBStorage:
        """Raises StudyError when there is none, or it cannot be opened."""
        import optuna
        import sqlalchemy.exc

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        file = self._sqlite_file(self.storage_url)
        options = {"connect_args": {"timeout": 60}} if file is not None else {}
        try:
            if file is not None and not file.exists():
                if not create:
                    raise StudyError(f"no studies yet: {file} does not exist; acsearch study start")
                _create_database(file, lambda url: optuna.storages.RDBStorage(url).engine.dispose())
            return optuna.storages.RDBStorage(self.storage_url, engine_kwargs=options)
        except ImportError as error:
            raise StudyError(f"--storage {self._shown()}: its driver is missing: {error}") from error
        except (sqlalchemy.exc.SQLAlchemyError, RuntimeError, ValueError, AssertionError) as error:
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise StudyError(f"--storage {self._shown()}: not a study storage: {reason[0]}") from error

    def locks(self, study: str) -> Locks:
        """The locks of a study: beside an SQLite storage, else under the home folder."""
        file = self._sqlite_file(self.storage_url)
        return Locks((self.folder / "locks" if file is None else _lock_folder(file)) / study)

    def open_record(self, study: str) -> Record:
        """The MLflow record. Raises StudyError when the server or store cannot be used."""
        from acsearch.track import Record

        file = self._sqlite_file(self.tracking_uri)
        if file is not None and not file.exists():
            _create_database(file, lambda url: Record(url, None, self.locks(study)))
        return Record(self.tracking_uri, None if file is None else file.parent / "mlartifacts", self.locks(study))

    @staticmethod
    def _sqlite_file(url: str) -> Path | None:
        return Path(url.removeprefix("sqlite:///")) if url.startswith("sqlite:///") else None

    def _shown(self) -> str:
        """The storage's address without its password."""
        import sqlalchemy

        try:
            return sqlalchemy.make_url(self.storage_url).render_as_string(hide_password=True)
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
                create(f"sqlite:///{fresh}")
                fresh.rename(file)
    except OSError as error:
        raise StudyError(f"{file}: cannot be made: {error.strerror}") from error
