"""kill -9 at any moment, of one process or of several, changes nothing in the result of a stage."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from support import ROOT
from support.training_jobs import BOTH, CONNECTOR, LORA, TinyJobs, assert_close, exit_codes, start_ranks, weights
from trainers.training.metrics_log import MetricsLog
from trainers.training.train import METRICS_LOG, RESULT, run_stage

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("processes", "kills"), [(1, 2), (2, 1)])
@pytest.mark.parametrize("stage", ["connector", "both"])
def test_killed_at_any_moment_and_resumed(
    jobs: TinyJobs, forks: Any, tmp_path: Path, stage: str, processes: int, kills: int
) -> None:
    """kill -9 changes nothing: the result is that of an undisturbed run to the last bit."""
    job = {
        "connector": jobs.make(CONNECTOR, turns=1, cache_features=True, checkpoint_every=2, epochs=4),
        "both": jobs.make(BOTH, checkpoint_every=2, epochs=4),
    }[stage]
    alone = run_stage(job, tmp_path / "alone")
    if processes > 1:
        assert exit_codes(start_ranks(forks, job, tmp_path / "undisturbed", processes)) == [0] * processes
        assert_close(alone, tmp_path / "undisturbed" / RESULT)
    expected = weights(tmp_path / ("alone" if processes == 1 else "undisturbed") / RESULT)
    folder, seed = tmp_path / "killed", random.randrange(10**6)
    outbox, chance = MetricsLog(folder / METRICS_LOG), random.Random(seed)
    print("seed", seed)  # shown when the test fails
    goal = 0
    for _ in range(kills):
        goal += chance.randrange(3, 9)
        ranks, until = start_ranks(forks, job, folder, processes), time.monotonic() + 600
        while max((line.step for line in outbox.read()), default=0) < goal:
            assert time.monotonic() < until
            time.sleep(0.002)
        time.sleep(chance.random() * 0.03)
        for one in chance.sample(ranks, len(ranks)):
            one.kill()
        exit_codes(ranks)
        steps = [line.step for line in outbox.read()]
        assert steps == list(range(1, len(steps) + 1))
    assert exit_codes(start_ranks(forks, job, folder, processes)) == [0] * processes
    assert weights(folder / RESULT) == expected
    assert [line.step for line in outbox.read()] == list(range(1, 25))
    assert sorted(path.name for path in folder.iterdir()) == ["lock", METRICS_LOG, RESULT]


@pytest.mark.usefixtures("at_once")
def test_the_command_is_killed_and_resumed(jobs: TinyJobs, tmp_path: Path) -> None:
    """`python -m trainers`, which says how far it is, and nothing else unless it fails."""
    job = jobs.make(LORA, epochs=8, checkpoint_every=2)
    path, folder = tmp_path / "job.json", tmp_path / "stage"
    path.write_text(job.model_dump_json())
    command = [sys.executable, "-m", "trainers", str(path), str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    until = time.monotonic() + 600
    moment = random.randrange(3, 20)
    while len(MetricsLog(folder / METRICS_LOG).read()) < moment:
        assert child.poll() is None
        assert time.monotonic() < until
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    output, _ = child.communicate()
    said = ("indexing", f"{job.parts.representation}: training connector and llm")
    assert [line for line in output.decode().splitlines() if not line.startswith(said)] == []
    result = run_stage(job, folder)
    assert weights(result) == weights(run_stage(job, tmp_path / "undisturbed"))
    assert [line.step for line in MetricsLog(folder / METRICS_LOG).read()] == list(range(1, 49))
