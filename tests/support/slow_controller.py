"""A controller as a process of its own: starts or resumes a study of law_v1 whose finetunes take a while.

    python tests/support/slow_controller.py STUDY BUDGET WHILE LOG      with $ACSEARCH_HOME set

WHILE is how many seconds each finetune takes, or a file: then they take until it is there. Writes a line to LOG as each
finetune begins and another as it ends, so that a test can count them.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from acsearch.config.study_file import load_study
from acsearch.runners.base import Observation, Progress
from acsearch.runners.recorded import RecordedRunner
from acsearch.storage.home import Home
from acsearch.study.start import start_study
from acsearch.study.study import Study


def main(name: str, budget: int, wait: str, log: Path) -> None:
    def say(what: str, trial: int, candidate: int) -> None:
        with log.open("a") as file:
            file.write(f"{what} {trial} {candidate} {os.getpid()}\n")

    look_up = RecordedRunner.finetune

    def slowly(self: RecordedRunner, candidate: int, trial: int, run: str | None, progress: Progress) -> Observation:
        say("begin", trial, candidate)
        if wait.replace(".", "").isdigit():
            time.sleep(float(wait))
        while "/" in wait and not Path(wait).exists():
            time.sleep(0.01)
        observation = look_up(self, candidate, trial, run, progress)
        say("end", trial, candidate)
        return observation

    RecordedRunner.finetune = slowly  # type: ignore[method-assign]
    config, home = load_study("law_v1"), Home()
    storage, locks = home.open_storage(create=True), home.claims(name)
    study = start_study(
        storage,
        locks,
        name=name,
        config=config,
        budget=budget,
        resume=True,
    )
    Study(study, RecordedRunner(config.table), lambda event: None).run()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))
