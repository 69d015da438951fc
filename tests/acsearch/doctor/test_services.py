"""The doctor's look at servers that are not there, say nothing, or are something else."""

from __future__ import annotations

import http.server
import socket
import threading
from pathlib import Path

import pytest
import sqlalchemy

from acsearch.doctor import services as doctor_services
from acsearch.doctor.services import storage, store, tracking
from acsearch.storage.home import Home
from support.doctor import assert_one_failure, finding_about, set_variables, unused_address

pytestmark = pytest.mark.usefixtures("alone")


def test_nothing_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at = unused_address()
    set_variables(monkeypatch, AWS_ENDPOINT_URL=f"http://{at}", AWS_ACCESS_KEY_ID="a", AWS_SECRET_ACCESS_KEY="b")
    set_variables(monkeypatch, ACSEARCH_WORK="s3://bucket/work")
    home = Home(f"postgresql+psycopg://me@{at}/db", f"http://{at}")
    assert_one_failure(storage(home), "refused", "start the server")
    assert_one_failure(tracking(home), "refused", "start the server")
    assert_one_failure(store(home), "refused", "start the server")


def test_somebody_listens_and_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(20)
        at = f"127.0.0.1:{silent.getsockname()[1]}"
        set_variables(monkeypatch, AWS_ENDPOINT_URL=f"http://{at}", AWS_ACCESS_KEY_ID="a", AWS_SECRET_ACCESS_KEY="b")
        set_variables(monkeypatch, ACSEARCH_WORK="s3://bucket/work")
        monkeypatch.setattr(doctor_services, "_TIMEOUT", 2)
        home = Home(f"postgresql+psycopg://me@{at}/db", f"http://{at}")
        assert_one_failure(storage(home), "timeout", "firewall")
        assert_one_failure(tracking(home), "timed out", "start the server")
        assert_one_failure(store(home), "timed out", "start the server")


def test_a_record_in_a_database_that_refuses() -> None:
    found = tracking(Home(None, f"postgresql+psycopg://me@{unused_address()}/db"))
    assert_one_failure(found, "refused", "start the server")


def test_an_address_that_is_not_clear_is_not_quoted() -> None:
    found = storage(Home("postgresql+psycopg://me:Sec@ret:word@host/db"))
    assert_one_failure(found, "postgresql+psycopg://me:***@host/db: not a URL that can be read", "another address")
    assert "word" not in found[0].found.replace("password", "")


def test_tables_of_another_optuna(tmp_path: Path) -> None:
    home = Home(f"sqlite:///{tmp_path}/studies.db")
    home.open_storage(create=True)
    assert finding_about(storage(home), "storage").state == "ok"
    engine = sqlalchemy.create_engine(home.storage_url)
    for version, says, todo in (("v2.4.0.a", "older Optuna", "storage upgrade"), ("v9", "newer Optuna", "install")):
        with engine.begin() as connection:
            connection.execute(sqlalchemy.text(f"update alembic_version set version_num = '{version}'"))
        assert_one_failure(storage(home), says, todo)


def test_something_else_listens_where_mlflow_should() -> None:
    class Other(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>a wiki</html>")

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Other) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        found = tracking(Home(None, f"http://127.0.0.1:{server.server_address[1]}"))
        server.shutdown()
    assert_one_failure(found, "no MLflow server", "something else listens")
