"""Where the studies of a round live: on one machine, or on two that share PostgreSQL, S3 and an MLflow server."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy

from acsearch.reporting.tracking_server import open_record
from acsearch.storage.home import Home
from support import mlflow_server, postgres, s3, tiny
from support.fork_server import Forks

BUDGET = 2
_LEASE = "3"  # seconds
_STARTED = "-- started --"  # in a controller's log


@dataclass
class Services:
    """Killed by name: postgresql, s3, mlflow."""

    database: postgres.Server
    bucket: s3.Server
    record: mlflow_server.Server
    back: dict[str, threading.Thread] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)

    def kill(self, name: str, away: float) -> None:
        """-9, and back after some seconds."""
        server: Any = {"postgresql": self.database, "s3": self.bucket, "mlflow": self.record}[name]
        server.kill()

        def start() -> None:
            try:
                server.start()
            except AssertionError as error:
                self.lost.append(f"{name} did not come back: {error}")

        self.back[name] = threading.Timer(away, start)
        self.back[name].start()

    def up(self, *names: str) -> None:
        """Wait for these that were killed, or for all."""
        for name in names or [*self.back]:
            if name in self.back:
                self.back.pop(name).join()


@dataclass(frozen=True)
class Place:
    """homes: of the machines; their number is that of controllers, or one home has several."""

    name: str
    study: Path
    folder: Path
    homes: tuple[Path, ...]
    environment: dict[str, str]
    storage: str
    tracking: str
    forks: Forks
    services: Services | None = None

    @property
    def pids(self) -> Path:
        return self.folder / "pids"

    def log(self, number: int) -> Path:
        return self.folder / f"controller-{number}.log"

    def controller(self, number: int, budget: int = BUDGET) -> subprocess.Popen[bytes]:
        with self.log(number).open("a", encoding="utf-8") as log:
            log.write(f"{_STARTED}\n")
        start = ["study", "start", str(self.study), "--name", self.name, "--budget", str(budget), "--resume"]
        return self.command(number, *start)

    def begun(self, number: int) -> bool:
        """Whether a controller has found its servers and read the study, since it was last started."""
        return f"Study {self.name}:" in self.log(number).read_text(encoding="utf-8").rpartition(_STARTED)[2]

    def command(self, number: int, *arguments: str) -> subprocess.Popen[bytes]:
        environment = self.environment | {"ACSEARCH_HOME": str(self.homes[number % len(self.homes)])}
        return self.forks.start(environment, self.log(number), "acsearch", *arguments)

    @property
    def home(self) -> Home:
        return Home(storage=self.storage, tracking=self.tracking)


class World:
    """What all rounds share: imported programs, studies, empty databases, servers."""

    def __init__(self, folder: Path, forks: Forks) -> None:
        self.folder, self.forks = folder, forks
        self._stack = ExitStack()
        self._services: Services | None = None
        for name, more in (("alone", ""), ("torchrun", "  processes: 2\n")):
            study = folder / "studies" / name
            study.mkdir(parents=True)
            tiny.llm(study / "llm")
            tiny.encoders(study)
            (study / "study.yaml").write_text(tiny.STUDY + more)
        self._databases = {name: folder / f"{name}.db" for name in ("studies", "mlflow")}
        home = Home(*(f"sqlite:///{self._databases[name]}" for name in ("studies", "mlflow")))
        home.open_storage(create=True).engine.dispose()
        open_record(home, "none")

    def place(self, kind: str, name: str) -> Place:
        """For a round, or for its undisturbed twin. kind: see `rounds.KINDS`."""
        folder = self.folder / name
        for part in ("pids", "tmp"):
            (folder / part).mkdir(parents=True)
        study = self.folder / "studies" / ("torchrun" if kind == "torchrun" else "alone")
        environment = {"FORKS_PIDS": str(folder / "pids"), "TMPDIR": str(folder / "tmp"), "PYTHONHASHSEED": "0"}
        make = partial(Place, name=name, study=study, folder=folder, forks=self.forks)
        if kind == "servers":
            services = self.services()
            _query(services, f"create database {name.replace('-', '_')}")
            storage = f"{services.database.url}/{name.replace('-', '_')}"
            told = {
                "ACSEARCH_STORAGE": storage,
                "MLFLOW_TRACKING_URI": services.record.url,
                "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
                "ACSEARCH_WORK": f"s3://{s3.BUCKET}/{name}",
                "ACSEARCH_LEASE_SECONDS": _LEASE,
            }
            return make(
                homes=(folder / "one", folder / "two"),
                environment=environment | services.bucket.environment | told,
                storage=storage,
                tracking=services.record.url,
                services=services,
            )
        home = folder / "home"
        home.mkdir()
        for database in self._databases.values():  # empty; making them takes as long as the study
            (home / database.name).write_bytes(database.read_bytes())
        storage, tracking = (f"sqlite:///{home / database.name}" for database in self._databases.values())
        return make(homes=(home,), environment=environment, storage=storage, tracking=tracking)

    def services(self) -> Services:
        if self._services is None:
            folder = self.folder / "servers"
            (folder / "s3").mkdir(parents=True)
            database = self._stack.enter_context(postgres.running(folder))
            bucket = self._stack.enter_context(s3.server(folder / "s3"))
            empty = Services(database, bucket, mlflow_server.Server(folder, f"{database.url}/mlflow", bucket))
            _query(empty, "create database mlflow")
            self._stack.callback(empty.record.kill)
            empty.record.start()
            self._services = empty
        return self._services

    def close(self) -> None:
        if self._services is not None:
            self._services.up()
        self._stack.close()


@contextmanager
def world(folder: Path, forks: Forks) -> Iterator[World]:
    made = World(folder, forks)
    try:
        yield made
    finally:
        made.close()


def _query(services: Services, statement: str) -> None:
    engine = sqlalchemy.create_engine(f"{services.database.url}/postgres", isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text(statement))
    engine.dispose()
