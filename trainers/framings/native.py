"""Images in their own proportions, as NaFlex, Pixtral or Qwen2-VL: a grid of cells that differs from image to image.

A part's size says how much is seen, not its shape: an image becomes as many cells as a square of that size has, or
fewer where it is smaller. Sides are rounded to whole cells, and with `native@2` to pairs of them, for connectors that
fold squares of cells.

    clip@224|native, patch 14: at most 256 cells    448 x 112 pixels -> 8 x 32 cells, 100 x 60 -> 4 x 7
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from PIL import Image

from trainers.contracts import Layout
from trainers.framings.base import Colour, Framing, pixels
from trainers.framings.square import SQUASH


class Native(Framing):
    """One view of each frame, in its own proportions."""

    square: ClassVar[str] = SQUASH
    any_shape: ClassVar[bool] = True
    sized: ClassVar[bool] = True

    def layout(self, width: int, height: int, frames: int = 1) -> Layout:
        unit = self.patch * (self.option or 1)
        most = (self.size // unit) ** 2  # units
        scale = min(1.0, math.sqrt(most / (width * height)) * unit)
        rows, columns = (max(1, round(side * scale / unit)) for side in (height, width))
        if rows * columns > most:  # by rounding, or since a thin image has a unit at least
            if rows > columns:
                rows = max(1, most // columns)
            else:
                columns = max(1, most // rows)
        own = self.option or 1
        return Layout(width, height, frames=frames, grid=(rows * own, columns * own))

    def views(self, images: Sequence[Image.Image], layout: Layout, size: int, patch: int, fill: Colour) -> torch.Tensor:
        assert layout.grid is not None
        shown = (layout.grid[1] * patch, layout.grid[0] * patch)
        return torch.stack([pixels(one.convert("RGB").resize(shown, Image.Resampling.BICUBIC)) for one in images])
