"""`python -m trainers JOB.json FOLDER`: train a stage, alone or as one process of torchrun. Idempotent."""

from __future__ import annotations

import sys
from pathlib import Path

from acsearch.errors import AcsearchError
from trainers.job import read_job
from trainers.train import run_stage

if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    try:
        run_stage(read_job(Path(sys.argv[1])), Path(sys.argv[2]))
    except AcsearchError as error:
        sys.exit(f"error: {error}")
