"""Opening the MLflow record, where its server or database is."""

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
    """The MLflow record of a study.

    Raises:
        StudyError: the tracking server does not answer, or its store cannot be used.
    """
    uri, file = home.tracking_uri, sqlite_file(home.tracking_uri, "--tracking", "experiments")
    _check_answers(uri)
    from acsearch.reporting.mlflow_record import Record  # only now: MLflow takes seconds, a server may not be there

    if file is None:
        return Record(uri, None, home.claims(study))
    if not file.exists():
        create_database(file, lambda fresh: Record(fresh, None, home.claims(study)))
    return Record(f"sqlite:///{file.absolute()}", file.parent / "mlartifacts", home.claims(study))


def _check_answers(uri: str) -> None:
    """Ask a tracking server whether it is there, since MLflow's own client tries for minutes."""
    if uri.startswith(("http://", "https://")):
        try:
            urllib.request.urlopen(f"{without_userinfo(uri).rstrip('/')}/health", timeout=10).close()
        except urllib.error.HTTPError:
            pass  # it answers; what it thinks of us, the client will hear
        except (OSError, ValueError, http.client.HTTPException) as error:
            reason = without_secrets(str(getattr(error, "reason", error)))
            raise StudyError(f"--tracking {redact(uri)}: no answer: {reason}") from error
