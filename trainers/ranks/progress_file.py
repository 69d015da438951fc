"""How far a task is: its first rank writes a line into a file of its folder, which the controller shows."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from trainers.ranks.group import Group
from trainers.utils.progress import Heartbeat, Reporter, silent

_FILE = "progress"
_EVERY = 0.5  # seconds between writes


class ProgressFile:
    """The line of one task."""

    def __init__(self, folder: Path) -> None:
        self._path, self._written = folder / _FILE, -_EVERY

    def write(self, text: str) -> None:
        """Say how far the task is; dropped where something was said just before."""
        if time.monotonic() - self._written < _EVERY:
            return
        self._written = time.monotonic()
        fresh = self._path.with_name(f".{_FILE}.{os.getpid()}")
        with suppress(OSError):  # a full disk will be told of by what matters
            fresh.write_text(text, encoding="utf-8")
            fresh.replace(self._path)

    def read(self) -> str:
        """What was said last; empty where nothing was."""
        try:
            return self._path.read_text(encoding="utf-8")
        except OSError:
            return ""

    def remove(self) -> None:
        """Forget what was said."""
        self._path.unlink(missing_ok=True)


@contextmanager
def telling(folder: Path, group: Group, text: str) -> Iterator[Reporter]:
    """A Reporter for a rank: what the first one says goes to the controller, and every 30 seconds into the log.

    Args:
        folder: of the task.
        group: its ranks.
        text: what is going on at first.
    """
    if not group.first:
        yield silent
        return
    file, each = ProgressFile(folder), "" if group.size == 1 else f" in each of {group.size} processes"
    with Heartbeat(lambda line: print(line, file=sys.stderr, flush=True), text) as heartbeat:

        def tell(said: str) -> None:
            file.write(said + each)
            heartbeat.update(said + each)

        yield tell
