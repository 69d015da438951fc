"""How far a task is, as a file of its folder: its first rank writes a line, which the controller shows."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

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
