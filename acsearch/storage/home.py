"""Where studies live: their storage, their locks, and their MLflow record.

By default everything is under one folder, `acsearch-runs`: `studies.db` with all studies, which is the truth, and
`mlflow.db` with `mlartifacts/`, the record. The two are separate files because both tools keep their schema's version
in a table of the same name. Other places are named by options, and by `acsearch.config.settings`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from acsearch.errors import StudyError
from acsearch.redaction import redact, register_secret, without_secrets
from acsearch.storage.claims import Claims, FileClaims
from acsearch.storage.sqlite import check_database, create_database, lock_folder, sqlite_file
from trainers.errors import first_line

if TYPE_CHECKING:
    import optuna
    import sqlalchemy

    from acsearch.config.settings import Settings


@dataclass(frozen=True)
class Home:
    """Addresses given by the user, None for the defaults. Nothing is made before it is needed."""

    storage: str | None = None
    tracking: str | None = None

    @property
    def settings(self) -> Settings:
        from acsearch.config.settings import settings  # not at the top: the command line's help must be quick

        return settings()

    @property
    def folder(self) -> Path:
        return Path(self.settings.home)

    @property
    def work(self) -> Path:
        """Data, features, checkpoints and evaluations, shared by all studies."""
        return self.folder / "work"

    @property
    def store(self) -> str | None:
        """The work store, which shares the work folder among machines: an fsspec URL, None where there is none."""
        return self.settings.work

    @property
    def storage_url(self) -> str:
        return register_secret(self.storage or self.settings.storage or f"sqlite:///{self.folder / 'studies.db'}")

    @property
    def tracking_uri(self) -> str:
        return register_secret(self.tracking or self.settings.tracking or f"sqlite:///{self.folder / 'mlflow.db'}")

    def open_storage(self, *, create: bool) -> optuna.storages.RDBStorage:
        """Raises StudyError when there is none, or it cannot be opened."""
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
                return optuna.storages.RDBStorage(url, engine_kwargs={"connect_args": {"timeout": 60}})
            from acsearch.storage.leases import alone
            from acsearch.storage.retrying import RetryingStorage

            with alone(sqlalchemy.create_engine(url)):
                return RetryingStorage(url, engine_kwargs=_server_options(url))
        except ImportError as error:
            raise StudyError(f"--storage {name}: its driver is missing: {error}") from error
        except (sqlalchemy.exc.SQLAlchemyError, RuntimeError, ValueError, AssertionError) as error:
            raise StudyError(f"--storage {name}: not a study storage: {without_secrets(first_line(error))}") from error

    @property
    def on_one_machine(self) -> bool:
        """Whether the studies can be worked on from this machine alone."""
        return self.storage_url.startswith("sqlite")

    @property
    def environment(self) -> dict[str, str]:
        """What a process elsewhere must be told to find the same studies: addresses, which command lines would show."""
        from acsearch.config.settings import environment

        given = {"ACSEARCH_STORAGE": self.storage_url, "ACSEARCH_HOME": str(self.folder.absolute())}
        told = environment() | given
        return told if self.tracking is None else told | {"ACSEARCH_TRACKING": self.tracking}

    @property
    def lease_seconds(self) -> float:
        from acsearch.storage.leases import TERM

        return self.settings.lease_seconds or TERM

    @property
    def claim_timeout(self) -> float:
        """Seconds after which whoever holds a piece of work is alive."""
        return 0.0 if self.on_one_machine else 1.5 * self.lease_seconds

    def claims(self, study: str) -> Claims:
        """Who works on what in a study: locks beside an SQLite storage, leases in a database server."""
        file = sqlite_file(self.storage_url, "--storage", "studies")
        if file is not None:
            return FileClaims(lock_folder(file) / study)

        from acsearch.storage.leases import Leases

        return Leases(_engine(self.storage_url), study, self.lease_seconds)


@cache
def _engine(url: str) -> sqlalchemy.Engine:
    """One for all leases: a server has only so many connections."""
    import sqlalchemy

    return sqlalchemy.create_engine(url, **_server_options(url))


def _server_options(url: str) -> dict[str, Any]:
    """Of an engine for a database server: that it is gone is noticed, also where the network just falls silent."""
    options: dict[str, Any] = {"pool_pre_ping": True}
    if re.match(r"postgresql(\+psycopg2?)?:", url):  # those that go by libpq's names; without them it takes hours
        alive = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 20_000}
        options["connect_args"] = {"connect_timeout": 10} | alive
    return options
