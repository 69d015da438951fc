"""Sharded training on two processes: the same model as on one, and the same again after a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from support import tiny
from trainers.job import Job, Parts, Stage, Tune
from trainers.training.launch import launch

pytestmark = pytest.mark.slow


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    parts = Parts(
        representation="clip@32+siglip@32|pool@2",
        llm=str(tiny.llm(tmp_path / "llm")),
        template="chat",
        encoders=(tiny.encoders(tmp_path),),
    )
    full = Tune(mode="full", lr=3e-3)
    stage = Stage(
        data="",
        template="chat",
        train={"connector": full, "llm": full},
        epochs=2,
        batch=8,
        micro_batch=2,
        shard=True,
        checkpoint_every=1,
    )
    return Job(parts=parts, stage=stage, data=tiny.manifest(tmp_path / "data", turns=2))


def test_sharded_equals_whole_and_survives_a_kill(job: Job, tmp_path: Path) -> None:
    whole = load_file(launch(job, tmp_path / "one", processes=1) / "weights.safetensors")
    undisturbed = load_file(launch(job, tmp_path / "two", processes=2) / "weights.safetensors")
    for name, weight in whole.items():
        torch.testing.assert_close(undisturbed[name], weight, rtol=1e-4, atol=1e-5)

    folder = tmp_path / "killed"
    folder.mkdir()
    (tmp_path / "job.json").write_text(job.model_dump_json())
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    process = subprocess.Popen(
        [*torchrun, "-m", "trainers", str(tmp_path / "job.json"), str(folder)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while not list(folder.glob("step-*")):
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (folder / "result").exists()
    resumed = load_file(launch(job, folder, processes=2) / "weights.safetensors")
    for name, weight in undisturbed.items():
        assert torch.equal(resumed[name], weight), name
