"""A job: its digest, and the file it travels as."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.training_jobs import BOTH, LORA, TinyJobs
from trainers.errors import TrainingError
from trainers.job import read_job


def test_the_digest_is_of_what_decides_the_result(jobs: TinyJobs) -> None:
    job = jobs.make(BOTH)
    same = [
        jobs.make(BOTH, micro_batch=1, checkpoint_every=7, workers=3, gradient_checkpointing=True, cache_features=True),
        job.model_copy(update={"data": Path("/else"), "features": None, "labels": {"trial": "3"}}),
        job.model_copy(update={"parts": job.parts.model_copy(update={"llm": "/moved", "encoders": ()})}),
    ]
    assert {one.digest for one in same} == {job.digest}
    other = [
        jobs.make(LORA),
        jobs.make(BOTH, batch=8),
        jobs.make(BOTH, epochs=1),
        jobs.make(BOTH, seed=1),
        jobs.make(BOTH, identity="other"),
        jobs.make(BOTH, parts={"seed": 1}),
        jobs.make(BOTH, parts={"representation": "clip@32"}),
    ]
    assert len({one.digest for one in [job, *other]}) == 8


def test_a_job_travels_as_a_file(jobs: TinyJobs, tmp_path: Path) -> None:
    path = tmp_path / "job.json"
    path.write_text(jobs.make(LORA).model_dump_json())
    assert read_job(path) == jobs.make(LORA)
    path.write_text("{}")
    with pytest.raises(TrainingError, match="job.json: not a training job"):
        read_job(path)
