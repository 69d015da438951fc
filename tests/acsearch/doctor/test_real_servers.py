"""The doctor and a study on real servers: all right first, then each thing wrong, and no secret anywhere."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import sqlalchemy

from acsearch.doctor.examine import examine
from acsearch.doctor.services import storage, store
from acsearch.storage.home import Home
from support import ROOT, mlflow_server, postgres, s3
from support.doctor import ACSEARCH, ENCODED, SECRET, assert_one_failure, set_variables, unused_address

pytestmark = [pytest.mark.services, pytest.mark.usefixtures("alone")]


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


@pytest.mark.parametrize("right", [True, False], ids=["right", "refused"])
def test_a_study_leaves_its_secrets_nowhere(
    right: bool, team: Team, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither in what it prints nor in any file, nor in MLflow's database or artifacts."""
    tracking = urlsplit(team.mlflow if right else f"http://{unused_address()}")
    set_variables(monkeypatch, **team.bucket.environment, PGPASSWORD=f"{SECRET}PG", MLFLOW_TRACKING_TOKEN=f"{SECRET}ML")
    set_variables(monkeypatch, PYTHONPATH=str(ROOT), ACSEARCH_TRACKING=f"http://me:{ENCODED}@{tracking.netloc}")
    (tmp_path / "acsearch.toml").write_text(f'storage = "{team.with_password}"\n')

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [*ACSEARCH, *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=600)

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
    texts = {f"output of {one.args[len(ACSEARCH) :]}": (one.stdout + one.stderr).encode() for one in said}
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


def test_all_is_right(team: Team, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_variables(monkeypatch, **team.bucket.environment, ACSEARCH_WORK=f"s3://{s3.BUCKET}/work", PGPASSWORD=SECRET)
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


def test_the_database_refuses(team: Team) -> None:
    wrong = team.with_password.replace(ENCODED, "guess")
    assert_one_failure(storage(Home(wrong)), "password authentication failed", "PGPASSWORD")
    assert_one_failure(storage(Home(f"{team.with_password}_not")), "does not exist", "createdb")
    at = team.database.split("@")[1].split("/")[0]
    assert_one_failure(
        storage(Home(f"postgresql+psycopg://mlflow@{at}/mlflow")), "tables of something else", "of their own"
    )
    assert_one_failure(storage(Home(f"postgresql+psycopg://mlflow@{at}/postgres")), "permission denied", "GRANT")


def test_the_store_refuses(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    set_variables(monkeypatch, **team.bucket.environment, ACSEARCH_WORK="s3://nosuch/work")
    assert_one_failure(store(Home()), "there is no bucket 'nosuch'", "fix")
    set_variables(monkeypatch, ACSEARCH_WORK=f"s3://{s3.BUCKET}/work", AWS_SECRET_ACCESS_KEY="guess")
    assert_one_failure(store(Home()), "AWS_SECRET_ACCESS_KEY", "fix")
