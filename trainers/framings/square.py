"""The geometry of images that are fitted into a square, by one of two policies.

Letterbox keeps an image's proportions: the long side becomes the square's, the short side is centred between bars.
Squash stretches both sides to the square's. `frame` is the one place that knows the geometry; what moves points
(keypoints, boxes) and what moves pixels agree because both ask it.

    96 x 72 letterboxed to 64:  scale 2/3, content 64 x 48, offset (0, 8)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from PIL import Image

from trainers.errors import DataError

LETTERBOX: Final = "letterbox"
SQUASH: Final = "squash"
POLICIES: tuple[Literal["letterbox", "squash"], ...] = (LETTERBOX, SQUASH)


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
