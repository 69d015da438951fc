"""A throw-away PostgreSQL server on a port of its own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy

from support import debian
from support.ports import free_port


def programs() -> Path:
    """The folder of the server's programs, installed from Debian if it has to be."""
    for attempt in (1, 2):
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
        if found:
            return found[-1].parent
        if attempt == 1:
            debian.install("postgresql")
    pytest.skip("needs PostgreSQL: as root on Debian the test installs it, elsewhere install the package postgresql")


class Server:
    """PostgreSQL with its data in a folder of its own. url: for SQLAlchemy, without a database at the end."""

    def __init__(self, folder: Path) -> None:
        self._bin, self._log = programs(), folder / "postgres.log"
        self.data, self._as_user = folder, list[str]()
        if os.geteuid() == 0:  # it refuses to be run by root, and its own user may not look into our folders
            self.data = Path(tempfile.mkdtemp(prefix="acsearch-postgres-"))
            shutil.chown(self.data, "postgres", "postgres")
            self._as_user = ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups"]
        self._port = str(free_port())
        self.url = f"postgresql+psycopg://acsearch@127.0.0.1:{self._port}"
        make = ["-D", f"{self.data}/data", "-U", "acsearch", "--auth=trust", "--no-sync", "-E", "UTF8"]
        command = [*self._as_user, self._bin / "initdb", *make]
        subprocess.run(command, check=True, capture_output=True, cwd=self.data)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        run = ["-D", f"{self.data}/data", "-p", self._port, "-k", self.data, "-h", "127.0.0.1", "-c", "fsync=off"]
        ready = [str(self._bin / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", self._port]
        deadline = time.monotonic() + 60
        while True:
            with self._log.open("a") as log:
                command = [*self._as_user, self._bin / "postgres", *run]
                self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.data)
            while self._process.poll() is None:
                if subprocess.run(ready).returncode == 0:
                    return
                time.sleep(0.05)
            assert time.monotonic() < deadline, self._log.read_text()  # processes of one that was killed still end

    def kill(self) -> None:
        """-9: a crash, and nobody answers."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)  # at once; SIGTERM would wait for its clients
            self._process.wait()


@contextmanager
def running(folder: Path) -> Iterator[Server]:
    made = Server(folder)
    try:
        made.start()
        yield made
    finally:
        made.stop()
        if made.data != folder:
            shutil.rmtree(made.data)


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """The URL of one that is left alone."""
    with running(folder) as made:
        yield made.url


def database(server: str, name: str) -> str:
    """A new database's URL, in place of an older one of this name."""
    engine = sqlalchemy.create_engine(f"{server}/postgres", isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text(f"drop database if exists {name} with (force)"))
        connection.execute(sqlalchemy.text(f"create database {name}"))
    engine.dispose()
    return f"{server}/{name}"
