"""Rounds from the command line; `make chaos` is a hundred.

PYTHONPATH=tests python -m chaos --rounds 100 --report docs/chaos.md
PYTHONPATH=tests python -m chaos --seed 17 --keep /tmp/round        one round again
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
from pathlib import Path

import forks
from places import SETTINGS

from chaos import places, report, rounds


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0, help="of the first round; each has the next one")
    parser.add_argument("--report", type=Path, help="Markdown file to write")
    parser.add_argument("--keep", type=Path, help="folder for what rounds leave; default: removed when they are right")
    parser.add_argument("--away", type=float, help="kill servers only, and leave them away for so many seconds")
    asked = parser.parse_args()
    for name in SETTINGS:
        os.environ.pop(name, None)
    logging.getLogger("acsearch").setLevel(logging.ERROR)
    folder = asked.keep or Path(tempfile.mkdtemp(prefix="acsearch-chaos-"))
    folder.mkdir(exist_ok=True)
    outcomes = []
    with forks.serving(folder) as forked, places.world(folder, forked) as world:
        twins = {}
        for seed in range(asked.seed, asked.seed + asked.rounds):
            kind = "torchrun" if rounds.schedule(seed)[0] == "torchrun" else "alone"
            if kind not in twins:
                twins[kind] = rounds.undisturbed(kind, world)
            outcome = rounds.play(seed, world, twins[kind], asked.away)
            print(outcome, flush=True)
            outcomes.append(outcome)
            if not outcome.wrong and asked.keep is None:
                shutil.rmtree(folder / f"round-{seed}")
            if asked.report:
                report.write(asked.report, outcomes, "PYTHONPATH=tests python -m chaos " + " ".join(sys.argv[1:]))
    if bad := [outcome.seed for outcome in outcomes if outcome.wrong]:
        print(f"{len(bad)} of {len(outcomes)} rounds are not as they must be: seeds {bad}; see {folder}")
    elif asked.keep is None:
        shutil.rmtree(folder)
    return bool(bad)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # servers are stopped
    try:
        sys.exit(main())
    except Exception:
        traceback.print_exc()
        sys.exit(1)
