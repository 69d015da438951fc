"""`python -m acsearch.runners REQUEST.json FOLDER`: measure A or C, alone or as one process of torchrun or srun."""

from __future__ import annotations

import sys
from pathlib import Path

from acsearch.runners.score_request import measure_as_rank, read_request
from trainers.ranks.rank import run_rank


def _measure() -> None:
    measure_as_rank(read_request(Path(sys.argv[1])), Path(sys.argv[2]))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    run_rank(_measure, Path(sys.argv[2]))
