"""Open the MLflow record of a study on a tracking server or in a database."""

from __future__ import annotations

import http.client
import re
import sqlite3
import urllib.error
import urllib.request
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from acsearch.errors import StudyError
from acsearch.redaction import redact, without_secrets, without_userinfo
from acsearch.storage.home import Home
from acsearch.storage.servers import LIMIT, UNCLEAR, check_answers, within
from acsearch.storage.sqlite import create_database, sqlite_file, sqlite_url

if TYPE_CHECKING:
    from acsearch.reporting.mlflow_record import Record

_ARTIFACTS = "mlartifacts"  # the folder of files beside an SQLite database
_ADDRESSES = (  # what MLflow keeps the addresses of files in
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def open_record(home: Home, study: str) -> Record:
    """Open the MLflow record of a study.

    Args:
        home: Where studies and their records are.
        study: Name of the study.

    Raises:
        StudyError: the tracking server does not answer, or its store cannot be used.
    """
    uri, file = home.tracking_uri, sqlite_file(home.tracking_uri, "--tracking", "experiments")
    if file is None:
        _check_answers(uri)
    from acsearch.reporting.mlflow_record import Record  # importing MLflow takes seconds; the server may be away

    if file is None:
        return Record(uri, None, home.claims(study))
    if not file.exists():
        create_database(file, lambda fresh: Record(fresh, None, home.claims(study)))
    artifacts = file.parent / _ARTIFACTS
    record = Record(sqlite_url(file), artifacts, home.claims(study))
    _bring_along(file, artifacts.resolve().as_uri())
    return record


def _bring_along(file: Path, here: str) -> None:
    """Let the experiments of a database that was copied or moved have their files beside it.

    MLflow keeps whole addresses of files. Where they are left, a copy writes into the folder of the original.

    Args:
        file: MLflow's SQLite database.
        here: address of the folder of files beside it.

    Raises:
        StudyError: the database cannot be written.
    """
    made_elsewhere = "select distinct artifact_location from experiments where name like 'acsearch/%' and "
    made_elsewhere += "artifact_location like 'file:%/' || ? and artifact_location <> ?"
    try:
        with closing(sqlite3.connect(file, timeout=60)) as connection, connection:
            for (there,) in connection.execute(made_elsewhere, (_ARTIFACTS, here)).fetchall():
                for table, column in _ADDRESSES:
                    connection.execute(
                        f"update {table} set {column} = ? || substr({column}, length(?) + 1) "
                        f"where {column} = ? or substr({column}, 1, length(?) + 1) = ? || '/'",
                        (here, there, there, there, there),
                    )
    except sqlite3.Error as error:
        raise StudyError(f"{file}: was moved here, and its addresses of files cannot be changed: {error}") from error


def _check_answers(uri: str) -> None:
    """Raise StudyError when a server does not answer, because MLflow's own client tries for minutes."""
    if re.match("(postgresql|mysql|mssql)[+:]", uri):
        check_answers(uri, "--tracking")
        return
    try:
        is_clear = "://" not in uri or "@" not in uri or "@" in urlsplit(uri).netloc
    except ValueError:
        is_clear = False
    if not is_clear:
        raise StudyError(f"--tracking {redact(uri)}: {UNCLEAR}")
    if uri.startswith(("http://", "https://")):
        health = f"{without_userinfo(uri).rstrip('/')}/health"
        try:
            within(LIMIT, lambda: urllib.request.urlopen(health, timeout=LIMIT).close())
        except urllib.error.HTTPError:
            pass  # it answers; the client reports what is wrong
        except (OSError, ValueError, http.client.HTTPException) as error:
            reason = without_secrets(str(getattr(error, "reason", error)) or f"within {LIMIT:g} s")
            raise StudyError(f"--tracking {redact(uri)}: no answer: {reason}") from error
