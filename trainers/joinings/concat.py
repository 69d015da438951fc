"""The channels of several encoders in one map: the part with the longest features dominates similarities."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from trainers.contracts import Features, MapShape
from trainers.joinings.base import Joining, on_grid


class Concat(Joining):
    """All channels on the common grid, as they are."""

    def shapes(self, parts: Sequence[MapShape]) -> tuple[MapShape, ...]:
        grid = parts[0].grid if self.grid is None else (self.grid, self.grid)
        return (MapShape(grid, sum(part.width for part in parts)),)

    def features(self, parts: Sequence[Features]) -> tuple[Features, ...]:
        views = len(parts[0].grids)
        grids = parts[0].grids if self.grid is None else ((self.grid, self.grid),) * views
        return (Features(torch.cat([on_grid(part, grids).values for part in parts], dim=-1), grids),)
