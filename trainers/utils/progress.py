"""Callbacks by which work that takes long tells a caller how it is going, and lines about it where no terminal is."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType

Reporter = Callable[[str], None]  # what is going on, for a person who waits
CountCallback = Callable[[int, int], None]  # how many are done, of how many
StepCallback = Callable[[int, int, float], None]  # optimizer step, of how many, smoothed loss
BenchmarkCallback = Callable[[str, int, int], None]  # benchmark, samples answered, of how many

EVERY = 30.0  # seconds between lines in a log


def silent(text: str) -> None:
    """A Reporter that says nothing."""


class Heartbeat:
    """Writes every 30 seconds what is going on, also while the work itself comes to nothing that it could tell.

    Args:
        write: takes a line, in a thread of its own.
        text: what is going on at first.
        every: seconds between lines.
    """

    def __init__(self, write: Reporter, text: str, every: float = EVERY) -> None:
        self._write, self._text, self._every = write, text, every
        self._since, self._over = time.monotonic(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def update(self, text: str) -> None:
        """Something else is going on."""
        self._text, self._since = text, time.monotonic()

    def _run(self) -> None:
        while not self._over.wait(self._every):
            still = time.monotonic() - self._since
            self._write(f"{self._text} (for {duration(still)})" if still > self._every else self._text)

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()


class StepLine:
    """What to say of an optimizer step: its number, its loss, and the time left at the pace since the first one.

    Args:
        what: is trained.
        clock: seconds.
    """

    def __init__(self, what: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._what, self._clock = what, clock
        self._first: tuple[int, float] | None = None

    def __call__(self, step: int, steps: int, loss: float) -> str:
        now = self._clock()
        first, began = self._first = self._first or (step, now)
        left = f", {duration((now - began) / (step - first) * (steps - step))} left" if step > first else ""
        return f"{self._what}, step {step} of {steps}, loss {loss:.2f}{left}"


def duration(seconds: float) -> str:
    """A length of time, for a person: `40 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
