"""Processes that work on a study beside the controller that started them, and end with it."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from acsearch.redaction import guard
from acsearch.storage.home import Home
from acsearch.study.events import Event, ProgressPoller
from acsearch.study.study import Study

_DEVICES = "CUDA_VISIBLE_DEVICES"


@contextmanager
def worker_pool(home: Home, study: Study, *, scoring: int, finetuning: int, processes: int) -> Iterator[None]:
    """So many processes in all score the study's candidates and finetune, this one among them.

    processes: of one training run. Where there are GPUs enough, each has its own; see `assign_devices`.
    """
    spawn = multiprocessing.get_context("spawn")  # a fork would inherit torch's threads, and locks that are held
    count = max(scoring if study.unscored else 1, finetuning)
    devices = assign_devices(visible_devices() if finetuning > 1 else [], finetuning, processes)
    members = [
        spawn.Process(target=_work, args=(home, study.name, devices[place % finetuning], place < finetuning))
        for place in range(1, count)
    ]
    for process in members:
        process.daemon = True
        process.start()
    _restrict(devices[0])
    try:
        yield
    finally:
        for process in members:
            if process.is_alive():
                process.terminate()


def visible_devices() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    if (given := os.environ.get(_DEVICES)) is not None:
        return [device for device in given.split(",") if device]
    import torch

    return [str(device) for device in range(torch.cuda.device_count())]


def assign_devices(devices: list[str], crew: int, processes: int) -> list[list[str] | None]:
    """GPUs of each of a crew, None for all where there are too few to share out."""
    if crew == 1 or len(devices) < crew * processes:
        return [None] * crew
    return [devices[place * processes : (place + 1) * processes] for place in range(crew)]


def _restrict(devices: list[str] | None) -> None:
    if devices is not None:  # before CUDA starts
        os.environ[_DEVICES] = ",".join(devices)


def _work(home: Home, name: str, devices: list[str] | None, finetunes_too: bool) -> None:
    """Do what is left. Ends with the controller; what goes wrong here goes wrong there too, and is told there."""
    guard()
    _restrict(devices)
    from acsearch.runners.registry import make_runner

    controller = multiprocessing.parent_process()

    def watch(event: Event) -> None:
        if controller is not None and not controller.is_alive():
            raise SystemExit

    with suppress(Exception, KeyboardInterrupt):
        study = Study.open(home.open_storage(create=False), home.claims(name), name)
        finetunes = make_runner(study.source, home.work, home.store)
        if finetunes_too:
            study.run(finetunes, watch)
        else:
            study.score(finetunes, watch, ProgressPoller(study, watch))
