"""Locks among the processes of one machine, which the operating system frees the moment their owner dies.

A lock is a file held with `flock`, so `kill -9` releases it and nothing needs to expire or be cleaned up.
"""

from __future__ import annotations

import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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
        try:
            file = (self._folder / name).open()  # a question makes no file: what is asked about may be read-only
        except FileNotFoundError:
            return False
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            return False

    def holder(self, name: str) -> str | None:
        """Host and process that hold this lock; None where nobody does."""
        return (self._folder / name).read_text() or "a process" if self.held(name) else None

    def _file(self, name: str) -> TextIO:
        for folder in reversed([one for one in (self._folder, *self._folder.parents) if not one.exists()]):
            folder.mkdir(exist_ok=True)
            _share(folder)
        path = self._folder / name
        is_new = not path.exists()
        try:
            file = path.open("a")
        except PermissionError:
            return path.open()  # another user's, which can be locked all the same
        if is_new:
            _share(path)
        return file


def _share(path: Path) -> None:
    """Let the group write to it that may write to the folder above, whatever our umask."""
    here, above = path.stat(), path.parent.stat()
    if here.st_gid == above.st_gid and above.st_mode & stat.S_IWGRP and not above.st_mode & stat.S_ISVTX:
        with suppress(PermissionError):  # somebody else was faster
            path.chmod(stat.S_IMODE(here.st_mode) | stat.S_IWGRP)


def _sign(file: TextIO) -> None:
    if file.writable():
        file.truncate(0)
        file.write(who())
        file.flush()


def who() -> str:
    """Host, process and job of this process."""
    here = f"{socket.gethostname()}, process {os.getpid()}"
    if job := os.environ.get("SLURM_JOB_ID"):
        here += f", job {job} of {os.environ.get('SLURM_CLUSTER_NAME', 'its cluster')}"
    return here
