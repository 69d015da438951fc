"""Send what another library prints, logs and draws to a file instead of the terminal."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO


class _Routed:
    """A stream whose writes by one thread go to a log, while other threads (a progress bar's) keep the stream."""

    def __init__(self, stream: TextIO, log: TextIO, thread: int) -> None:
        self._stream, self._log, self._thread = stream, log, thread
        self.muted = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log if self.muted and threading.get_ident() == self._thread else self._stream, name)


class Muted:
    """Output that is muted for now."""

    def __init__(self, streams: tuple[_Routed, ...]) -> None:
        self._streams = streams

    @contextmanager
    def unmuted(self) -> Iterator[None]:
        """Within the block, output goes to the terminal."""
        before = [stream.muted for stream in self._streams]
        for stream in self._streams:
            stream.muted = False
        try:
            yield
        finally:
            for stream, muted in zip(self._streams, before, strict=True):
                stream.muted = muted


@contextmanager
def muted(log: Path) -> Iterator[Muted]:
    """Within the block, send everything that this thread writes to stdout and stderr, and loguru's messages, to a file.

    Args:
        log: the file, to which output is appended.
    """
    import lmms_eval.models  # noqa: F401  replaces loguru's handlers by one that writes to the terminal
    from loguru import logger

    log.parent.mkdir(parents=True, exist_ok=True)
    thread, out, err = threading.get_ident(), sys.stdout, sys.stderr
    with log.open("a", encoding="utf-8", errors="replace") as file:
        streams = _Routed(out, file, thread), _Routed(err, file, thread)
        logger.remove()
        handler = logger.add(file, level="INFO")
        sys.stdout, sys.stderr = streams
        try:
            yield Muted(streams)
        finally:
            sys.stdout, sys.stderr = out, err
            logger.remove(handler)
