"""python -m studies.micro.truth: finetunes every candidate of the micro study with several seeds, and writes the table.

    seeds.csv     one line per candidate, benchmark and seed
    table.csv     their means, with standard errors over the seeds; `acsearch law fit micro/truth` reads it

A candidate's C does not depend on the seed; its A is the mean over the seeds, since stage 1 is trained with each.
Three seeds of fourteen candidates take twenty minutes on two cores. Stopped and started again, it goes on where it was.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import fmean

from studies.micro.truth.table import Row, candidates, train, write

_HERE = Path(__file__).resolve().parent


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m studies.micro.truth", description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="of the order of data and of weights")
    parser.add_argument("--work", type=Path, default=Path("acsearch-runs/work"), help="folder for what training makes")
    parser.add_argument("--out", type=Path, default=_HERE, help="folder for the tables")
    parser.add_argument("--workers", type=int, default=2, help="candidates trained at a time, each on one core")
    given = parser.parse_args(arguments)
    names = candidates()
    tasks = list(itertools.product(given.seeds, range(len(names))))
    rows: list[Row] = []
    with ProcessPoolExecutor(given.workers, multiprocessing.get_context("spawn")) as pool:
        made = pool.map(train, tasks, itertools.repeat(given.work))
        for (seed, candidate), found in zip(tasks, made, strict=True):
            rows += found
            print(f"seed {seed}, {names[candidate]}: {fmean(float(row['score']) for row in found):.1f}", flush=True)
    write(rows, given.out)


if __name__ == "__main__":
    main()
