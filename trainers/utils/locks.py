"""Who works on what, on one machine: locks that the operating system frees the moment their owner dies.

A lock is a file held with `flock`, so `kill -9` releases it and nothing needs to expire or be cleaned up. They lie
beside the study's SQLite storage, where every controller of that storage finds the same ones. Studies in a database
server, which several machines may work on, have `acsearch.storage.leases`.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol, TextIO

from acsearch.errors import StudyError
from acsearch.study.attempts import who


class Claims(Protocol):
    """What says who works on what."""

    def exclusive(self, name: str) -> AbstractContextManager[None]:
        """Wait until nobody else works on this, and hold it."""
        ...

    def claim(self, name: str) -> AbstractContextManager[bool]:
        """Hold this if nobody else does; yields whether it is ours."""
        ...

    def held(self, name: str) -> bool:
        """Whether somebody works on this."""
        ...

    def holder(self, name: str) -> str | None:
        """Host, process and job of whoever works on this; None where nobody does."""
        ...

    def steal(self) -> None:
        """Take everything from whoever works on the study. Raises StudyError where that cannot be done."""
        ...

    def confirm(self, *, ask: bool = True) -> None:
        """Raises StudyError when something that we held has been taken over. ask: really, or by what is known."""
        ...


class Locks:
    """The locks of one study."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def exclusive(self, name: str) -> Iterator[None]:
        """Wait until nobody else holds this lock, and hold it."""
        with self._file(name) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            _sign(file)
            yield

    @contextmanager
    def claim(self, name: str) -> Iterator[bool]:
        """Take this lock if nobody holds it; yields whether it is ours."""
        with self._file(name) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                _sign(file)
                yield True

    def confirm(self, *, ask: bool = True) -> None:
        """A lock is ours as long as we live."""

    def held(self, name: str) -> bool:
        """Whether a living process holds this lock."""
        with self._file(name) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            return False

    def holder(self, name: str) -> str | None:
        """Host and process of who holds this lock; None where nobody does."""
        return (self._folder / name).read_text() or "a process" if self.held(name) else None

    def steal(self) -> None:
        raise StudyError("--steal: on one machine, locks go with their process; end it, and its work can be taken up")

    def _file(self, name: str) -> TextIO:
        self._folder.mkdir(parents=True, exist_ok=True)
        return (self._folder / name).open("a")


def _sign(file: TextIO) -> None:
    file.truncate(0)
    file.write(who())
    file.flush()
