"""The fonts that come with matplotlib, opened without importing it."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

from PIL import ImageFont

from studies.micro.world.names import FONTS


@cache
def load(font: str, pixels: int) -> ImageFont.FreeTypeFont:
    """Open a font, without kerning, so that every build of PIL sets it alike.

    Args:
        font: one of `FONTS`.
        pixels: its size.

    Raises:
        FileNotFoundError: there is no such font.
    """
    package = find_spec("matplotlib")
    if package is None or package.origin is None or font not in FONTS:
        raise FileNotFoundError(f"font {font!r}: expected one of {', '.join(FONTS)} inside an installed matplotlib")
    path = Path(package.origin).parent / "mpl-data" / "fonts" / "ttf" / f"{font}.ttf"
    return ImageFont.truetype(str(path), pixels, layout_engine=ImageFont.Layout.BASIC)


@cache
def extent(text: str, font: str, pixels: int) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of the drawn pixels of a text at the origin."""
    left, top, right, bottom = load(font, pixels).getbbox(text)
    return int(left), int(top), int(right), int(bottom)
