"""`python -m trainers JOB.json FOLDER`: train a stage, alone or as one process of torchrun or srun. Idempotent.

Asked to stop by a signal, see `trainers.training.preemption`, it commits a checkpoint and ends with exit code 75. An
error that a person can act on is printed, and left in the folder for `trainers.training.launch`.
"""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path

from trainers.checkpoints.work_store import open_store
from trainers.errors import AcsearchError, PreemptedError
from trainers.job import read_job
from trainers.training import preemption
from trainers.training.error_file import write_error
from trainers.training.launch import slurm_ranks
from trainers.training.train import run_stage


@functools.cache  # each line once
def _report(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    os.environ |= slurm_ranks(os.environ)
    try:
        job = read_job(Path(sys.argv[1]))
        with preemption.listening():
            run_stage(job, Path(sys.argv[2]), report=_report)
            open_store(job.store, _report).drain()
    except PreemptedError:
        sys.exit(preemption.EXIT_CODE)
    except AcsearchError as error:
        write_error(Path(sys.argv[2]), error)
        sys.exit(f"{type(error).__name__}: {error.line}")
