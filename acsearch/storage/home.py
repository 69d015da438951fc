"""Where studies are: their storage, their locks, and their MLflow record.

By default everything is in one folder, `acsearch-runs`: `studies.db` with all studies, and `mlflow.db` with
`mlartifacts/`, the record, which can be made again from the studies. These are two files because Optuna and MLflow keep
the version of their schema in a table of the same name. Other places are given by options, or by
`acsearch.config.settings`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from acsearch.errors import StudyError
from acsearch.redaction import redact, register_secret, without_secrets
from acsearch.storage.claims import Claims, FileClaims
from acsearch.storage.sqlite import (
    check_database,
    check_writable,
    create_database,
    lock_folder,
    problem_of,
    sqlite_file,
    sqlite_url,
)
from trainers.errors import first_line

if TYPE_CHECKING:
    import optuna
    import sqlalchemy

    from acsearch.config.settings import Settings

_SUPPORTED = "give sqlite:///FILE, or postgresql+psycopg://USER@HOST/DATABASE"


@dataclass(frozen=True)
class Home:
    """The places of studies. Nothing is created before it is needed.

    Attributes:
        storage: URL of the Optuna storage that the user gave; None for the one in the settings.
        tracking: Tracking URI of MLflow that the user gave; None for the one in the settings.
    """

    storage: str | None = None
    tracking: str | None = None

    @property
    def settings(self) -> Settings:
        """The settings that apply now."""
        from acsearch.config.settings import settings  # here, because `acsearch --help` must be quick

        return settings()

    @property
    def folder(self) -> Path:
        """The folder of everything that acsearch writes."""
        return Path(self.settings.home)

    @property
    def work(self) -> Path:
        """The work folder, with data, features, checkpoints and evaluations of all studies."""
        return self.folder / "work"

    @property
    def jobs(self) -> Path:
        """The folder of job scripts and logs, which all nodes see."""
        return self.folder / "jobs"

    @property
    def store(self) -> str | None:
        """The fsspec URL of the work store, by which machines share the work folder; None where there is none."""
        return self.settings.work

    @property
    def storage_url(self) -> str:
        """The URL of the Optuna storage."""
        return register_secret(self.storage or self.settings.storage or sqlite_url(self.folder / "studies.db"))

    @property
    def tracking_uri(self) -> str:
        """The tracking URI of MLflow."""
        return register_secret(self.tracking or self.settings.tracking or sqlite_url(self.folder / "mlflow.db"))

    def open_storage(self, *, create: bool, writes: bool = False) -> optuna.storages.RDBStorage:
        """Open the Optuna storage.

        Args:
            create: Whether to create it where it does not exist.
            writes: Whether a study there will be worked on, for which the storage must be ours to write.

        Raises:
            StudyError: the storage does not exist, or cannot be used.
        """
        import optuna
        import sqlalchemy.exc

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        url, file = self.storage_url, sqlite_file(self.storage_url, "--storage", "studies")
        name = redact(url) if "://" in url else "(not a URL)"
        try:
            if file is not None and not file.exists():
                if not create:
                    raise StudyError(f"no studies yet: {file} does not exist; acsearch study start")
                create_database(file, lambda fresh: optuna.storages.RDBStorage(fresh).engine.dispose())
            if file is not None:
                check_database(file, name)
                if create or writes:
                    check_writable(file, name)
                return optuna.storages.RDBStorage(sqlite_url(file), engine_kwargs={"connect_args": {"timeout": 60}})
            from acsearch.storage.leases import creating_tables
            from acsearch.storage.retrying import RetryingStorage
            from acsearch.storage.servers import check_answers, options

            if not url.startswith("postgresql"):
                raise StudyError(f"--storage {name}: not a study storage: {_SUPPORTED}")
            check_answers(url, "--storage")
            with creating_tables(sqlalchemy.create_engine(url, **options(url))):
                return RetryingStorage(url, engine_kwargs=options(url))
        except ImportError as error:
            raise StudyError(f"--storage {name}: its driver is missing: {error}") from error
        except (sqlalchemy.exc.SQLAlchemyError, RuntimeError, ValueError, AssertionError) as error:
            problem = problem_of(error) or f"not a study storage: {without_secrets(first_line(error))}"
            raise StudyError(f"--storage {name}: {problem}") from error

    @property
    def on_one_machine(self) -> bool:
        """Whether only this machine can work on the studies, because they are in SQLite."""
        return self.storage_url.startswith("sqlite")

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables with which a process on another machine finds the same studies.

        Addresses may hold passwords, which command lines would show to other users.
        """
        from acsearch.config.settings import environment

        given = {"ACSEARCH_STORAGE": self.storage_url, "ACSEARCH_HOME": str(self.folder.absolute())}
        variables = environment() | given
        return variables if self.tracking is None else variables | {"ACSEARCH_TRACKING": self.tracking}

    @property
    def lease_seconds(self) -> float:
        """Seconds after which a lease that is not renewed lapses."""
        from acsearch.storage.leases import TERM

        return self.settings.lease_seconds or TERM

    @property
    def claim_timeout(self) -> float:
        """Seconds to wait for a claim: one that is still held then belongs to a live process."""
        return 0.0 if self.on_one_machine else 1.5 * self.lease_seconds

    def claims(self, study: str) -> Claims:
        """The claims on the work of a study: locks beside an SQLite storage, leases in a database server."""
        file = sqlite_file(self.storage_url, "--storage", "studies")
        if file is not None:
            return FileClaims(lock_folder(file, study))

        from acsearch.storage.leases import Leases

        return Leases(_engine(self.storage_url), study, self.lease_seconds)


@cache
def _engine(url: str) -> sqlalchemy.Engine:
    """One engine for all leases, because a server allows a limited number of connections."""
    import sqlalchemy

    from acsearch.storage.servers import options

    return sqlalchemy.create_engine(url, **options(url))
