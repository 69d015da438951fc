"""Locks among the processes of one machine, which the operating system frees the moment their owner dies.

A lock is a file held with `flock`, so `kill -9` releases it and nothing needs to expire or be cleaned up.
"""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO


class Locks:
    """Locks by name, as files of one folder."""

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
        """Take this lock if nobody holds it, and hold it within the block. Yields whether it is ours."""
        with self._file(name) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                _sign(file)
                yield True

    def held(self, name: str) -> bool:
        """Whether a living process holds this lock."""
        with self._file(name) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            return False

    def holder(self, name: str) -> str | None:
        """Host and process that hold this lock; None where nobody does."""
        return (self._folder / name).read_text() or "a process" if self.held(name) else None

    def _file(self, name: str) -> TextIO:
        self._folder.mkdir(parents=True, exist_ok=True)
        return (self._folder / name).open("a")


def _sign(file: TextIO) -> None:
    file.truncate(0)
    file.write(who())
    file.flush()


def who() -> str:
    """Host, process and job of this process."""
    here = f"{socket.gethostname()}, process {os.getpid()}"
    if job := os.environ.get("SLURM_JOB_ID"):
        here += f", job {job} of {os.environ.get('SLURM_CLUSTER_NAME', 'its cluster')}"
    return here
