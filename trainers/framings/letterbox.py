"""One square view that keeps an image's proportions, between bars of the encoder's mean colour, which becomes about 0.

LLaVA-1.5's `image_aspect_ratio: pad`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from PIL import Image

from trainers.contracts import Layout
from trainers.framings.base import Colour, Framing, pixels
from trainers.framings.square import LETTERBOX, fit


class Letterbox(Framing):
    """One square view of each frame, with bars."""

    square: ClassVar[str] = LETTERBOX

    def views(self, images: Sequence[Image.Image], layout: Layout, size: int, patch: int, fill: Colour) -> torch.Tensor:
        return torch.stack([pixels(fit(image, size, fill, self.square)) for image in images])
