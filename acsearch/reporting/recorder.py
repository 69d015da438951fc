"""The MLflow record is brought up to date as a study goes on, and a server that is away never stands in its way."""

from __future__ import annotations

from acsearch.errors import StudyError
from acsearch.redaction import without_secrets
from acsearch.reporting.mlflow_record import AWAY, Changes
from acsearch.reporting.tracking_server import open_record
from acsearch.runners.base import Artifacts
from acsearch.storage.home import Home
from acsearch.study.stored import StoredStudy
from trainers.errors import first_line


class Recorder:
    """Brings the record of a study up to date whenever it is called.

    Attributes:
        missing: why the last call could not; None when it could.
        changes: what the last call did to the record.
    """

    def __init__(self, home: Home, study: StoredStudy, artifacts: Artifacts) -> None:
        self._home, self._study, self._artifacts = home, study, artifacts
        self.missing: str | None = None
        self.changes = Changes()

    def __call__(self, *, with_figures: bool = False, thorough: bool = False) -> None:
        study, self.changes = self._study, Changes()
        study.snapshot()  # a damaged study is no matter of the record's
        try:
            record = open_record(self._home, study.name)  # asks first whether anybody answers: clients try for minutes
            runs = record.record(study.snapshot, self._artifacts, with_figures=with_figures, thorough=thorough)
            study.note_runs(runs)
            self.changes = record.changes
        except (StudyError, *AWAY) as error:
            self.missing = without_secrets(first_line(error))
        else:
            self.missing = None
