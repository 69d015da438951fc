"""`python -m evals REQUEST.json FOLDER`: evaluate a committed result, alone or as one process of torchrun or srun.

Idempotent: benchmarks that are committed are not run again.
"""

from __future__ import annotations

import sys
from pathlib import Path

from evals.launch import evaluate_as_rank
from evals.request import read_request
from trainers.ranks.rank import run_rank


def _evaluate() -> None:
    evaluate_as_rank(read_request(Path(sys.argv[1])), Path(sys.argv[2]))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    run_rank(_evaluate, Path(sys.argv[2]))
