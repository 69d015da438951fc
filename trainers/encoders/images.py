"""Image files: opened, and given the seed of their content.

PIL does the work, since torchvision.io is missing beside a CPU build of torch. It goes by a file's content, whatever
the file is called, and knows formats that run other programs (EPS: Ghostscript); so it may try `FORMATS` alone.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from trainers.errors import DataError
from trainers.utils.regular_files import open_regular

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "TGA", "ICO", "AVIF", "JPEG2000")


def content_seed(image: Image.Image) -> int:
    """A seed of 63 bits made of what the image shows, for everything random that belongs to the image.

    Depends on the size and the RGB values alone, not on the file, its name or its place in a batch.
    """
    rgb = image.convert("RGB")
    digest = hashlib.sha256(f"{rgb.width}x{rgb.height}:".encode() + rgb.tobytes())
    return int.from_bytes(digest.digest()[:8], "big") >> 1


def open_image(source: bytes | Path) -> Image.Image:
    """Open an image file in RGB, turned as its EXIF orientation says.

    Args:
        source: the file, or its bytes.

    Raises:
        DataError: it cannot be read; the message names the source.
    """
    try:
        with (
            io.BytesIO(source) if isinstance(source, bytes) else open_regular(source) as file,
            Image.open(file, formats=FORMATS) as image,
        ):
            return _rgb(ImageOps.exif_transpose(image))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        named = f"{len(source)} bytes" if isinstance(source, bytes) else f"'{source}'"
        reason = f"none of {', '.join(FORMATS)}" if isinstance(error, UnidentifiedImageError) else str(error)
        raise DataError(
            f"cannot read an image from {named}: {reason}; expected an image file such as PNG or JPEG"
        ) from error


@contextmanager
def known_formats() -> Iterator[None]:
    """Within the block all of this process opens images of `FORMATS` alone: for libraries that open them themselves."""
    Image.init()
    every, Image.ID[:] = Image.ID.copy(), [name for name in Image.ID if name in FORMATS]
    try:
        yield
    finally:
        Image.ID[:] = every


def _rgb(image: Image.Image) -> Image.Image:
    """Pillow clips what is above 255, which would turn nearly all of a 16-bit image white."""
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError(f"its pixels are numbers of no known range (Pillow's mode {image.mode}); save it in 8 bits")
    return image.convert("RGB")
