"""Servers that go away while a study runs: it goes on, and nothing is lost or comes twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from mlflow import MlflowClient

from support import ROOT, mlflow_server, postgres, s3
from support.fork_server import Forks

pytestmark = pytest.mark.services


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[postgres.Server]:
    with postgres.running(tmp_path_factory.mktemp("postgres")) as server:
        yield server


@pytest.fixture(scope="module")
def tracking(database: postgres.Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[mlflow_server.Server]:
    with s3.server(tmp_path_factory.mktemp("s3")) as bucket:
        record = postgres.database(database.url, "mlflow")
        with mlflow_server.server(tmp_path_factory.mktemp("mlflow"), record, bucket) as server:
            yield server


def environment(home: Path, storage: str, tracking: str) -> dict[str, str]:
    settings = {"ACSEARCH_HOME": str(home), "ACSEARCH_STORAGE": storage, "ACSEARCH_LEASE_SECONDS": "60"}
    return os.environ | settings | {"MLFLOW_TRACKING_URI": tracking}


def acsearch(forked: Forks, settings: dict[str, str], *arguments: str) -> str:
    environment = settings | forked.environment
    done = subprocess.run(forked.command("study", *arguments), env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def result(forked: Forks, settings: dict[str, str], name: str) -> tuple[Any, ...]:
    shown = json.loads(acsearch(forked, settings, "show", name, "--json"))
    finetunes = [(one["trial"], one["representation"], one["state"], one["scores"]) for one in shown["finetunes"]]
    return shown["candidates"], finetunes


def test_the_database_is_away_while_a_finetune_runs(forked: Forks, database: postgres.Server, tmp_path: Path) -> None:
    """Killed with -9 under two controllers, for longer than leases last."""
    storage = postgres.database(database.url, "away")
    settings = environment(tmp_path, storage, f"sqlite:///{tmp_path}/mlflow.db")
    log, go = tmp_path / "log", tmp_path / "go"
    command = [sys.executable, str(ROOT / "tests/support/slow_controller.py"), "away", "4", str(go), str(log)]
    errors = [tmp_path / "error-0", tmp_path / "error-1"]
    controllers = []
    for error in errors:
        with error.open("w") as file:
            controllers.append(subprocess.Popen(command, cwd=ROOT, env=settings, stderr=file))
    while not log.exists() or len({line.split()[3] for line in log.read_text().splitlines()}) < 2:
        assert all(one.poll() is None for one in controllers)
        time.sleep(0.05)
    database.kill()
    while not any("the database does not answer; waiting for it" in error.read_text() for error in errors):
        assert all(one.poll() is None for one in controllers)
        time.sleep(0.05)
    database.start()
    with sqlalchemy.create_engine(storage).begin() as connection:  # as after an outage longer than leases last
        connection.execute(sqlalchemy.text("update acsearch_leases set expires = 1 where expires > 0"))
    go.touch()
    codes = [one.wait(timeout=600) for one in controllers]
    assert codes == [0, 0], "\n".join(error.read_text() for error in errors)
    ended = [line.split()[1] for line in log.read_text().splitlines() if line.startswith("end")]
    assert sorted(ended) == ["0", "1", "2", "3"]
    assert [state for _, _, state, _ in result(forked, settings, "away")[1]] == ["complete"] * 4


def everything(uri: str, study: str) -> dict[str, Any]:
    """The record of a study, without what differs each time: ids, and what was logged when."""
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("acsearch/law_v1")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], f"tags.`acsearch.study` = '{study}'")
    found = {}
    for run in runs:
        key = run.data.tags["acsearch.key"]
        assert key not in found
        history = {
            name: [
                (point.step, point.value, point.timestamp) for point in client.get_metric_history(run.info.run_id, name)
            ]
            for name in (run.data.metrics if "/score/" not in key else ["predict/score"])
        }
        files = sorted(file.path for file in client.list_artifacts(run.info.run_id))
        found[key] = (run.data.params, history, files, run.info.status, run.info.run_name)
    return found


def test_mlflow_is_away_then_wiped_and_made_again(
    forked: Forks, database: postgres.Server, tracking: mlflow_server.Server, tmp_path: Path
) -> None:
    settings = environment(tmp_path, postgres.database(database.url, "record"), tracking.url)
    acsearch(forked, settings, "start", "law_v1", "--name", "one", "--budget", "2")
    expected = everything(tracking.url, "one")
    assert len(expected) == 1 + 13 + 2
    tracking.kill()
    said = acsearch(forked, settings, "start", "law_v1", "--name", "one", "--budget", "3", "--resume")
    assert "MLflow   not up to date: --tracking http://127.0.0.1" in said
    assert "acsearch study sync one" in said
    tracking.start()
    assert everything(tracking.url, "one") == expected
    acsearch(forked, settings, "sync", "one")
    synced = everything(tracking.url, "one")
    assert len(synced) == 1 + 13 + 3
    acsearch(forked, settings, "sync", "one")
    assert everything(tracking.url, "one") == synced
    wiped = settings | {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/new.db"}
    acsearch(forked, wiped, "sync", "one")
    again = everything(f"sqlite:///{tmp_path}/new.db", "one")
    assert again == synced
