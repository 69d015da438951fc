"""The checks of `acsearch doctor` for services: the storage of studies, MLflow, and the work store.

Each check writes and reads a little, as a study does, and removes it again.
"""

from __future__ import annotations

import http.client
import os
import re
import socket
import sqlite3
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from email.utils import parsedate_to_datetime
from pathlib import Path
from statistics import median
from typing import Any

from acsearch.doctor.finding import Finding
from acsearch.errors import StudyError
from acsearch.redaction import redact, without_userinfo
from acsearch.storage.home import Home
from acsearch.storage.servers import check_answers, check_clear
from acsearch.storage.sqlite import sqlite_file
from trainers.errors import StoreError, first_line

_TIMEOUT = 5  # seconds that a server has to answer
_SLOW = 0.25  # seconds for a statement; a study makes hundreds
_CLOCK_SKEW = 30.0  # seconds between clocks; beyond, logs of several machines are hard to read
_S3_CLOCK_SKEW = 900.0  # seconds between clocks; beyond, S3 refuses signed requests
_MLFLOW_TIMEOUTS = {"MLFLOW_HTTP_REQUEST_TIMEOUT": str(_TIMEOUT), "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}


# -- storage -----------------------------------------------------------------------------------------------------------


def storage(home: Home) -> list[Finding]:
    """Whether the storage of studies can be read and written, and has the tables of the installed Optuna."""
    try:
        path = sqlite_file(home.storage_url, "--storage", "studies")
        if path is None:
            check_clear(home.storage_url, "--storage")
    except StudyError as error:
        return [Finding("storage", "fail", str(error), "give another address: --storage or ACSEARCH_STORAGE")]
    name = redact(home.storage_url) if path is None else str(path)
    if path is not None:
        if not path.exists():
            return [Finding("storage", "ok", f"{path}: SQLite {sqlite3.sqlite_version}, made by the first study")]
        if problem := _write_problem(path):
            return [Finding("storage", "fail", f"{path}: {problem}", "see who writes it, and whether you may")]
    import sqlalchemy

    options = {} if path else {"connect_args": {"connect_timeout": _TIMEOUT}}
    try:
        engine = sqlalchemy.create_engine(home.storage_url, poolclass=sqlalchemy.NullPool, **options)
        if engine.dialect.name not in ("sqlite", "postgresql"):
            todo = "use PostgreSQL: postgresql+psycopg://USER@HOST/DATABASE"
            return [Finding("storage", "fail", f"{name}: studies are kept in PostgreSQL or SQLite", todo)]
        with engine.connect() as connection:
            return _server(connection, name) if path is None else [_schema(connection, f"{name}: SQLite", name)]
    except ImportError as error:
        return [Finding("storage", "fail", f"{name}: {error}", "pip install 'acsearch[cluster]'")]
    except (sqlalchemy.exc.SQLAlchemyError, ValueError) as error:
        said = first_line(getattr(error, "orig", None) or error)
        return [Finding("storage", "fail", f"{name}: {said}", _database_advice(said))]


def _server(connection: Any, name: str) -> list[Finding]:
    """Check PostgreSQL: its version, speed and clock, the permission to create tables, and the tables of Optuna."""
    from sqlalchemy import text

    connection.execute(text(f"set statement_timeout = {1000 * _TIMEOUT}"))
    times = []
    for _ in range(5):
        began = time.perf_counter()
        now = float(connection.execute(text("select extract(epoch from clock_timestamp())")).scalar())
        times.append(time.perf_counter() - began)
    ahead = now - (time.time() - times[-1] / 2)
    connection.execute(text(f"create table acsearch_doctor_{uuid.uuid4().hex[:8]} (number integer)"))
    connection.rollback()  # which also removes the table
    version = connection.execute(text("show server_version")).scalar().split()[0]
    found = f"{name}: PostgreSQL {version}, {1000 * median(times):.1f} ms a statement"
    findings = [_schema(connection, found, name), _clock("database", ahead, _CLOCK_SKEW)]
    if median(times) > _SLOW:
        findings.append(Finding("storage", "warn", "it answers slowly", "work nearer to it, or see what keeps it busy"))
    return findings


def _schema(connection: Any, found: str, name: str) -> Finding:
    """Whether the tables are those of the installed version of Optuna."""
    import optuna
    from alembic.config import Config
    from alembic.script import ScriptDirectory
    from sqlalchemy import inspect, text

    if "alembic_version" not in (tables := inspect(connection).get_table_names()):
        return Finding("storage", "ok", f"{found}, empty: the first study makes its tables")
    if "studies" not in tables:
        todo = "give the studies a database of their own; MLflow needs another one"
        return Finding("storage", "fail", f"{found}, with the tables of something else", todo)
    config = Config()
    config.set_main_option("script_location", str(Path(optuna.__file__).parent / "storages/_rdb/alembic"))
    scripts = ScriptDirectory.from_config(config)
    theirs = connection.execute(text("select version_num from alembic_version")).scalar()
    found = f"{found}, tables {theirs}, Optuna {optuna.__version__}"
    if theirs == scripts.get_current_head():
        return Finding("storage", "ok", found)
    if theirs in {script.revision for script in scripts.walk_revisions()}:
        todo = f"while nobody works with it: optuna storage upgrade --storage {name}"
        return Finding("storage", "fail", f"{found}: made by an older Optuna", todo)
    return Finding("storage", "fail", f"{found}: made by a newer Optuna", "install that Optuna here")


def _database_advice(said: str) -> str:
    """What to do, by the words of the error message, because psycopg has no codes for failed connections."""
    known = {
        "password": "check the user and the password: in the URL, PGPASSWORD or ~/.pgpass",
        "does not exist": "make what is missing (createdb, createuser), or fix --storage or ACSEARCH_STORAGE",
        "refused": "start the server, or fix host and port in --storage or ACSEARCH_STORAGE",
        "resolve": "fix the host in --storage or ACSEARCH_STORAGE",
        "timeout": "see whether the server is up, and whether a firewall is between",
        "permission denied": "let this user make tables: GRANT CREATE ON SCHEMA public TO ...",
    }
    return next((todo for words, todo in known.items() if words in said), "fix --storage or ACSEARCH_STORAGE")


def _write_problem(path: Path) -> str:
    """Why an SQLite database cannot be written; empty where it can."""
    try:
        with closing(sqlite3.connect(path, timeout=_TIMEOUT, isolation_level=None)) as connection:
            connection.execute("begin immediate")
            connection.execute("rollback")
    except sqlite3.Error as error:
        return first_line(error)
    return "" if os.access(path, os.W_OK) else "not yours to write"


def _clock(whose: str, ahead: float, most: float) -> Finding:
    found = f"{whose}: {abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} ours"
    bad, odd = abs(ahead) > most and most == _S3_CLOCK_SKEW, abs(ahead) > _CLOCK_SKEW
    todo = "set the clocks (chrony or ntpd)"
    return Finding("clock", "fail" if bad else "warn" if odd else "ok", found, todo if bad or odd else "")


# -- MLflow ------------------------------------------------------------------------------------------------------------


def tracking(home: Home) -> list[Finding]:
    """Whether MLflow answers, has a compatible version, and takes a run with an artifact."""
    uri = home.tracking_uri
    try:
        path = sqlite_file(uri, "--tracking", "experiments")
    except StudyError as error:
        return [Finding("MLflow", "fail", str(error), "name another file: --tracking or MLFLOW_TRACKING_URI")]
    import mlflow

    name = redact(uri) if path is None else str(path)
    if path is not None:
        if not path.exists():
            return [Finding("MLflow", "ok", f"{path}: MLflow {mlflow.__version__}, made by the first study")]
        if problem := _write_problem(path):
            return [Finding("MLflow", "fail", f"{path}: {problem}", "see who writes it, and whether you may")]
    version = ""
    if re.match("(postgresql|mysql|mssql)[+:]", uri):
        try:
            check_answers(uri, "--tracking")
        except StudyError as error:
            return [Finding("MLflow", "fail", str(error), _tracking_advice(str(error)))]
    if uri.startswith(("http://", "https://")):
        status, said = _get(f"{uri.rstrip('/')}/health")
        if status == 0:
            todo = "start the server, or fix --tracking or MLFLOW_TRACKING_URI"
            return [Finding("MLflow", "fail", f"{name}: {said}", todo)]
        version = _get(f"{uri.rstrip('/')}/version")[1]
        if status == 404 or (status == 200 and (said != "OK" or not version[:1].isdigit())):
            todo = "something else listens there: fix --tracking or MLFLOW_TRACKING_URI"
            return [Finding("MLflow", "fail", f"{name}: no MLflow server (status {status})", todo)]
    try:
        with _short_timeouts():
            _probe_tracking(uri, writes=path is None)
    except Exception as error:  # MLflow's client lets through any exception of its stores
        return [Finding("MLflow", "fail", f"{name}: {first_line(error)}", _tracking_advice(str(error)))]
    found = f"{name}: MLflow {version or mlflow.__version__}"
    if version and version.split(".")[0] != mlflow.__version__.split(".")[0]:
        todo = "install the same major version on both sides"
        return [Finding("MLflow", "warn", f"{found}, and {mlflow.__version__} here", todo)]
    return [Finding("MLflow", "ok", found + (f", {mlflow.__version__} here" if version else ""))]


def _probe_tracking(uri: str, *, writes: bool) -> None:
    """Write and delete a run with an artifact, in an experiment of this machine. MLflow keeps its name in its trash."""
    from mlflow import MlflowClient
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    client = MlflowClient(tracking_uri=uri)
    if not writes:
        client.search_experiments(max_results=1)
        return
    name = f"acsearch-doctor/{socket.gethostname()}"
    known = client.get_experiment_by_name(name)
    if known is None:
        experiment = client.create_experiment(name)
    else:
        experiment = known.experiment_id
        if known.lifecycle_stage == "deleted":
            client.restore_experiment(experiment)
    try:
        run = client.create_run(experiment)
        try:
            client.log_text(run.info.run_id, "acsearch", "probe.txt")
            artifacts: Any = get_artifact_repository(run.info.artifact_uri, uri)
            artifacts.delete_artifacts()
        finally:
            client.delete_run(run.info.run_id)
    finally:
        client.delete_experiment(experiment)


def _tracking_advice(said: str) -> str:
    known = {
        "401": "check MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN",
        "403": "let this user make experiments; see also the server's --allowed-hosts",
        "schema": "while nobody works with it: mlflow db upgrade",
        "refused": "start the server, or fix --tracking or MLFLOW_TRACKING_URI",
        "no answer": "start the server, or fix --tracking or MLFLOW_TRACKING_URI",
        "password": "check the user and the password in the address",
    }
    return next((todo for word, todo in known.items() if word in said), "see the server's log")


@contextmanager
def _short_timeouts() -> Iterator[None]:
    """Let MLflow's client give up early, instead of trying for minutes."""
    before = {name: os.environ.get(name) for name in _MLFLOW_TIMEOUTS}
    os.environ.update(_MLFLOW_TIMEOUTS)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _get(address: str) -> tuple[int, str]:
    """Status and text of a page; 0 and the reason where there is no answer."""
    try:
        with urllib.request.urlopen(without_userinfo(address), timeout=_TIMEOUT) as page:
            return page.status, page.read(1000).decode("utf-8", "replace").strip()
    except urllib.error.HTTPError as error:
        error.close()
        return error.code, ""
    except (OSError, ValueError, http.client.HTTPException) as error:
        return 0, f"no answer: {first_line(getattr(error, 'reason', None) or error)}"


# -- work store --------------------------------------------------------------------------------------------------------


def store(home: Home) -> list[Finding]:
    """Whether an object can be written to the work store, read, listed and deleted, and its clock is right."""
    if home.store is None:
        return [Finding("work store", "ok", "none: the work folder stays on this machine")]
    from trainers.checkpoints.object_store import Remote, open_address

    short = {"connect_timeout": _TIMEOUT, "read_timeout": _TIMEOUT, "retries": {"total_max_attempts": 1}}
    on_s3 = home.store.startswith(("s3://", "s3a://"))
    try:
        system, base = open_address(home.store, **({"config_kwargs": short} if on_s3 else {}))
    except StoreError as error:
        todo = "fix ACSEARCH_WORK; for S3, pip install 'acsearch[cluster]'"
        return [Finding("work store", "fail", str(error), todo)]
    system.retries = 1  # an attribute of s3fs
    findings = []
    if on_s3:
        system.connect()
        endpoint = system.s3.meta.endpoint_url
        try:
            ahead = _clock_ahead(endpoint)
        except (OSError, http.client.HTTPException) as error:
            said = first_line(getattr(error, "reason", None) or error)
            todo = "start the server, or fix AWS_ENDPOINT_URL"
            return [Finding("work store", "fail", f"{home.store}: no answer from {redact(endpoint)}: {said}", todo)]
        findings = [] if ahead is None else [_clock("S3", ahead, _S3_CLOCK_SKEW)]
    name, probe = f".acsearch-doctor-{uuid.uuid4().hex[:8]}", b"acsearch"
    try:
        began = time.perf_counter()
        system.pipe_file(f"{base}/{name}", probe)
        took = time.perf_counter() - began
        try:
            read = system.cat_file(f"{base}/{name}")
            listed = any(path.endswith(name) for path in system.ls(base, detail=False))
        finally:
            system.rm_file(f"{base}/{name}")
        if read != probe or not listed or system.exists(f"{base}/{name}"):
            todo = "acsearch needs a store that at once shows what was written to it"
            findings.insert(0, Finding("work store", "fail", f"{home.store}: it forgets or mixes up objects", todo))
        else:
            found = f"{home.store}: written, read, listed and deleted; {1000 * took:.0f} ms a write"
            findings.insert(0, Finding("work store", "ok", found))
    except Exception as error:  # each file system has exceptions of its own
        advice = Remote(home.store).advice(error) or first_line(error)
        todo = "fix what it names; see also AWS_ENDPOINT_URL and AWS_DEFAULT_REGION" if on_s3 else "fix ACSEARCH_WORK"
        findings.insert(0, Finding("work store", "fail", f"{home.store}: {advice}", todo))
    return findings


def _clock_ahead(address: str) -> float | None:
    """Seconds by which the clock of a web server is ahead, from the header of any answer, which has whole seconds."""
    began = time.time()
    try:
        page = urllib.request.urlopen(address, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        page = error
    with page:
        date = page.headers["Date"]
    return None if date is None else parsedate_to_datetime(date).timestamp() + 0.5 - (began + time.time()) / 2
