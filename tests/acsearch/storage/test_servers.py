"""Servers that do not answer or refuse, and databases that another program holds: one line, soon."""

from __future__ import annotations

import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from acsearch.errors import StudyError
from acsearch.reporting.tracking_server import open_record
from acsearch.storage import servers, sqlite
from acsearch.storage.home import Home
from support.doctor import unused_address

pytestmark = pytest.mark.usefixtures("alone")
LIMIT = 15.0  # seconds that users are promised


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a server that accepts connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "LIMIT", 0.5)
    monkeypatch.setattr(sqlite, "TIMEOUT", 0.5)


def test_the_limits_are_within_what_is_promised() -> None:
    assert servers.LIMIT <= LIMIT - 5  # the rest is for imports
    assert sqlite.TIMEOUT <= LIMIT - 5


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("create", [True, False])
def test_a_storage_that_accepts_and_says_nothing_is_given_up(silent: str, create: bool) -> None:
    with pytest.raises(StudyError, match=f"--storage .*me@{silent}/db: no answer within 0.5 s; see whether it is up"):
        Home(f"postgresql+psycopg://me@{silent}/db").open_storage(create=create)


@pytest.mark.usefixtures("impatient")
def test_a_record_in_a_database_that_says_nothing_is_given_up(silent: str) -> None:
    with pytest.raises(StudyError, match=f"--tracking postgresql.psycopg://me@{silent}/db: no answer within 0.5 s"):
        open_record(Home(None, f"postgresql+psycopg://me@{silent}/db"), "s")


@pytest.mark.slow
@pytest.mark.parametrize("command", ["study list --storage", "study start law_v1 --tracking"])
def test_the_commands_end_within_the_limit(silent: str, command: str, tmp_path: Path) -> None:
    """What a user waits beyond an address that answers at once; on a machine that has much to do, at the third try."""

    def seconds(at: str) -> float:
        line = [sys.executable, "-m", "acsearch", *command.split(), f"postgresql+psycopg://me@{at}/db"]
        began = time.monotonic()
        done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        took = time.monotonic() - began
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert ("no answer" if at == silent else "refused") in done.stderr
        return took

    assert any(seconds(silent) - seconds(unused_address()) < LIMIT for _ in range(3))


def test_a_record_in_a_database_that_refuses_is_not_tried_for_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*arguments: object, **options: object) -> None:
        raise AssertionError("MLflow tries for minutes")

    monkeypatch.setattr("mlflow.MlflowClient", never)
    with pytest.raises(StudyError, match="--tracking postgresql.*refused"):
        open_record(Home(None, f"postgresql+psycopg://me@{unused_address()}/db"), "s")


@pytest.mark.parametrize(
    "url", ["mysql+pymysql://me@host/db", "mssql+pyodbc://me@host/db", "oracle://host", "duckdb://x"]
)
def test_other_databases_are_refused_with_what_is_supported(url: str) -> None:
    with pytest.raises(StudyError, match=r"give sqlite:///FILE, or postgresql\+psycopg://USER@HOST/DATABASE"):
        Home(url).open_storage(create=False)


@pytest.mark.parametrize("url", ["postgresql://me:a@b:c@host/db", "postgresql://host:port/db"])
def test_an_address_that_is_not_clear_is_refused_before_a_driver_quotes_it(url: str) -> None:
    with pytest.raises(
        StudyError, match=r"--storage postgresql://(me:)?\*\*\*(@host/db)?: not a URL that can be read: perc"
    ):
        Home(url).open_storage(create=False)


@pytest.mark.usefixtures("impatient")
def test_a_database_that_another_program_holds_is_said_to_be_locked(tmp_path: Path) -> None:
    home = Home(f"sqlite:///{tmp_path}/studies.db")
    home.open_storage(create=True)
    with closing(sqlite3.connect(tmp_path / "studies.db", isolation_level=None)) as other:
        other.execute("begin immediate")
        home.open_storage(create=False)  # which only reads
        for writes in ({"create": True}, {"create": False, "writes": True}):
            with pytest.raises(StudyError, match="studies.db: locked by another program, which has a transaction open"):
                home.open_storage(**writes)
        other.execute("commit")
        other.execute("begin exclusive")
        with pytest.raises(StudyError, match="studies.db: locked by another program"):
            home.open_storage(create=False)
