"""A controller in a race: `python tests/support/racing_controller.py STORAGE ROUNDS START`.

One round a study, each begun together with its rival. START is a folder: each racer makes a file there for a round, and
goes when the other one has made its own.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace
from pathlib import Path

from acsearch.config.study_file import load_study, update
from acsearch.runners.recorded import RecordedRunner
from acsearch.storage.home import Home
from acsearch.study import study as studies
from acsearch.study.start import start_study
from acsearch.study.study import Study

BUDGET = 3


def main(url: str, rounds: int, start: Path) -> None:
    studies.POLL_SECONDS = 0.2  # who waits for the other's last trial need not wait for two seconds
    studies.ProgressPoller.poll = lambda self: None  # type: ignore[method-assign]  # which would fit the law for those who watch
    config, home = load_study("law_v1"), Home(storage=url)
    storage = home.open_storage(create=True)
    for number in range(rounds):
        name = f"race-{number}"
        file = update(config.file, name=name, policy="random")
        (start / f"{number}-{os.getpid()}").touch()
        while len(list(start.glob(f"{number}-*"))) < 2:
            time.sleep(0.0005)
        study = start_study(
            storage, home.claims(name), name=name, config=replace(config, file=file), budget=BUDGET, resume=True
        )
        Study(study, RecordedRunner(config.table), lambda event: None).run()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
