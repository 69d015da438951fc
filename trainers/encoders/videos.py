"""Video files, read by PyAV: their size, and frames at equal distances, as LLaVA's video models see them.

Like images they are known by their content, of `FORMATS` alone: FFmpeg knows formats that open other files and
addresses.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from trainers.errors import DataError
from trainers.utils.regular_files import open_regular

FRAMES = 8  # that are shown of a video where nothing else is said, as LLaVA-NeXT-Video
FORMATS = "mov,matroska,webm,avi,mpegts,mpeg,flv,ogg,asf,gif"


def video_shape(source: bytes | Path) -> tuple[int, int, int]:
    """Width and height in pixels, and the number of frames, all of which are decoded.

    Args:
        source: the file, or its bytes.

    Raises:
        DataError: it cannot be read; the message names the source.
    """
    width = height = frames = 0
    for frame in _decoded(source):
        width, height, frames = frame.width, frame.height, frames + 1
    return width, height, frames


def read_frames(source: bytes | Path, count: int, of: int) -> tuple[Image.Image, ...]:
    """Frames at equal distances, from the first to the last.

    Args:
        source: the file, or its bytes.
        count: how many frames; all of them where there are no more.
        of: how many the video has.

    Raises:
        DataError: it cannot be read, or has fewer frames; the message names the source.
    """
    wanted = set(chosen_frames(count, of))
    found = [frame.to_image() for number, frame in enumerate(_decoded(source)) if number in wanted]
    if len(found) != len(wanted):
        raise DataError(f"a video of {of} frames has become shorter: {_named(source)}")
    return tuple(found)


def some_frames(source: bytes | Path, count: int = FRAMES) -> tuple[Image.Image, ...]:
    """Frames at equal distances of a video of unknown length; see `read_frames`."""
    return read_frames(source, count, video_shape(source)[2])


def chosen_frames(count: int, of: int) -> list[int]:
    """Numbers of `count` frames at equal distances of a video with `of` frames."""
    numbers: list[int] = np.linspace(0, of - 1, min(count, of), dtype=int).tolist()
    return numbers


def _decoded(source: bytes | Path) -> Iterator[Any]:
    import av

    try:
        with _opened(source) as file, av.open(file, options={"format_whitelist": FORMATS}) as container:
            if not container.streams.video:
                raise ValueError("no video in it")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            seen = False
            for frame in container.decode(stream):
                seen = True
                yield frame
            if not seen:
                raise ValueError("no frame in it")
    except (OSError, ValueError) as error:  # PyAV's errors are one or the other
        raise DataError(f"cannot read a video from {_named(source)}: {error}; expected a file such as MP4") from error


@contextmanager
def _opened(source: bytes | Path) -> Iterator[Any]:
    with io.BytesIO(source) if isinstance(source, bytes) else open_regular(source) as file:
        yield file


def _named(source: bytes | Path) -> str:
    return f"{len(source)} bytes" if isinstance(source, bytes) else f"'{source}'"
