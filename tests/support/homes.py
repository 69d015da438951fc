"""A cluster of its own for tests: a storage and a work folder that share nothing with another's."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from acsearch.config.study_file import load_study, update
from acsearch.runners.base import Observation
from acsearch.runners.recorded import RecordedRunner
from acsearch.storage.home import Home
from acsearch.study.start import start_study
from acsearch.study.stored import StoredStudy
from acsearch.study.study import Study

# environment variables of whoever runs the tests, which must not lead them elsewhere
SETTINGS = ("ACSEARCH_HOME", "ACSEARCH_STORAGE", "ACSEARCH_TRACKING", "ACSEARCH_WORK", "MLFLOW_TRACKING_URI")


class TempHome(Home):
    """A home in a folder of its own, whose studies are called s."""

    def __init__(self, folder: Path, storage: str | None = None) -> None:
        super().__init__(storage or f"sqlite:///{folder / 'studies.db'}", f"sqlite:///{folder / 'mlflow.db'}")
        object.__setattr__(self, "_folder", folder)

    @property
    def folder(self) -> Path:
        folder: Path = self._folder  # type: ignore[attr-defined]
        return folder

    def start(self, study: str = "law_v1", budget: int = 4, **changes: object) -> StoredStudy:
        config = load_study(study)
        config = replace(config, file=update(config.file, **changes))
        return start_study(self.open_storage(create=True), self.claims("s"), name="s", config=config, budget=budget)

    def study(self) -> StoredStudy:
        return StoredStudy.open(self.open_storage(create=False), self.claims("s"), "s")

    def content(self) -> tuple[list[str], dict[str, bytes]]:
        """All that is in the storage and in the files beside it."""
        database = self.folder / "studies.db"
        files = {path: path.read_bytes() for path in self.folder.rglob("*") if path.is_file() and path != database}
        kept = {str(path): content for path, content in files.items() if "locks" not in str(path)}
        if not database.exists():
            return [], kept
        with closing(sqlite3.connect(database)) as connection:
            return list(connection.iterdump()), kept


class Quiet:
    """Progress that nobody watches."""

    def report(self, text: str) -> None:
        pass

    def heartbeat(self) -> None:
        pass


def tell(study: StoredStudy, trial: int, observation: Observation) -> None:
    """A finetune of somebody else's is finished."""
    Study(study, RecordedRunner(study.table), lambda event: None)._tell(trial, observation)
