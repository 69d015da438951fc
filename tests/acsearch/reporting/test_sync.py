"""`study sync`: the MLflow record says what the study says, whatever either was before, and wherever they are moved."""

from __future__ import annotations

import dataclasses
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from acsearch.config.table_file import load_table
from acsearch.reporting.mlflow_record import Changes
from acsearch.reporting.recorder import Recorder
from acsearch.runners.recorded import NoArtifacts, RecordedRunner
from acsearch.study.stored import StoredStudy
from acsearch.study.study import Study
from support.fork_server import Forks
from support.homes import TempHome

Acsearch = Callable[..., str]
UNCHANGED = "nothing was changed"


@pytest.fixture
def acsearch(forked: Forks, tmp_path: Path) -> Acsearch:
    """Runs a command beside a home, by default the one in the folder `user`."""

    def run(*arguments: str, home: Path = tmp_path / "user" / "acsearch-runs") -> str:
        home.parent.mkdir(exist_ok=True)
        environment = os.environ | forked.environment
        command = forked.command(*arguments)
        done = subprocess.run(command, env=environment, cwd=home.parent, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def runs_of(home: Path, kind: str) -> dict[str, Run]:
    """The runs of a record by their names."""
    client = MlflowClient(tracking_uri=f"sqlite:///{home / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("acsearch/law_v1").experiment_id
    found = client.search_runs([experiment], f"tags.`acsearch.kind` = '{kind}'", max_results=1000)
    named = {run.info.run_name: run for run in found}
    assert len(named) == len(found)
    return named


def metrics_of(home: Path) -> dict[str, dict[str, float]]:
    return {
        name: run.data.metrics for kind in ("study", "score", "finetune") for name, run in runs_of(home, kind).items()
    }


def contents(folder: Path) -> dict[str, bytes | list[str]]:
    """Every file; of databases what they say."""
    found: dict[str, bytes | list[str]] = {}
    for path in folder.rglob("*"):
        if path.suffix == ".db":
            with closing(sqlite3.connect(path)) as connection:
                found[str(path)] = list(connection.iterdump())
        elif path.is_file() and ".locks" not in str(path):
            found[str(path)] = path.read_bytes()
    return found


# -- a storage that was put back ---------------------------------------------------------------------------------------


def test_a_record_that_is_ahead_of_a_restored_storage(acsearch: Acsearch, tmp_path: Path) -> None:
    home = tmp_path / "user" / "acsearch-runs"
    acsearch("study", "start", "law_v1", "--budget", "2")
    two, storage = metrics_of(home), (home / "studies.db").read_bytes()
    acsearch("study", "resume", "law_v1", "--budget", "6")
    assert len(runs_of(home, "finetune")) == 6
    (home / "studies.db").write_bytes(storage)

    said = acsearch("study", "sync", "law_v1")
    assert sum("(finetune" in line and "removed" in line for line in said.splitlines()) == 4
    assert len(runs_of(home, "finetune")) == 2
    assert metrics_of(home) == two
    note = next(iter(runs_of(home, "study").values())).data.tags["mlflow.note.content"]
    assert "Cost: 2 finetunes of 13" in note

    before = contents(home)
    assert UNCHANGED in acsearch("study", "sync", "law_v1")
    assert contents(home) == before


def _nothing(changes: Changes) -> bool:
    return not (changes.removed or changes.replaced or changes.added or changes.completed)


def _run(study: StoredStudy, runner: RecordedRunner, recorder: Recorder) -> None:
    Study(study, runner, lambda event: recorder()).run()
    recorder()
    assert recorder.missing is None


def test_later_finetunes_do_not_keep_the_scores_of_a_history_that_is_no_more(tmp_path: Path) -> None:
    home = TempHome(tmp_path)
    study = home.start(budget=4)
    recorder = Recorder(home, study, NoArtifacts())
    table = load_table("law_v1")
    recorder()
    storage = (tmp_path / "studies.db").read_bytes()
    _run(study, RecordedRunner(table), recorder)

    (tmp_path / "studies.db").write_bytes(storage)
    study = home.study()
    recorder = Recorder(home, study, NoArtifacts())
    _run(study, RecordedRunner(dataclasses.replace(table, scores=table.scores - 1)), recorder)
    for record in study.snapshot().finished:
        metrics = runs_of(tmp_path, "finetune")[f"{record.representation} (finetune {record.trial + 1})"].data.metrics
        assert metrics["agg/score"] == pytest.approx(100 * (record.objective or 0.0))
        assert {name: metrics[f"bench/{name}"] for name in record.points} == record.points
    recorder(with_figures=True, thorough=True)
    assert not recorder.changes.replaced  # what was recorded on the way was true


# -- a record that others wrote to -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> TempHome:
    home = TempHome(tmp_path_factory.mktemp("finished"))
    study = home.start(budget=3)
    recorder = Recorder(home, study, NoArtifacts())
    _run(study, RecordedRunner(load_table("law_v1")), recorder)
    recorder(with_figures=True, thorough=True)
    return home


def _synced(home: TempHome) -> Recorder:
    recorder = Recorder(home, home.study(), NoArtifacts())
    recorder(with_figures=True, thorough=True)
    assert recorder.missing is None
    return recorder


def _statement(text: str) -> Callable[[TempHome, MlflowClient, Run, Run], None]:
    def execute(home: TempHome, client: MlflowClient, study: Run, finetune: Run) -> None:
        with closing(sqlite3.connect(home.folder / "mlflow.db")) as connection, connection:
            assert connection.execute(text, (finetune.info.run_id,)).rowcount

    return execute


def law(home: TempHome, study: Run) -> Path:
    return home.folder / "mlartifacts" / study.info.run_id / "artifacts" / "law"


DAMAGE: dict[str, Callable[[TempHome, MlflowClient, Run, Run], object]] = {
    "a score changed": _statement("update latest_metrics set value = 1 where key = 'agg/score' and run_uuid = ?"),
    "a past score changed": _statement("update metrics set value = 1 where key = 'agg/score' and run_uuid = ?"),
    "a score too many": lambda home, client, study, one: client.log_metric(one.info.run_id, "bench/other", 1.0),
    "another score": lambda home, client, study, one: client.log_metric(one.info.run_id, "agg/score", 99.0, step=0),
    "a step too many": lambda home, client, study, one: client.log_metric(study.info.run_id, "law/r2", 0.5, step=9),
    "a parameter": _statement("update params set value = 'x' where key = 'representation' and run_uuid = ?"),
    "a parameter lost": _statement("delete from params where key = 'representation' and run_uuid = ?"),
    "its parent": lambda home, client, study, one: client.set_tag(one.info.run_id, "mlflow.parentRunId", "f" * 32),
    "its name": lambda home, client, study, one: client.update_run(one.info.run_id, name="mine"),
    "its state": lambda home, client, study, one: client.set_terminated(one.info.run_id, "FAILED"),
    "the note": lambda home, client, study, one: client.set_tag(study.info.run_id, "mlflow.note.content", "mine"),
    "a deleted run": lambda home, client, study, one: client.delete_run(one.info.run_id),
    "the deleted study": lambda home, client, study, one: client.delete_run(study.info.run_id),
    "a file": lambda home, client, study, one: (law(home, study) / "step-1.json").write_text("{}"),
    "all files": lambda home, client, study, one: shutil.rmtree(home.folder / "mlartifacts"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_others_wrote_is_made_equal_again(finished: TempHome, damage: str, tmp_path: Path) -> None:
    shutil.copytree(finished.folder, tmp_path, dirs_exist_ok=True)
    home = TempHome(tmp_path)
    true = metrics_of(tmp_path)
    client = MlflowClient(tracking_uri=home.tracking_uri)
    assert _nothing(_synced(home).changes)
    study, finetune = (next(iter(runs_of(tmp_path, kind).values())) for kind in ("study", "finetune"))
    DAMAGE[damage](home, client, study, finetune)

    assert not _nothing(_synced(home).changes)
    assert metrics_of(tmp_path) == true
    parent = runs_of(tmp_path, "study")["s"]
    assert parent.data.tags["mlflow.note.content"] == study.data.tags["mlflow.note.content"]
    for run in runs_of(tmp_path, "finetune").values():
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.info.status == "FINISHED"
        assert run.info.run_name.startswith(run.data.params["representation"])
    assert len({file.read_bytes() for file in law(home, parent).iterdir()}) == 4
    assert _nothing(_synced(home).changes)


# -- a folder that was copied or moved ---------------------------------------------------------------------------------


def test_a_copied_home_never_writes_into_the_original(acsearch: Acsearch, tmp_path: Path) -> None:
    original, copy = tmp_path / "user" / "acsearch-runs", tmp_path / "other" / "acsearch-runs"
    acsearch("study", "start", "law_v1", "--budget", "2")
    shutil.copytree(original, copy)
    before, files = contents(original), {path.relative_to(copy) for path in copy.rglob("*.json")}
    acsearch("study", "resume", "law_v1", "--budget", "3", home=copy)
    acsearch("study", "start", "law_v1", "--name", "new", "--budget", "1", home=copy)
    acsearch("study", "sync", "law_v1", home=copy)
    assert contents(original) == before
    assert {path.relative_to(copy) for path in copy.rglob("*.json")} > files
    dump = "\n".join(map(str, contents(copy)[str(copy / "mlflow.db")]))
    assert str(original) not in dump

    shutil.move(copy.parent, tmp_path / "moved")
    moved = tmp_path / "moved" / "acsearch-runs"
    assert UNCHANGED in acsearch("study", "sync", "law_v1", home=moved)
    client = MlflowClient(tracking_uri=f"sqlite:///{moved / 'mlflow.db'}")
    run = next(run for run in runs_of(moved, "study").values() if run.info.run_name == "law_v1")
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {"figures", "law", "recommendation.csv"}
    assert not (tmp_path / "other").exists()
