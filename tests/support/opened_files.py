"""Which files of a folder are opened, by whatever code, compiled or not: the kernel tells."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_OPEN = 0x20
_HEAD = struct.Struct("iIII")  # watch, mask, cookie, length of the name that follows


@contextmanager
def opened(folder: Path) -> Iterator[set[str]]:
    """The names, relative to the folder, of the files in it and below it that are opened within the block."""
    libc, found = ctypes.CDLL(None, use_errno=True), set[str]()
    descriptor = libc.inotify_init1(os.O_NONBLOCK)
    assert descriptor >= 0, os.strerror(ctypes.get_errno())
    try:
        watched = {}
        for path in [folder, *(path for path in folder.rglob("*") if path.is_dir() and not path.is_symlink())]:
            watched[libc.inotify_add_watch(descriptor, os.fsencode(path), _OPEN)] = path
        assert min(watched) >= 0, os.strerror(ctypes.get_errno())
        try:
            yield found
        finally:
            for watch, name in _events(descriptor):
                path = watched[watch] / name
                if name and not path.is_dir():
                    found.add(path.relative_to(folder).as_posix())
    finally:
        os.close(descriptor)


def _events(descriptor: int) -> Iterator[tuple[int, str]]:
    while True:
        try:
            content = os.read(descriptor, 2**16)
        except BlockingIOError:
            return
        while content:
            watch, _, _, length = _HEAD.unpack_from(content)
            yield watch, os.fsdecode(content[_HEAD.size : _HEAD.size + length].rstrip(b"\0"))
            content = content[_HEAD.size + length :]
