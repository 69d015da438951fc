"""Files that are either whole or not there, and of which a writer that dies leaves nothing for long.

A file is written under a temporary name beside its own, synced, and renamed. Its writer holds a lock on it meanwhile,
which goes with the process; so a temporary file that nobody has locked is a dead process's, and whoever finds it may
remove it.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A temporary file that becomes `path` when the block ends well, and is removed when it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_stale(path.parent, path.name)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = _locked(fresh)
    try:
        yield fresh
        os.fsync(descriptor)
        os.replace(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)
        os.close(descriptor)


def remove_stale(folder: Path, name: str = "*") -> None:
    """Remove temporary files of dead processes.

    Args:
        folder: where they are.
        name: of the file that they should have become; "*" for any.
    """
    for half in folder.glob(f".{name}.*[0-9]"):
        with suppress(OSError):  # it has just become whole, or is a folder
            descriptor = os.open(half, os.O_RDWR)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(descriptor), half.stat()):
                    half.unlink()
            finally:
                os.close(descriptor)


def _locked(fresh: Path) -> int:
    """A descriptor of an empty file, whose lock is ours."""
    while True:
        descriptor = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):  # somebody swept it before we had the lock
            if os.path.samestat(os.fstat(descriptor), fresh.stat()):
                return descriptor
        os.close(descriptor)
