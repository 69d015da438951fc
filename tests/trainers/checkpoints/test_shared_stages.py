"""Stages that share a work store: outages, kills and other machines lose and repeat nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support import ROOT, s3, tiny
from support.work_stores import (
    address,
    committed_folder,
    contents,
    fail_if_trained,
    on_machine,
    small_job,
    stored_keys,
    wait_until,
)
from trainers.checkpoints import commit
from trainers.checkpoints.work_store import RemoteStore, open_store
from trainers.model.loading import WEIGHTS
from trainers.training.launch import launch
from trainers.training.metrics_log import MetricsLog
from trainers.training.train import METRICS_LOG, RESULT, run_stage
from trainers.utils.progress import StepCallback


@pytest.mark.services
def test_the_server_is_killed_during_an_upload(running: s3.Server, tmp_path: Path) -> None:
    heard: list[str] = []
    store = RemoteStore(address(tmp_path), tmp_path / "here", heard.append)
    files = {f"file{number}": os.urandom(2**20) for number in range(40)}
    folder = committed_folder(tmp_path / "here" / "stages" / "a" / RESULT, **files)
    store.push(folder, keep=0)
    wait_until(lambda: len(stored_keys(running, tmp_path)) > 1)
    running.kill()
    assert not store.drain(within=1)
    assert heard[0].startswith(f"waiting for {address(tmp_path)}, 1 to upload")
    running.start()
    assert commit.MANIFEST not in str(stored_keys(running, tmp_path))
    assert store.drain()
    there = RemoteStore(address(tmp_path), tmp_path / "there")
    assert there.pull(tmp_path / "there" / "stages" / "a" / RESULT)
    assert contents(tmp_path / "there" / "stages" / "a" / RESULT) == files


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    tiny.llm(folder / "llm")
    tiny.encoders(folder)
    tiny.manifest(folder, 21)
    return folder


def weights(result: Path) -> bytes:
    return (result / WEIGHTS).read_bytes()


@pytest.mark.services
def test_a_stage_goes_on_while_the_server_is_away(running: s3.Server, world: Path, tmp_path: Path) -> None:
    job, stage = on_machine(small_job(world), tmp_path / "here", address(tmp_path))

    def watch(step: int, steps: int, loss: float) -> None:
        if step == 3:
            running.kill()

    result = run_stage(job, stage, watch)  # to its end: there is no server any more
    store = open_store(job.store)
    assert not store.drain(within=1)
    running.start()
    assert store.drain()
    (features,) = (tmp_path / "here" / "features").iterdir()
    there = stored_keys(running, tmp_path)
    assert {key.split("/")[2] for key in there if key.startswith("stages/")} == {RESULT}
    assert f"features/{features.name}" in there
    elsewhere, other = on_machine(small_job(world), tmp_path / "there", address(tmp_path))
    pulled = run_stage(elsewhere, other, fail_if_trained)
    assert contents(pulled) == contents(result)
    assert [line.step for line in MetricsLog(pulled / METRICS_LOG).read()] == list(range(1, 13))
    assert weights(pulled) == weights(run_stage(*on_machine(small_job(world), tmp_path / "alone", None)))


def counting(steps: list[int]) -> StepCallback:
    return lambda step, of, loss: steps.append(step)


@pytest.mark.services
@pytest.mark.usefixtures("at_once")
def test_a_stage_is_killed_and_resumed_on_another_machine(running: s3.Server, world: Path, tmp_path: Path) -> None:
    """kill -9 with all that the machine had; the other one has nothing but the bucket."""
    made = small_job(world, epochs=20.0, checkpoint_every=3)
    job, stage = on_machine(made, tmp_path / "here", address(tmp_path))
    (tmp_path / "job.json").write_text(job.model_dump_json())
    command = [sys.executable, "-m", "trainers", str(tmp_path / "job.json"), str(stage)]
    child = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"})
    wait_until(lambda: any("step-" in key and key.endswith(commit.MANIFEST) for key in stored_keys(running, tmp_path)))
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL, "it ended before it could be killed"
    shutil.rmtree(tmp_path / "here")
    elsewhere, other = on_machine(made, tmp_path / "there", address(tmp_path))
    steps: list[int] = []
    result = run_stage(elsewhere, other, counting(steps))
    assert 3 < steps[0] < 120
    assert steps == list(range(steps[0], 121))
    assert [line.step for line in MetricsLog(other / METRICS_LOG).read()] == list(range(1, 121))
    assert weights(result) == weights(run_stage(*on_machine(made, tmp_path / "alone", None)))
    assert open_store(elsewhere.store).drain()
    assert {key.split("/")[2] for key in stored_keys(running, tmp_path) if key.startswith("stages/")} == {RESULT}


def test_the_later_checkpoint_counts(world: Path, tmp_path: Path) -> None:
    """Here or there; and what is only here goes there."""
    made, url = small_job(world, checkpoint_every=3), f"file://{tmp_path}/store"

    class Interrupted(Exception):
        pass

    def stopping(last: int, steps: list[int]) -> StepCallback:
        def watch(step: int, of: int, loss: float) -> None:
            steps.append(step)
            if step == last:
                raise Interrupted

        return watch

    one, two = on_machine(made, tmp_path / "one", url), on_machine(made, tmp_path / "two", url)
    for place, last, began in ((one, 4, 1), (two, 8, 4), (one, 8, 7), (two, 12, 7)):
        steps: list[int] = []
        with pytest.raises(Interrupted):
            run_stage(*place, stopping(last, steps))
        assert steps[0] == began
        assert open_store(place[0].store).drain()
    shutil.rmtree(tmp_path / "store")
    assert weights(run_stage(*two)) == weights(run_stage(*on_machine(made, tmp_path / "alone", None)))
    assert open_store(two[0].store).drain()
    marks = (tmp_path / "store").glob("stages/*/*/commit.json")
    assert [path.parent.name for path in marks] == [RESULT]


@pytest.mark.services
@pytest.mark.usefixtures("at_once")
def test_processes_of_their_own_share_their_stage(running: s3.Server, world: Path, tmp_path: Path) -> None:
    job, stage = on_machine(small_job(world, epochs=1.0), tmp_path / "here", address(tmp_path))
    result = launch(job, stage, 2)
    files = json.loads((result / commit.MANIFEST).read_text())
    there = {key for key in stored_keys(running, tmp_path) if key.startswith("stages/")}
    assert {key.split("/")[-1] for key in there} == {commit.MANIFEST, *files}
    assert {key.split("/")[2] for key in there} == {RESULT}
    elsewhere, other = on_machine(small_job(world, epochs=1.0), tmp_path / "there", address(tmp_path))
    assert contents(launch(elsewhere, other, 2, fail_if_trained)) == contents(result)
    assert not (other / "training.log").exists()
