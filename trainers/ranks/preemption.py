"""Stop early and in order: a signal asks for it, and training stops after a step with its checkpoint committed.

Schedulers send one when a time limit nears or a job is preempted. Signals come to processes, so this is the process's
own state. A process that has ranks do its task asks them through a file in the task's folder.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trainers.errors import PreemptedError

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: try again
_FILE = "stop"
_asked = threading.Event()


@contextmanager
def listening() -> Iterator[None]:
    """Within the block, a signal of `SIGNALS` asks this process to stop and does not kill it."""
    before = {number: signal.signal(number, lambda *_: _asked.set()) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def requested(folder: Path | None = None) -> bool:
    """Whether this process was asked to stop, or whoever works in this folder."""
    return _asked.is_set() or (folder is not None and (folder / _FILE).exists())


def request(folder: Path) -> None:
    """Ask whoever works in a folder to stop."""
    (folder / _FILE).touch()


def clear(folder: Path) -> None:
    """Forget that somebody who worked in a folder was asked to stop."""
    (folder / _FILE).unlink(missing_ok=True)


def check(folder: Path | None = None) -> None:
    """End work that can be taken up again at the same place.

    Raises:
        PreemptedError: this process was asked to stop, or whoever works in this folder.
    """
    if requested(folder):
        raise PreemptedError("stopped as asked; the same command goes on from here")
