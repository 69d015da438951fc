"""A stage in several processes trains what one process trains."""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from support import ROOT
from support.training_jobs import (
    BOTH,
    CONNECTOR,
    LORA,
    TinyJobs,
    assert_close,
    exit_codes,
    start_ranks,
    stopping,
    weights,
)
from trainers.checkpoints import commit
from trainers.errors import CrashedError, DataError
from trainers.job import Tune
from trainers.model.loading import MODEL
from trainers.ranks import launch as launching
from trainers.ranks.error_file import read_error, write_error
from trainers.training.launch import launch
from trainers.training.metrics_log import MetricsLog
from trainers.training.train import METRICS_LOG, RESULT, run_stage


@pytest.mark.slow
@pytest.mark.parametrize("shard", [False, True])
def test_two_processes_train_what_one_trains(jobs: TinyJobs, forks: Any, tmp_path: Path, shard: bool) -> None:
    """Though one has text alone where the other has an image, and no sample at all at the end of an epoch."""
    job = jobs.make(LORA, micro_batch=1, epochs=1, shard=shard)  # the last batch is one sample
    assert exit_codes(start_ranks(forks, job, tmp_path / "two", 2)) == [0, 0]
    assert_close(run_stage(job, tmp_path / "one"), tmp_path / "two" / RESULT)
    one, two = (MetricsLog(tmp_path / name / METRICS_LOG).read() for name in ("one", "two"))
    for ours, theirs in zip(one, two, strict=True):
        for metric in ("loss", "lr", "grad_norm"):
            assert ours.metrics[metric] == pytest.approx(theirs.metrics[metric], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("shard", [False, True])
def test_packed_in_two_processes_it_trains_what_one_trains_padded(
    jobs: TinyJobs, forks: Any, tmp_path: Path, shard: bool
) -> None:
    """With LoRA and a tuned tower, text alone on one side, and a row without any sample at the end of an epoch."""
    train = LORA | {"vision": Tune(mode="full", lr=1e-6)}  # Adam makes whole steps of a gradient that is rounding alone
    packed = jobs.make(train, epochs=1, pack=True, tokens_per_pack=100, shard=shard)
    assert exit_codes(start_ranks(forks, packed, tmp_path / "two", 2)) == [0, 0]
    assert_close(run_stage(jobs.make(train, epochs=1), tmp_path / "one"), tmp_path / "two" / RESULT)


@pytest.mark.slow
@pytest.mark.parametrize("shard", [False, True])
def test_what_two_processes_began_one_or_three_go_on_with(
    jobs: TinyJobs, forks: Any, tmp_path: Path, shard: bool
) -> None:
    """Each of the two has written its own shards of the checkpoint."""
    job = jobs.make(LORA, epochs=1, shard=shard, checkpoint_every=1)
    whole, folder = run_stage(job, tmp_path / "whole"), tmp_path / "two"
    ranks = start_ranks(forks, job, folder, 2)
    while not (found := commit.latest(folder)):
        assert all(one.is_alive() for one in ranks)
        time.sleep(0.01)
    for one in ranks:
        one.kill()
    exit_codes(ranks)
    found = commit.latest(folder)
    assert found is not None
    assert len(list(found.glob("shard-*.safetensors"))) == 2
    shutil.copytree(folder, tmp_path / "three")
    assert_close(whole, run_stage(job, folder))
    assert exit_codes(start_ranks(forks, job, tmp_path / "three", 3)) == [0] * 3
    assert_close(whole, tmp_path / "three" / RESULT)


@pytest.mark.slow
def test_whoever_comes_second_waits(jobs: TinyJobs, forks: Any, tmp_path: Path) -> None:
    """Two studies may want the same stage at the same time."""
    job = jobs.make(BOTH, epochs=6)
    ranks = start_ranks(forks, job, tmp_path)
    while not (tmp_path / METRICS_LOG).exists():
        time.sleep(0.01)
    result = run_stage(job, tmp_path, stopping(1))
    assert exit_codes(ranks) == [0]
    assert commit.committed(result)
    assert [line.step for line in MetricsLog(tmp_path / METRICS_LOG).read()] == list(range(1, 37))


@pytest.mark.slow
def test_launch_trains_in_several_processes(jobs: TinyJobs, tmp_path: Path) -> None:
    job, seen = jobs.make(CONNECTOR, labels={"trial": "3"}), []
    result = launch(job, tmp_path / "two", 2, lambda *told: seen.append(told))
    assert_close(launch(job, tmp_path / "one", 1), result)
    assert all(1 <= step <= steps == 12 and loss > 0 for step, steps, loss in seen)
    assert json.loads((result / MODEL).read_text())["labels"] == {"trial": "3"}
    assert launch(job, tmp_path / "two", 2) == result


@pytest.mark.slow
@pytest.mark.usefixtures("at_once")
def test_a_single_process_of_its_own_trains_the_same(
    jobs: TinyJobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a GPU; here on the CPU."""
    job = jobs.make(CONNECTOR)
    here = launch(job, tmp_path / "here", 1)
    monkeypatch.setattr("trainers.training.launch.apart", lambda processes: True)
    with monkeypatch.context() as patch:
        patch.setattr("trainers.training.launch.run_stage", None)
        there = launch(job, tmp_path / "apart", 1)
    assert weights(there) == weights(here)
    assert (tmp_path / "apart" / "training.log").exists()


@pytest.mark.parametrize(
    ("said", "error"),
    [("DataError: no such data", DataError), ("RuntimeError: no such data", CrashedError)],
)
def test_launch_says_why_it_failed(
    jobs: TinyJobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, error: type[Exception]
) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho first\necho {said} >&2\necho rank 1 ended\nexit 3\n")
    python.chmod(0o755)
    monkeypatch.setattr(launching.sys, "executable", str(python))
    with pytest.raises(error, match=r"in 2 processes failed: .*no such data \(see .*training.log\)$"):
        launch(jobs.make(CONNECTOR), tmp_path / "stage", 2)


def python_without_torchrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, commands: str) -> None:
    """Has `launch` start a shell script in torchrun's place, whose arguments are those of a training process."""
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\nshift 4\n{commands}\n")
    python.chmod(0o755)
    monkeypatch.setattr(launching.sys, "executable", str(python))


def test_launch_raises_what_its_processes_raised(
    jobs: TinyJobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = jobs.make(CONNECTOR)
    named = shutil.copy(job.data, tmp_path / "CrashedError: no\nDataError: such.json")
    short = {"data": Path(named), "images": job.data.parent, "stage": job.stage.model_copy(update={"longest": 5})}
    job = job.model_copy(update=short)
    with pytest.raises(DataError) as expected:
        run_stage(job, tmp_path / "one")
    assert str(job.data) in str(expected.value)
    python_without_torchrun(tmp_path, monkeypatch, f'cd {ROOT} && exec {sys.executable} "$@"')
    with pytest.raises(DataError) as caught:
        launch(job, tmp_path / "two", 2)
    log = tmp_path / "two" / "training.log"
    assert str(caught.value) == f"training in 2 processes failed: {expected.value} (see {log})"


def test_a_killed_process_is_a_crash_whatever_failed_before(
    jobs: TinyJobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = tmp_path / "stage"
    stage.mkdir()
    for text in ("before", "later"):
        write_error(stage, DataError(text))
    assert str(read_error(stage)) == "before"  # the first one stays
    assert [path.name for path in stage.iterdir()] == ["error.json"]
    python_without_torchrun(tmp_path, monkeypatch, "echo at work; kill -9 $$")
    with pytest.raises(CrashedError, match=r"^training in 2 processes failed: at work \(see .*training.log\)$"):
        launch(jobs.make(CONNECTOR), stage, 2)
