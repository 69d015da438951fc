"""Open the MLflow record of a study on a tracking server or in a database."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

from acsearch.errors import StudyError
from acsearch.redaction import redact, without_secrets, without_userinfo
from acsearch.storage.home import Home
from acsearch.storage.sqlite import create_database, sqlite_file

if TYPE_CHECKING:
    from acsearch.reporting.mlflow_record import Record


def open_record(home: Home, study: str) -> Record:
    """Open the MLflow record of a study.

    Args:
        home: Where studies and their records are.
        study: Name of the study.

    Raises:
        StudyError: the tracking server does not answer, or its store cannot be used.
    """
    uri, file = home.tracking_uri, sqlite_file(home.tracking_uri, "--tracking", "experiments")
    _check_answers(uri)
    from acsearch.reporting.mlflow_record import Record  # importing MLflow takes seconds; the server may be away

    if file is None:
        return Record(uri, None, home.claims(study))
    if not file.exists():
        create_database(file, lambda fresh: Record(fresh, None, home.claims(study)))
    return Record(f"sqlite:///{file.absolute()}", file.parent / "mlartifacts", home.claims(study))


def _check_answers(uri: str) -> None:
    """Raise StudyError when a tracking server does not answer, because MLflow's own client tries for minutes."""
    if uri.startswith(("http://", "https://")):
        try:
            urllib.request.urlopen(f"{without_userinfo(uri).rstrip('/')}/health", timeout=10).close()
        except urllib.error.HTTPError:
            pass  # it answers; the client reports what is wrong
        except (OSError, ValueError, http.client.HTTPException) as error:
            reason = without_secrets(str(getattr(error, "reason", error)))
            raise StudyError(f"--tracking {redact(uri)}: no answer: {reason}") from error
