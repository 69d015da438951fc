"""Images: opened, fitted into a square frame, turned into pixels, and given the seed of their content.

Two policies fit an image into a square. Letterbox keeps its proportions: the long side becomes the frame's, the short
side is centred between bars. Squash stretches both sides to the frame's. `frame` is the one place that knows the
geometry; what moves points (keypoints, boxes) and what moves pixels agree because both ask it.

    96 x 72 letterboxed to 64:  scale 2/3, content 64 x 48, offset (0, 8)

PIL does the work, since torchvision.io is missing beside a CPU build of torch. It goes by a file's content, whatever
the file is called, and knows formats that run other programs (EPS: Ghostscript); so it may try `FORMATS` alone.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from trainers.errors import DataError
from trainers.utils.regular_files import open_regular

LETTERBOX = "letterbox"
SQUASH = "squash"
POLICIES = (LETTERBOX, SQUASH)
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "TGA", "ICO", "AVIF", "JPEG2000")


@dataclass(frozen=True)
class Frame:
    """Where the points of an image are in a square: (x, y) -> (x * scale_x + offset_x, y * scale_y + offset_y).

    Points are in pixels, counted from the outer corner of the top left pixel, so the centre of pixel i is at i + 0.5.

    Attributes:
        scale_x: pixels of the square for one pixel of the image's width.
        scale_y: the same for its height.
        offset_x: pixels of the square to the left of the image.
        offset_y: pixels of the square above the image.
        size: side of the square, in pixels.
    """

    scale_x: float
    scale_y: float
    offset_x: float
    offset_y: float
    size: int


def frame(width: int, height: int, size: int, policy: str = LETTERBOX) -> Frame:
    """The frame of a width x height image under a policy.

    The content's sides and its offset are whole pixels (so nothing is resampled twice); the scales are those of the
    whole-pixel content, so they may differ by a fraction of a pixel between x and y.

    Args:
        width: of the image, in pixels.
        height: of the image, in pixels.
        size: side of the square, in pixels.
        policy: one of `POLICIES`.

    Raises:
        DataError: the policy is unknown.
    """
    if policy == SQUASH:
        inner_width, inner_height = size, size
    elif policy == LETTERBOX:
        longest = max(width, height)
        inner_width = max(1, round(width * size / longest))
        inner_height = max(1, round(height * size / longest))
    else:
        raise DataError(f"{policy!r} is not a way to fit an image into a square; expected one of {', '.join(POLICIES)}")
    return Frame(
        inner_width / width,
        inner_height / height,
        (size - inner_width) // 2,
        (size - inner_height) // 2,
        size,
    )


def fit(image: Image.Image, size: int, fill: tuple[float, float, float], policy: str = LETTERBOX) -> Image.Image:
    """Resize an image into a square, with bicubic interpolation.

    Args:
        image: of any size and mode.
        size: side of the square, in pixels.
        fill: colour of the bars, RGB in [0, 1].
        policy: one of `POLICIES`.

    Returns:
        The square in RGB.
    """
    place = frame(image.width, image.height, size, policy)
    inner = (round(image.width * place.scale_x), round(image.height * place.scale_y))
    content = image.convert("RGB").resize(inner, Image.Resampling.BICUBIC)
    if inner == (size, size):
        return content
    square = Image.new("RGB", (size, size), tuple(round(255 * channel) for channel in fill))
    square.paste(content, (int(place.offset_x), int(place.offset_y)))
    return square


def pixels(image: Image.Image) -> torch.Tensor:
    """An image as a tensor: (3, height, width) uint8."""
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()


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
