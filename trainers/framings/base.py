"""What every framing offers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from PIL import Image

from trainers.contracts import Layout
from trainers.representation import Choice

Colour = tuple[float, float, float]  # RGB in [0, 1]


class Framing:
    """How images become views, for a representation whose first encoder has a size and a patch.

    Attributes:
        square: the policy by which this framing shows a whole image in one square, where a score asks for that.
        newline: whether rows of tiles' tokens end with a learned token.
        any_shape: whether views are rectangles of any sides, which not every encoder takes.
        sized: whether layouts depend on the first encoder's size and patch.
        size: side of the first encoder's square, in pixels.
        patch: side of a cell of the first encoder's grid, in pixels.
        option: the number after "@".
    """

    square: ClassVar[str]
    newline: ClassVar[bool] = False
    any_shape: ClassVar[bool] = False
    sized: ClassVar[bool] = False

    def __init__(self, size: int, patch: int, option: int | None = None) -> None:
        self.size, self.patch, self.option = size, patch, option

    def layout(self, width: int, height: int, frames: int = 1) -> Layout:
        """How an image is shown.

        Args:
            width: of the image, in pixels.
            height: of the image, in pixels.
            frames: of a video; 1 for an image.
        """
        return Layout(width, height, frames=frames)

    def square_layout(self) -> Layout:
        """How an image is shown that is the first encoder's square."""
        return self.layout(self.size, self.size)

    def views(self, images: Sequence[Image.Image], layout: Layout, size: int, patch: int, fill: Colour) -> torch.Tensor:
        """What an encoder is shown.

        Args:
            images: the image, or the frames of a video.
            layout: as `layout` gave it.
            size: side of the encoder's square, in pixels.
            patch: side of a cell of the encoder's grid, in pixels.
            fill: the colour of bars.

        Returns:
            (layout.views, 3, height, width) uint8.
        """
        raise NotImplementedError


def make_framing(choice: Choice, size: int, patch: int) -> Framing:
    """Make the framing that a representation names.

    Args:
        choice: the framing.
        size: side of the first encoder's square, in pixels.
        patch: side of a cell of the first encoder's grid, in pixels.
    """
    made: Framing = choice.load()(size, patch, choice.option)
    return made


def pixels(image: Image.Image) -> torch.Tensor:
    """An image as a tensor: (3, height, width) uint8."""
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()
