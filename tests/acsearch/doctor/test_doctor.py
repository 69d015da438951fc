"""The settings, the secrets in them, and the doctor, on real servers: all right first, then each thing wrong."""

from __future__ import annotations

import http.server
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import sqlalchemy

from acsearch.config import settings
from acsearch.doctor import services as doctor_services
from acsearch.doctor.examine import examine
from acsearch.doctor.finding import Finding, within
from acsearch.doctor.machine import folder
from acsearch.doctor.services import storage, store, tracking
from acsearch.redaction import redact, without_secrets
from acsearch.storage.home import Home
from support import ROOT, mlflow_server, postgres, s3
from trainers.errors import ConfigError

SECRET = "Recognisable/S3cret"  # the slash has to be encoded in addresses, where it may also be forgotten
ENCODED = SECRET.replace("/", "%2F")
VARIABLES = ("ACSEARCH_", "MLFLOW_", "AWS_", "PG")


@dataclass(frozen=True)
class Team:
    """Servers of a team. database: a URL without a password, which is needed."""

    database: str
    bucket: s3.Server
    mlflow: str

    @property
    def with_password(self) -> str:
        return self.database.replace("guarded@", f"guarded:{ENCODED}@")


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    folder = tmp_path_factory.mktemp("team")
    with postgres.server(folder) as server, s3.server(tmp_path_factory.mktemp("s3")) as bucket:
        engine = sqlalchemy.create_engine(f"{server}/postgres", isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            (access,) = connection.execute(sqlalchemy.text("show hba_file")).one()
            connection.execute(sqlalchemy.text(f"create role guarded login password '{SECRET}'"))
            connection.execute(sqlalchemy.text("create role mlflow login"))
            for owner in ("guarded", "mlflow"):
                connection.execute(sqlalchemy.text(f"create database {owner} owner {owner}"))
            rules = Path(access).read_text()
            Path(access).write_text(f"host all guarded 127.0.0.1/32 scram-sha-256\n{rules}")
            connection.execute(sqlalchemy.text("select pg_reload_conf()"))
        at = server.split("@")[1]
        with mlflow_server.server(folder, f"postgresql+psycopg://mlflow@{at}/mlflow", bucket) as mlflow:
            yield Team(f"postgresql+psycopg://guarded@{at}/guarded", bucket, mlflow.url)


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an empty folder, with nothing set."""
    for name in os.environ:
        if name.startswith(VARIABLES):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    settings.read.cache_clear()


def given(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    for name, value in values.items():
        monkeypatch.setenv(name, value)


def doctor(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "acsearch", "doctor", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def the(findings: list[Finding], what: str) -> Finding:
    (found,) = (one for one in findings if one.what == what)
    return found


def is_wrong(findings: list[Finding], says: str, todo: str) -> None:
    """One thing is, and it says this and to do this."""
    (wrong,) = (one for one in findings if one.state == "fail")
    assert says in wrong.found
    assert todo in wrong.todo


def nobody() -> str:
    """An address where nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


# -- settings ----------------------------------------------------------------------------------------------------------


def test_options_count_before_variables_before_the_file_before_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Home().storage_url == "sqlite:///acsearch-runs/studies.db"
    (tmp_path / "acsearch.toml").write_text('home = "filed"\ntracking = "http://filed"\nlease_seconds = 7\n')
    assert (Home().folder, Home().tracking_uri, Home().lease_seconds) == (Path("filed"), "http://filed", 7.0)
    given(monkeypatch, MLFLOW_TRACKING_URI="http://mlflow", ACSEARCH_HOME="variable", ACSEARCH_STORAGE="")
    assert Home().storage_url == "sqlite:///variable/studies.db"  # what is empty is not set
    assert Home().tracking_uri == "http://mlflow"
    given(monkeypatch, ACSEARCH_TRACKING="http://variable")
    assert Home().tracking_uri == "http://variable"
    assert Home(tracking="http://option").tracking_uri == "http://option"
    given(monkeypatch, **Home(tracking="http://option").environment)  # as jobs are told
    (tmp_path / "acsearch.toml").unlink()
    assert (Home().tracking_uri, Home().lease_seconds, Home().folder) == ("http://option", 7.0, tmp_path / "variable")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("stroage = 'x'", "unknown key 'stroage'; did you mean 'storage'?"),
        ("[acsearch]\nhome = 'x'", "unknown key 'acsearch'; known: home, storage,"),
        ("lease_seconds = '60'", "lease_seconds: Input should be a valid number"),
        ("lease_seconds = 0", "lease_seconds: Input should be greater than 0"),
        (f"storage = ['postgresql://me:{SECRET}@host/db']", "storage: Input should be a valid string"),
        (f"work = 's3://key:{SECRET}@bucket'", "work: no credentials in the address"),
        ("home = x", "not TOML"),
    ],
)
def test_a_bad_file(text: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.toml").write_text(text)
    given(monkeypatch, ACSEARCH_SETTINGS="mine.toml")
    with pytest.raises(ConfigError) as caught:
        settings.settings()
    assert str(caught.value).startswith(f"{tmp_path}/mine.toml: ")
    assert says in str(caught.value)
    assert SECRET not in f"{caught.value} {caught.value.__cause__}"


def test_bad_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, ACSEARCH_LEASE_SECONDS="soon")
    with pytest.raises(ConfigError, match=r"^\$ACSEARCH_LEASE_SECONDS: "):
        Home().lease_seconds  # noqa: B018
    given(monkeypatch, ACSEARCH_SETTINGS="nowhere.toml")
    with pytest.raises(ConfigError, match="no file nowhere.toml"):
        settings.settings()


# -- secrets -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        f"postgresql+psycopg://me:{ENCODED}@host:5432/db",
        f"at postgresql://me:{SECRET}@host/db: no",
        f"http://me:a@{SECRET}@host/",
        f"http://{ENCODED}@host/",
        f"postgresql://host/db?user=me&password={ENCODED}",
    ],
)
def test_addresses_are_shown_without_what_is_secret(text: str) -> None:
    assert "cret" not in redact(text)
    assert "host" in redact(text)
    assert redact("s3://bucket/clip@336 http://host:5000/x") == "s3://bucket/clip@336 http://host:5000/x"


def test_what_drivers_quote_alone_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, AWS_SECRET_ACCESS_KEY="Amazon/S3cret", ACSEARCH_STORAGE=f"postgresql://me:{ENCODED}@host/db")
    assert Home().storage_url.endswith(f"{ENCODED}@host/db")
    said = without_secrets(f"bad {SECRET}, bad {ENCODED}, key='Amazon/S3cret'")
    assert said == "bad ***, bad ***, key='***'"


@pytest.mark.parametrize("right", [True, False], ids=["right", "refused"])
def test_a_study_leaves_its_secrets_nowhere(
    right: bool, team: Team, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither in what it prints nor in any file, nor in MLflow's database or artifacts."""
    tracking = urlsplit(team.mlflow if right else f"http://{nobody()}")
    given(monkeypatch, **team.bucket.environment, PGPASSWORD=f"{SECRET}PG", MLFLOW_TRACKING_TOKEN=f"{SECRET}ML")
    given(monkeypatch, PYTHONPATH=str(ROOT), ACSEARCH_TRACKING=f"http://me:{ENCODED}@{tracking.netloc}")
    (tmp_path / "acsearch.toml").write_text(f'storage = "{team.with_password}"\n')

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "acsearch", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=300)

    said = []
    if right:
        said.append(run("study", "start", "law_v1", "--budget", "2"))
        assert said[0].returncode == 0, said[0].stderr
        said += [run("study", verb, "law_v1") for verb in ("report",)]
        assert [one.returncode for one in said] == [0] * 2, [one.stderr for one in said]
        assert f"http://me:***@{tracking.netloc}" in said[0].stdout
    else:
        wrong = team.with_password.replace(ENCODED, f"{ENCODED}x")
        said.append(run("study", "start", "law_v1", "--name", "refused"))
        said.append(run("--debug", "study", "list", "--storage", wrong))
        said.append(run("study", "list", "--storage", wrong.replace("%2F", "/")))  # somebody forgot
        said.append(run("study", "list", "--storage", wrong.removeprefix("postgresql+psycopg://")))
        assert [one.returncode for one in said] == [1] * 4
        assert "--tracking http://me:***@127.0.0.1" in said[0].stderr
        assert "Traceback" in said[1].stderr
        assert all("password authentication failed" in one.stderr for one in said[1:3])
        assert "--storage (not a URL)" in said[3].stderr
    said.append(run("doctor", "--json"))
    assert said[-1].returncode == 1 - right, said[-1].stdout
    texts = {f"output of {one.args[3:]}": (one.stdout + one.stderr).encode() for one in said}
    (tmp_path / "acsearch.toml").unlink()
    texts |= {str(path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    server = team.with_password.split("@")[1].split("/")[0]
    dump = [str(postgres.programs() / "pg_dump"), "--inserts", "-h", "127.0.0.1", "-p", server.split(":")[1], "-U"]
    for database in ("guarded", "mlflow"):
        done = subprocess.run([*dump, "acsearch", database], capture_output=True, check=True)
        texts[f"database {database}"] = done.stdout
    client = team.bucket.client()
    for one in client.list_objects_v2(Bucket=s3.BUCKET).get("Contents", ()):
        texts[one["Key"]] = client.get_object(Bucket=s3.BUCKET, Key=one["Key"])["Body"].read()
    if right:
        assert json.loads(said[-1].stdout)["ok"]
        assert b"law_v1" in texts["database mlflow"]
        assert any(key.endswith(".html") for key in texts)
        assert any(key.endswith("recommendation.csv") for key in texts)
    secrets = [SECRET, ENCODED, "Recognisable", s3.SECRET]
    assert [key for key, text in texts.items() if any(secret.encode() in text for secret in secrets)] == []


# -- the doctor --------------------------------------------------------------------------------------------------------


def test_the_default_setup_is_all_right_and_stays_as_it_was(tmp_path: Path) -> None:
    done = doctor()
    assert done.returncode == 0, done.stdout
    lines = [line for line in done.stdout.split("\nWhat to do:")[0].splitlines() if line]
    whats = ["settings", "home", "storage", "MLflow", "work store", "python", "packages", "torch", "GPU", "Slurm"]
    assert [line[2:14].strip() for line in lines] == whats
    assert {line[0] for line in lines[:8]} == {"✓"}
    assert not list(tmp_path.iterdir())


def test_all_is_right(team: Team, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, **team.bucket.environment, ACSEARCH_WORK=f"s3://{s3.BUCKET}/work", PGPASSWORD=SECRET)
    before = {one["Key"] for one in team.bucket.client().list_objects_v2(Bucket=s3.BUCKET).get("Contents", ())}
    home = Home(team.database, team.mlflow)
    findings = examine(home) + examine(home)  # the second finds what the first left in MLflow's trash
    assert [one for one in findings if one.state == "fail"] == []
    found = {one.what: one.found for one in findings}
    assert "PostgreSQL" in found["storage"]
    assert "ahead of ours" in found["clock"] or "behind ours" in found["clock"]
    assert "MLflow 3." in found["MLflow"]
    assert "written, read, listed and deleted" in found["work store"]
    assert {one["Key"] for one in team.bucket.client().list_objects_v2(Bucket=s3.BUCKET).get("Contents", ())} == before
    engine = sqlalchemy.create_engine(team.with_password)
    assert not [name for name in sqlalchemy.inspect(engine).get_table_names() if "doctor" in name]


def test_nothing_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at = nobody()
    given(monkeypatch, AWS_ENDPOINT_URL=f"http://{at}", AWS_ACCESS_KEY_ID="a", AWS_SECRET_ACCESS_KEY="b")
    given(monkeypatch, ACSEARCH_WORK="s3://bucket/work")
    home = Home(f"postgresql+psycopg://me@{at}/db", f"http://{at}")
    is_wrong(storage(home), "refused", "start the server")
    is_wrong(tracking(home), "refused", "start the server")
    is_wrong(store(home), "refused", "start the server")


def test_somebody_listens_and_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(20)
        at = f"127.0.0.1:{silent.getsockname()[1]}"
        given(monkeypatch, AWS_ENDPOINT_URL=f"http://{at}", AWS_ACCESS_KEY_ID="a", AWS_SECRET_ACCESS_KEY="b")
        given(monkeypatch, ACSEARCH_WORK="s3://bucket/work")
        monkeypatch.setattr(doctor_services, "_TIMEOUT", 2)
        home = Home(f"postgresql+psycopg://me@{at}/db", f"http://{at}")
        is_wrong(storage(home), "timeout", "firewall")
        is_wrong(tracking(home), "timed out", "start the server")
        is_wrong(store(home), "timed out", "start the server")


def test_a_check_that_hangs_is_given_up() -> None:
    def hang(home: Home) -> list[Finding]:
        threading.Event().wait()
        return []

    is_wrong(within(0.1, "it", hang, Home()), "no answer within 0.1 s", "")


def test_the_database_refuses(team: Team) -> None:
    wrong = team.with_password.replace(ENCODED, "guess")
    is_wrong(storage(Home(wrong)), "password authentication failed", "PGPASSWORD")
    is_wrong(storage(Home(f"{team.with_password}_not")), "does not exist", "createdb")
    at = team.database.split("@")[1].split("/")[0]
    is_wrong(storage(Home(f"postgresql+psycopg://mlflow@{at}/mlflow")), "tables of something else", "of their own")
    is_wrong(storage(Home(f"postgresql+psycopg://mlflow@{at}/postgres")), "permission denied", "GRANT")


def test_tables_of_another_optuna(tmp_path: Path) -> None:
    home = Home(f"sqlite:///{tmp_path}/studies.db")
    home.open_storage(create=True)
    assert the(storage(home), "storage").state == "ok"
    engine = sqlalchemy.create_engine(home.storage_url)
    for version, says, todo in (("v2.4.0.a", "older Optuna", "storage upgrade"), ("v9", "newer Optuna", "install")):
        with engine.begin() as connection:
            connection.execute(sqlalchemy.text(f"update alembic_version set version_num = '{version}'"))
        is_wrong(storage(home), says, todo)


def test_the_store_refuses(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, **team.bucket.environment, ACSEARCH_WORK="s3://nosuch/work")
    is_wrong(store(Home()), "there is no bucket 'nosuch'", "fix")
    given(monkeypatch, ACSEARCH_WORK=f"s3://{s3.BUCKET}/work", AWS_SECRET_ACCESS_KEY="guess")
    is_wrong(store(Home()), "AWS_SECRET_ACCESS_KEY", "fix")


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
    is_wrong(found, "no MLflow server", "something else listens")


def test_the_home_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "acsearch-runs").write_text("a file")
    is_wrong(folder(Home()), f"{tmp_path}/acsearch-runs: Not a directory", "ACSEARCH_HOME")


def test_settings_that_cannot_be_read_are_said_once(tmp_path: Path) -> None:
    (tmp_path / "acsearch.toml").write_text("stroage = 'x'")
    findings = examine(Home())
    is_wrong(findings, "did you mean 'storage'?", "fix the file")
    assert "not checked" in the(findings, "storage").found
    assert the(findings, "torch").state == "ok"


def test_a_password_that_others_can_read(tmp_path: Path) -> None:
    (tmp_path / "acsearch.toml").write_text(f'storage = "postgresql+psycopg://me:{ENCODED}@{nobody()}/db"')
    (tmp_path / "acsearch.toml").chmod(0o644)
    found = the(examine(Home()), "settings")
    assert (found.state, found.todo) == ("warn", f"chmod 600 {tmp_path}/acsearch.toml")
    (tmp_path / "acsearch.toml").chmod(0o600)
    assert the(examine(Home()), "settings").state == "ok"
