"""Locks among the processes of one machine, which the operating system frees the moment their owner dies.

A lock is a file held with `flock`, so `kill -9` releases it and nothing needs to expire or be cleaned up. A lock's file
is written to, so it must be a plain file of its own: links, folders and pipes in its place are refused, never followed.
"""

from __future__ import annotations

import fcntl
import logging
import os
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from trainers.errors import LockError

PATIENCE = 5.0  # seconds; who waits for longer says for whom
_PLAIN = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # without O_NONBLOCK a pipe would wait for its other end
_log = logging.getLogger("acsearch")


class Locks:
    """Locks by name, as files of one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def exclusive(self, name: str) -> Iterator[None]:
        """Wait until nobody else holds this lock, and hold it.

        Raises:
            LockError: its file is not a plain file that we may write; so do the other methods.
        """
        with self._file(name) as file:
            if not _take(file, fcntl.LOCK_EX):
                with announcing(lambda: self.holder(name), f"lock {self._folder / name}"):
                    fcntl.flock(file, fcntl.LOCK_EX)
            _sign(file)
            yield

    @contextmanager
    def claim(self, name: str) -> Iterator[bool]:
        """Take this lock if nobody holds it, and hold it within the block. Yields whether it is ours."""
        with self._file(name) as file:
            ours = _take(file, fcntl.LOCK_EX)
            if ours:
                _sign(file)
            yield ours

    def held(self, name: str) -> bool:
        """Whether a living process holds this lock."""
        return self.holder(name) is not None

    def holder(self, name: str) -> str | None:
        """Host and process that hold this lock; None where nobody does."""
        try:
            file = self._open(name, os.O_RDONLY)
        except FileNotFoundError:
            return None
        with file:
            if _take(file, fcntl.LOCK_SH):
                return None
            said = file.read()
            return said if said and said.isprintable() else "a process"

    def _file(self, name: str) -> TextIO:
        try:
            for folder in reversed([one for one in (self._folder, *self._folder.parents) if not one.exists()]):
                folder.mkdir(exist_ok=True)
                _share(folder)
            self._folder.mkdir(exist_ok=True)  # raises where a file is in its place
        except OSError as error:
            raise LockError(f"{self._folder}: no folder for locks: {error.strerror}") from error
        path = self._folder / name
        is_new = not path.exists()
        try:
            file = self._open(name, os.O_RDWR | os.O_CREAT)
        except PermissionError:
            return self._open(name, os.O_RDONLY)  # another user's, which can be locked all the same
        if is_new:
            _share(path)
        return file

    def _open(self, name: str, flags: int) -> TextIO:
        path = self._folder / name
        try:
            descriptor = os.open(path, flags | _PLAIN, 0o666)
        except (FileNotFoundError, PermissionError):
            raise
        except OSError as error:
            link = "; links are not followed" if path.is_symlink() else ""
            raise LockError(f"lock {path}: {error.strerror}{link}") from error
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
            os.close(descriptor)
            raise LockError(f"lock {path}: not a plain file of one name; remove it where nobody needs it")
        return open(descriptor, "r+" if flags & os.O_RDWR else "r", encoding="utf-8", errors="replace")


def _share(path: Path) -> None:
    """Let the group write to it that may write to the folder above, whatever our umask."""
    here, above = path.stat(), path.parent.stat()
    if here.st_gid == above.st_gid and above.st_mode & stat.S_IWGRP and not above.st_mode & stat.S_ISVTX:
        with suppress(PermissionError):  # somebody else was faster
            path.chmod(stat.S_IMODE(here.st_mode) | stat.S_IWGRP)


@contextmanager
def announcing(holder: Callable[[], str | None], what: str) -> Iterator[None]:
    """While the block waits for somebody: say for whom, if that takes long.

    Args:
        holder: Says who has what is waited for.
        what: It is.
    """

    def say() -> None:
        _log.warning("waiting for %s: held by %s; if that hangs, let it go on or end it", what, holder() or "nobody")

    timer = threading.Timer(PATIENCE, say)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _take(file: TextIO, kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


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
