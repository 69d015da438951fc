"""Large images in tiles, as LLaVA-NeXT: the whole image squashed into one square, then the tiles of a larger one.

The tiles are a grid of the encoder's squares: of all grids that are allowed the one in which most of the image's own
pixels survive, and of those the one that wastes least. The image keeps its proportions in it, between black bars, which
are cut off again among the tokens, whose rows end with a learned newline (`trainers.connectors.maps`).

    anyres       the grids of LLaVA-NeXT: 1 x 2, 2 x 1, 2 x 2, 3 x 1, 1 x 3 (rows x columns)
    anyres@6     every grid of 2 to 6 tiles

A frame of a video is one square view, without tiles.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from PIL import Image

from trainers.contracts import Layout
from trainers.framings.base import Colour, Framing, pixels
from trainers.framings.square import SQUASH, fit

LLAVA_NEXT = ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))  # rows, columns; where two are as good, the earlier one


class AnyRes(Framing):
    """The whole image, then its tiles."""

    square: ClassVar[str] = SQUASH
    newline: ClassVar[bool] = True
    sized: ClassVar[bool] = True

    @property
    def grids(self) -> tuple[tuple[int, int], ...]:
        """(rows, columns) of the grids that are allowed."""
        if self.option is None:
            return LLAVA_NEXT
        sides = range(1, self.option + 1)
        return tuple((rows, columns) for rows in sides for columns in sides if 2 <= rows * columns <= self.option)

    def layout(self, width: int, height: int, frames: int = 1) -> Layout:
        if frames > 1 or not self.grids:
            return Layout(width, height, frames=frames)
        from transformers.image_processing_utils import select_best_resolution

        sides = [(rows * self.size, columns * self.size) for rows, columns in self.grids]
        best = select_best_resolution((height, width), sides)
        return Layout(width, height, best[0] // self.size, best[1] // self.size, overview=True)

    def views(self, images: Sequence[Image.Image], layout: Layout, size: int, patch: int, fill: Colour) -> torch.Tensor:
        whole = [pixels(fit(image, size, fill, SQUASH)) for image in images]
        return torch.stack([*whole, *(_tiles(images[0], layout, size) if layout.tiled else [])])


def _tiles(image: Image.Image, layout: Layout, size: int) -> list[torch.Tensor]:
    """The tiles of an image, row by row."""
    width, height = layout.columns * size, layout.rows * size
    scale_x, scale_y = width / image.width, height / image.height
    inner = (
        (width, min(math.ceil(image.height * scale_x), height))
        if scale_x < scale_y
        else (min(math.ceil(image.width * scale_y), width), height)
    )
    canvas = Image.new("RGB", (width, height))
    content = image.convert("RGB").resize(inner, Image.Resampling.BICUBIC)
    canvas.paste(content, ((width - inner[0]) // 2, (height - inner[1]) // 2))
    whole = pixels(canvas)
    return [
        whole[:, row * size : (row + 1) * size, column * size : (column + 1) * size]
        for row in range(layout.rows)
        for column in range(layout.columns)
    ]
