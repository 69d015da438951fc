"""A whole study that trains: scored, finetuned, evaluated and recorded, from tiny random checkpoints."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from acsearch.storage.home import Home
from acsearch.study.snapshot import Snapshot
from acsearch.study.stored import StoredStudy
from support import s3, tiny
from support.fork_server import Forks

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    tiny.llm(folder / "llm")
    tiny.encoders(folder)
    (folder / "study.yaml").write_text(tiny.STUDY)
    return folder


def environment(forked: Forks, home: Path) -> dict[str, str]:
    return os.environ | forked.environment | {"ACSEARCH_HOME": str(home)}


def run(forked: Forks, home: Path, *arguments: str) -> str:
    done = subprocess.run(forked.command(*arguments), env=environment(forked, home), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def snapshot(home: Path, name: str = "tiny") -> Snapshot:
    place = Home(storage=f"sqlite:///{home / 'studies.db'}")
    return StoredStudy.open(place.open_storage(create=False), place.claims(name), name).snapshot()


@pytest.fixture(scope="module")
def undisturbed(
    forked: Forks, study: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any], str]:
    """Its home, what it shows, and what it printed."""
    home = tmp_path_factory.mktemp("undisturbed")
    printed = run(forked, home, "study", "start", str(study), "--budget", "2")
    return home, json.loads(run(forked, home, "study", "show", "tiny", "--json")), printed


def test_what_it_shows(undisturbed: tuple[Path, dict[str, Any], str]) -> None:
    _, shown, printed = undisturbed
    assert "scored 3 of 3" in printed
    assert len(shown["candidates"]) == 3
    for row in shown["candidates"]:
        assert row["A"] < 0 <= row["C"] <= 100
        assert row["low_80"] <= row["expected"] <= row["high_80"]
    assert len({row["A"] for row in shown["candidates"]}) == 3
    assert len(shown["finetunes"]) == 2
    for one in shown["finetunes"]:
        assert set(one["scores"]) == {"micro_attribute", "micro_existence"} == set(one["standard_errors"])
        assert one["seconds"] > 0
        assert len(one["run"]) == 32
        assert (Path(one["checkpoint"]) / "commit.json").is_file()


def test_its_checkpoint_is_a_model(undisturbed: tuple[Path, dict[str, Any], str]) -> None:
    from trainers.model.loading import load_model

    best = undisturbed[1]["finetunes"][0]
    model = load_model(Path(best["checkpoint"]))
    answers = model.generate([tiny.picture("red", 1), None], ["what colour is the shape ?", "is it big ?"], 4)
    assert len(answers) == 2
    about = json.loads((Path(best["checkpoint"]) / "model.json").read_text())
    assert about["labels"]["mlflow_run"] == best["run"]


def test_the_record_has_its_training_and_its_champion(undisturbed: tuple[Path, dict[str, Any], str]) -> None:
    from mlflow import MlflowClient

    home, shown, _ = undisturbed
    client = MlflowClient(tracking_uri=f"sqlite:///{home / 'mlflow.db'}")
    for one in shown["finetunes"]:
        losses = client.get_metric_history(one["run"], "train/loss")
        assert [point.step for point in losses] == list(range(1, 7))  # 24 samples in batches of 4, each step once
        recorded = client.get_run(one["run"]).data.metrics
        assert {"train/hours", "train/peak_memory_gb", "train/planned_memory_gb"} <= set(recorded)
        assert 0 < recorded["train/planned_hours"] < 1
        assert recorded["bench/micro_attribute"] == one["scores"]["micro_attribute"]
    champion = client.get_model_version_by_alias("acsearch-tiny", "champion")
    best = max(shown["finetunes"], key=lambda one: one["objective"])
    assert (champion.run_id, champion.description) == (best["run"], best["representation"])
    folder = Path(champion.source.removeprefix("file:"))
    assert {path.name for path in folder.iterdir()} >= {"weights.safetensors", "model.json"}


@pytest.mark.slow
def test_another_study_finds_what_is_there(
    forked: Forks, study: Path, undisturbed: tuple[Path, dict[str, Any], str]
) -> None:
    home, shown, _ = undisturbed
    stages = sorted((home / "work" / "stages").iterdir())
    run(forked, home, "study", "start", str(study), "--budget", "2", "--name", "again")
    assert sorted((home / "work" / "stages").iterdir()) == stages
    assert [one.points for one in snapshot(home, "again").finished] == [one["scores"] for one in shown["finetunes"]]


@pytest.mark.slow
def test_start_twice_says_what_exists(
    forked: Forks, study: Path, undisturbed: tuple[Path, dict[str, Any], str]
) -> None:
    home = undisturbed[0]
    done = subprocess.run(
        forked.command("study", "start", str(study), "--budget", "2"),
        env=environment(forked, home),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "study 'tiny' exists, 2 of 2 finetunes done: go on with acsearch study resume tiny" in done.stderr


def in_stage(which: int) -> Callable[[Path], bool]:
    """Whether that many stages have begun, and one has a checkpoint but no result."""

    def begun(home: Path) -> bool:
        stages = list((home / "work" / "stages").glob("*"))
        running = [one for one in stages if any(one.glob("step-*")) and not (one / "result").exists()]
        return len(stages) >= which and bool(running)

    return begun


def in_evaluation(home: Path) -> bool:
    return any((home / "work" / "stages").glob("*/eval/results/micro_attribute.json"))


def kill_when(moment: Callable[[Path], bool], home: Path, forked: Forks, *arguments: str) -> None:
    process = subprocess.Popen(
        forked.command(*arguments), env=environment(forked, home), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    while not moment(home):
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()  # until all that held its output are dead


@pytest.mark.slow
def test_killed_in_every_phase_and_resumed_is_the_same_to_the_bit(
    forked: Forks, study: Path, undisturbed: tuple[Path, dict[str, Any], str], tmp_path: Path
) -> None:
    """Stage 1, then stage 2 (the fourth stage to begin), then evaluation. Who scored what is all the same."""
    two = shutil.copytree(study, tmp_path / "two")
    (two / "study.yaml").write_text(f"{tiny.STUDY}  parallel: 2\n")
    todo = ["start", str(two), "--budget", "2"]
    for moment in (in_stage(1), in_stage(4), in_evaluation):
        kill_when(moment, tmp_path, forked, "study", *todo)
        todo = ["resume", "tiny"]
    run(forked, tmp_path, "study", *todo)
    killed, expected = snapshot(tmp_path), snapshot(undisturbed[0])
    assert len(killed.finished) == 2
    np.testing.assert_array_equal(killed.table.alignment, expected.table.alignment)
    np.testing.assert_array_equal(killed.table.correspondence, expected.table.correspondence)
    for one, other in zip(killed.finished, expected.finished, strict=True):
        assert (one.candidate, one.points, one.errors) == (other.candidate, other.points, other.errors)
        assert one.checkpoint is not None
        assert other.checkpoint is not None
        weights = [Path(checkpoint) / "weights.safetensors" for checkpoint in (one.checkpoint, other.checkpoint)]
        assert weights[0].read_bytes() == weights[1].read_bytes()


@pytest.mark.services
def test_killed_on_one_machine_and_resumed_on_another(
    forked: Forks,
    study: Path,
    undisturbed: tuple[Path, dict[str, Any], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of the first, killed in stage 2, only the storage and what it had in S3 is left."""
    one, two = tmp_path / "one", tmp_path / "two"
    storage = ["--storage", f"sqlite:///{tmp_path / 'studies.db'}"]
    (tmp_path / "s3").mkdir()
    with s3.server(tmp_path / "s3") as server:
        for name, value in (server.environment | {"ACSEARCH_WORK": f"s3://{s3.BUCKET}/work"}).items():
            monkeypatch.setenv(name, value)

        def marks() -> dict[str, str]:
            """The committed results there, with the hash of their marks."""
            found = server.client().list_objects_v2(Bucket=s3.BUCKET)["Contents"]
            return {one["Key"]: one["ETag"] for one in found if one["Key"].endswith("/result/commit.json")}

        kill_when(in_stage(4), one, forked, "study", "start", str(study), "--budget", "2", *storage)
        shutil.rmtree(one)
        before = marks()
        run(forked, two, "study", "resume", "tiny", *storage)
        after = marks()
    assert len(before) == 3  # stage 1 of every candidate
    assert before.items() < after.items()  # nothing was trained again
    place = Home(storage=storage[1])
    resumed = StoredStudy.open(place.open_storage(create=False), place.claims("tiny"), "tiny").snapshot()
    expected = snapshot(undisturbed[0])
    np.testing.assert_array_equal(resumed.table.alignment, expected.table.alignment)
    for mine, other in zip(resumed.finished, expected.finished, strict=True):
        assert (mine.candidate, mine.points, mine.errors) == (other.candidate, other.points, other.errors)
        assert mine.checkpoint is not None
        assert other.checkpoint is not None
        name = mine.checkpoint.removeprefix(f"s3://{s3.BUCKET}/work/")
        assert f"work/{name}/commit.json" in after
        pulled = two / "work" / name / "weights.safetensors"
        assert pulled.read_bytes() == (Path(other.checkpoint) / "weights.safetensors").read_bytes()
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{two / 'mlflow.db'}")
    for finetune in resumed.finished:
        assert finetune.run is not None
        history = client.get_metric_history(finetune.run, "train/loss")
        assert [point.step for point in history] == list(range(1, 7))
    assert client.get_model_version_by_alias("acsearch-tiny", "champion")


@pytest.mark.slow
def test_a_plan_needs_no_weights(forked: Forks, study: Path, tmp_path: Path) -> None:
    planned = json.loads(run(forked, tmp_path, "study", "plan", str(study), "--budget", "2", "--json"))
    assert [one["tokens"] for one in planned["candidates"]] == [4, 4, 4]
    assert [one["width"] for one in planned["candidates"]] == [24, 16, 40]
    assert planned["disk_gb"] > 0 < planned["finetuning"] <= planned["finetuning_most"] <= planned["everything"]
    assert all(0 < one["evaluation"] < one["finetune"]["hours"] for one in planned["candidates"])
    llava = json.loads(run(forked, tmp_path, "study", "plan", "llava15", "--json"))
    by_name = {one["representation"]: one for one in llava["candidates"]}
    assert by_name["clip-l14@336"]["tokens"] == 576
    assert by_name["clip-l14@336"]["weights"] == 1024 * 4096 + 4096 + 4096 * 4096 + 4096
    assert llava["llm_weights"] == 6_738_415_616
    assert 60 < 8 * (by_name["clip-l14@336"]["align"]["hours"] + by_name["clip-l14@336"]["finetune"]["hours"]) < 160
    assert 0.05 < by_name["clip-l14@336"]["evaluation"] < 0.25  # eight GPUs, 42,642 questions
    assert not list(tmp_path.iterdir())
