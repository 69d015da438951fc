"""Executors by name."""

from __future__ import annotations

from acsearch.executors.base import Executor
from acsearch.runners.registry import training_of
from acsearch.storage.home import Home
from acsearch.study.stored import StoredStudy
from trainers.errors import ConfigError


def make_executor(engine: str, home: Home, stored: StoredStudy, parallel: int) -> Executor:
    """Where the work of a study is done.

    Args:
        engine: "local" or "slurm".
        home: where the study lives.
        stored: the study.
        parallel: finetunes at a time; for Slurm, jobs at a time.

    Raises:
        ConfigError: this study cannot be run there.
        StudyError: the scheduler does not answer.
    """
    if engine == "local":
        from acsearch.executors.local import LocalExecutor

        return LocalExecutor(home, parallel)
    from acsearch.executors.controller import SlurmExecutor
    from acsearch.executors.slurm import Slurm

    if home.on_one_machine:
        raise ConfigError("--engine slurm: jobs cannot share SQLite; give --storage postgresql+psycopg://...")
    training = training_of(stored.source)
    if training is None:
        raise ConfigError("--engine slurm: this study looks its finetunes up in a table: nothing to submit")
    return SlurmExecutor(Slurm(training.slurm, home.jobs, home.environment), parallel)
