"""`python -m trainers JOB.json FOLDER`: train a stage, alone or as one process of torchrun or srun. Idempotent."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

from trainers.checkpoints.work_store import open_store
from trainers.job import read_job
from trainers.ranks.rank import run_rank
from trainers.training.train import run_stage


@functools.cache  # each line once
def _report(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _train() -> None:
    job = read_job(Path(sys.argv[1]))
    run_stage(job, Path(sys.argv[2]), report=_report)
    open_store(job.store, _report).drain()


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    run_rank(_train, Path(sys.argv[2]))
