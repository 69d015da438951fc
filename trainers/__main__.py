"""`python -m trainers JOB.json FOLDER`: train a stage, alone or as one process of torchrun or srun. Idempotent.

The first process writes every 30 seconds how far it is.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trainers.checkpoints.work_store import open_store
from trainers.job import Job, read_job
from trainers.ranks.rank import run_rank
from trainers.training.train import run_stage
from trainers.utils.progress import Heartbeat, StepCallback, StepLine


def _print(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


_report = functools.cache(_print)  # each line once


@contextmanager
def _lines(job: Job) -> Iterator[StepCallback | None]:
    """Says every 30 seconds how far the first process is."""
    if os.environ.get("RANK", "0") != "0":
        yield None
        return
    trained = " and ".join(part for part, tune in job.stage.train.items() if tune.mode != "frozen")
    what = f"{job.parts.representation}: training {trained}"
    line = StepLine(what)
    with Heartbeat(_print, f"{what}, loading") as heartbeat:
        yield lambda step, steps, loss: heartbeat.update(line(step, steps, loss))


def _train() -> None:
    job = read_job(Path(sys.argv[1]))
    with _lines(job) as on_step:
        run_stage(job, Path(sys.argv[2]), on_step, _report)
    open_store(job.store, _report).drain()


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    run_rank(_train, Path(sys.argv[2]))
