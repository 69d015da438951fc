"""Training that is asked by a signal to stop."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from support import ROOT
from support.training_jobs import BOTH, LORA, TinyJobs, weights
from trainers.checkpoints import commit
from trainers.errors import PreemptedError
from trainers.ranks import launch as launching
from trainers.ranks import preemption
from trainers.training.launch import launch
from trainers.training.metrics_log import MetricsLog
from trainers.training.train import METRICS_LOG, run_stage

pytestmark = pytest.mark.slow


@pytest.mark.usefixtures("at_once")
def test_asked_by_a_signal_it_stops_at_a_committed_step(jobs: TinyJobs, tmp_path: Path) -> None:
    job = jobs.make(LORA, epochs=8, checkpoint_every=0)
    path, folder = tmp_path / "job.json", tmp_path / "stage"
    path.write_text(job.model_dump_json())
    command = [sys.executable, "-m", "trainers", str(path), str(folder)]
    child = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"})
    while len(MetricsLog(folder / METRICS_LOG).read()) < 5:
        assert child.poll() is None
        time.sleep(0.01)
    child.send_signal(random.choice(preemption.SIGNALS))
    assert child.wait(600) == preemption.EXIT_CODE
    steps = len(MetricsLog(folder / METRICS_LOG).read())
    kept = commit.latest(folder)
    assert kept == commit.step_folder(folder, steps)
    assert 5 <= steps < 48
    assert weights(run_stage(job, folder)) == weights(run_stage(job, tmp_path / "undisturbed"))


@pytest.mark.usefixtures("at_once")
def test_several_processes_stop_after_the_same_step(
    jobs: TinyJobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the one that launched them is asked."""
    job, folder = jobs.make(BOTH, epochs=12, checkpoint_every=0), tmp_path / "stage"
    monkeypatch.setattr(preemption, "_asked", threading.Event())
    monkeypatch.setattr(launching, "POLL_SECONDS", 0.05)
    with pytest.raises(PreemptedError, match="2 processes stopped as asked"):
        launch(job, folder, 2, lambda step, steps, loss: preemption._asked.set())
    lines = MetricsLog(folder / METRICS_LOG).read()
    assert commit.latest(folder) == commit.step_folder(folder, len(lines))
    assert 0 < len(lines) < 72
    preemption._asked.clear()
    assert weights(launch(job, folder, 2)) == weights(launch(job, tmp_path / "undisturbed", 2))
