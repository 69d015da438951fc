"""Processes that score candidates beside the controller that started them, and end with it."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from acsearch.home import Home
from acsearch.study import Event, Study


@contextmanager
def scoring(home: Home, study: Study, count: int) -> Iterator[None]:
    """`count` processes in all score the study's candidates, this one among them; results do not depend on who did."""
    spawn = multiprocessing.get_context("spawn")  # a fork would inherit torch's threads, and locks that are held
    crew = [spawn.Process(target=_score, args=(home, study.name), daemon=True) for _ in range(count - 1)]
    for process in crew if study.unscored else ():
        process.start()
    try:
        yield
    finally:
        for process in crew:
            if process.is_alive():
                process.terminate()


def _score(home: Home, name: str) -> None:
    """Score what is left. Ends with the controller; what goes wrong here goes wrong there too, and is told there."""
    from acsearch.finetunes import make_finetunes

    controller = multiprocessing.parent_process()

    def watch(event: Event) -> None:
        if controller is not None and not controller.is_alive():
            raise SystemExit

    with suppress(Exception, KeyboardInterrupt):
        study = Study.open(home.open_storage(create=False), home.locks(name), name)
        study.score(make_finetunes(study.source, home.work), watch)
