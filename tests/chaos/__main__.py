"""Rounds from the command line; `make chaos` is a hundred.

PYTHONPATH=tests python -m chaos --rounds 100 --report docs/chaos.md
PYTHONPATH=tests python -m chaos --seed 17 --keep /tmp/round        one round again
PYTHONPATH=tests python -m chaos --away 600 --rounds 18 --jobs 6    each server away for ten minutes in each phase
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import signal
import sys
import tempfile
import traceback
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from pathlib import Path
from queue import Queue

from chaos import places, report, rounds
from support import fork_server
from support.homes import SETTINGS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0, help="of the first round; each has the next one")
    parser.add_argument("--report", type=Path, help="Markdown file to write")
    parser.add_argument("--keep", type=Path, help="folder for what rounds leave; default: removed when they are right")
    parser.add_argument("--jobs", type=int, default=1, help="rounds at a time, each with servers of its own")
    parser.add_argument("--away", type=float, help="other rounds: in each, one server away once, for so many seconds")
    asked = parser.parse_args()
    if asked.away and asked.seed + asked.rounds > len(rounds.OUTAGES):
        parser.error(f"--away: there are {len(rounds.OUTAGES)} rounds, from --seed 0")
    for name in SETTINGS:
        os.environ.pop(name, None)
    logging.getLogger("acsearch").setLevel(logging.ERROR)
    folder = asked.keep or Path(tempfile.mkdtemp(prefix="acsearch-chaos-"))
    folder.mkdir(exist_ok=True)
    outcomes: list[rounds.Outcome] = []
    with ExitStack() as stack:
        forked = stack.enter_context(fork_server.serving(folder))
        worlds = Queue[places.World]()
        for number in range(asked.jobs):
            (folder / f"world-{number}").mkdir(exist_ok=True)
            worlds.put(stack.enter_context(places.world(folder / f"world-{number}", forked)))
        seeds = range(asked.seed, asked.seed + asked.rounds)
        kinds = ["alone" if asked.away else _twin(seed) for seed in seeds]
        twins = {kind: rounds.undisturbed(kind, worlds.queue[0]) for kind in set(kinds)}

        def play(seed: int, kind: str) -> rounds.Outcome:
            world = worlds.get()
            try:
                if asked.away:
                    outcome = rounds.outage(seed, asked.away, world, twins[kind])
                else:
                    outcome = rounds.play(seed, world, twins[kind])
                if not outcome.wrong and asked.keep is None:
                    shutil.rmtree(world.folder / f"round-{seed}")
                return outcome
            finally:
                worlds.put(world)

        pool = ThreadPoolExecutor(asked.jobs)
        stack.callback(pool.shutdown, cancel_futures=True)
        for played in as_completed([pool.submit(play, seed, kind) for seed, kind in zip(seeds, kinds, strict=True)]):
            outcomes = sorted([*outcomes, played.result()], key=lambda one: one.seed)
            print(played.result(), flush=True)
            if asked.report:
                report.write(asked.report, outcomes, "PYTHONPATH=tests python -m chaos " + " ".join(sys.argv[1:]))
    if bad := [outcome.seed for outcome in outcomes if outcome.wrong]:
        print(f"{len(bad)} of {len(outcomes)} rounds are not as they must be: seeds {bad}; see {folder}")
    elif asked.keep is None:
        shutil.rmtree(folder)
    return bool(bad)


def _twin(seed: int) -> str:
    """The kind of undisturbed study that a round is compared with."""
    return "torchrun" if rounds.schedule(seed)[0] == "torchrun" else "alone"


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # servers are stopped
    try:
        sys.exit(main())
    except Exception:
        traceback.print_exc()
        sys.exit(1)
