"""A connector for each encoder, and their tokens one after the other, each encoder's on its own grid.

a a a a b b
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch

from trainers.contracts import Features, MapShape, Tokens
from trainers.joinings.base import Joining, on_grid


class Append(Joining):
    """All tokens of the first encoder, then all of the next."""

    branches: ClassVar[Literal["one", "each"]] = "each"

    def shapes(self, parts: Sequence[MapShape]) -> tuple[MapShape, ...]:
        if self.grid is None:
            return tuple(parts)
        return tuple(MapShape((self.grid, self.grid), part.width) for part in parts)

    def features(self, parts: Sequence[Features]) -> tuple[Features, ...]:
        if self.grid is None:
            return tuple(parts)
        return tuple(on_grid(part, ((self.grid, self.grid),) * len(part.grids)) for part in parts)

    def tokens(self, parts: Sequence[Tokens]) -> Tokens:
        images = zip(*(part.split() for part in parts), strict=True)
        counts = tuple(map(sum, zip(*(part.counts for part in parts), strict=True)))
        return Tokens(torch.cat([one for image in images for one in image]), counts)
