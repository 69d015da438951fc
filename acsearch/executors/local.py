"""Processes that work on a study beside the controller that started them, and end with it."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from acsearch.redaction import guard
from acsearch.runners.registry import make_runner, training_of
from acsearch.storage.home import Home
from acsearch.study.events import Event, EventCallback
from acsearch.study.stored import StoredStudy
from acsearch.study.study import Study
from trainers.ranks import preemption

_DEVICES = "CUDA_VISIBLE_DEVICES"


class LocalExecutor:
    """Runs a study here, in this process and in others beside it."""

    def __init__(self, home: Home, parallel: int) -> None:
        """
        Args:
            home: where the study lives.
            parallel: finetunes at a time.
        """
        self._home, self._parallel = home, parallel

    def run(self, stored: StoredStudy, on_event: EventCallback) -> None:
        """See `acsearch.executors.base.Executor.run`."""
        training = training_of(stored.source)
        scoring, processes = (training.parallel, training.processes) if training else (1, 1)
        runner = make_runner(stored.source, self._home.work, self._home.store)
        pool = worker_pool(self._home, stored, scoring=scoring, finetuning=self._parallel, processes=processes)
        with preemption.listening(), pool:
            Study(stored, runner, on_event).run()


@contextmanager
def worker_pool(home: Home, stored: StoredStudy, *, scoring: int, finetuning: int, processes: int) -> Iterator[None]:
    """Have other processes score and finetune too while the block lasts; this process counts as one of them.

    Where there are GPUs enough, each process has its own; see `assign_devices`.

    Args:
        home: where the study lives.
        stored: the study.
        scoring: candidates scored at a time.
        finetuning: finetunes at a time.
        processes: of one training run.
    """
    spawn = multiprocessing.get_context("spawn")  # a fork would inherit torch's threads, and locks that are held
    count = max(scoring if stored.unscored else 1, finetuning)
    devices = assign_devices(visible_devices() if finetuning > 1 else [], finetuning, processes)
    workers = [
        spawn.Process(target=_work, args=(home, stored.name, devices[place % finetuning], place < finetuning))
        for place in range(1, count)
    ]
    for process in workers:
        process.daemon = True
        process.start()
    _restrict(devices[0])
    try:
        yield
    finally:
        for process in workers:
            if process.is_alive():
                process.terminate()


def visible_devices() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    if (given := os.environ.get(_DEVICES)) is not None:
        return [device for device in given.split(",") if device]
    import torch

    return [str(device) for device in range(torch.cuda.device_count())]


def assign_devices(devices: list[str], workers: int, processes: int) -> list[list[str] | None]:
    """GPUs for each worker.

    Args:
        devices: all that there are.
        workers: that share them.
        processes: of each worker's training runs, which need a GPU each.

    Returns:
        For each worker its GPUs, or None (all of them) where there are too few to share out.
    """
    if workers == 1 or len(devices) < workers * processes:
        return [None] * workers
    return [devices[place * processes : (place + 1) * processes] for place in range(workers)]


def _restrict(devices: list[str] | None) -> None:
    if devices is not None:  # before CUDA starts
        os.environ[_DEVICES] = ",".join(devices)


def _work(home: Home, name: str, devices: list[str] | None, finetunes_too: bool) -> None:
    """Do what is left. Ends with the controller; what goes wrong here goes wrong there too, and is told there."""
    guard()
    _restrict(devices)
    controller = multiprocessing.parent_process()

    def on_event(event: Event) -> None:
        if controller is not None and not controller.is_alive():
            raise SystemExit

    with suppress(Exception, KeyboardInterrupt):
        stored = StoredStudy.open(home.open_storage(create=False), home.claims(name), name)
        study = Study(stored, make_runner(stored.source, home.work, home.store), on_event)
        study.run() if finetunes_too else study.score()
