"""python -m studies.micro.pretrain: makes every model of the micro study, two at a time on one core each.

Half an hour on two cores. Same machine, same versions: same bytes.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path

_HERE = Path(__file__).resolve().parent.parent


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    from studies.micro.pretrain.make import names

    parser = argparse.ArgumentParser(prog="python -m studies.micro.pretrain", description=__doc__)
    parser.add_argument("--only", action="append", choices=names(), help="make this one alone; may be given again")
    parser.add_argument("--out", type=Path, default=_HERE / "weights", help="folder for the models")
    parser.add_argument("--cache", type=Path, help="keep the rendered images here, and use those that are there")
    parser.add_argument("--workers", type=int, default=2, help="models trained at a time, each on one core")
    parser.add_argument("--steps-scale", type=float, default=1.0, help="share of the steps and images; for trials")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        run(given.only or names(), given.out, given.cache or Path(scratch), given.workers, given.steps_scale)
    return 0


def run(wanted: list[str], out: Path, cache: Path, workers: int, scale: float) -> None:
    """Make models. One that starts from another's weights waits for it.

    Args:
        wanted: folders of the models.
        out: where the models are stored.
        cache: where the rendered images are kept.
        workers: models trained at a time.
        scale: share of the steps and images; below 1 for trials.
    """
    from studies.micro.pretrain import registry
    from studies.micro.pretrain.corpus import render
    from studies.micro.pretrain.make import corpus_size, make
    from studies.micro.pretrain.recipes import ENCODERS, LANGUAGE, PROBE_SPLIT, SPLIT

    out.mkdir(parents=True, exist_ok=True)
    if wanted != [LANGUAGE.folder]:
        for split, count in zip((SPLIT, PROBE_SPLIT), corpus_size(scale), strict=True):
            render(cache, split, count, workers)
    if out == _HERE / "weights":
        registry.write_rows(_HERE / "encoders.yaml", "./weights")
    starts = {recipe.folder: recipe.start for recipe in ENCODERS}
    if workers == 1:
        for name in wanted:
            make(name, out, cache, scale)
        return
    waiting, running = list(wanted), dict[Future[None], str]()
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        while waiting or running:
            busy = {*waiting, *running.values()}
            for name in [name for name in waiting if starts.get(name) not in busy]:
                running[pool.submit(make, name, out, cache, scale)] = name
                waiting.remove(name)
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                del running[future]
                future.result()


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
