"""Adaptive average pooling to a coarser grid, then mlp2x on what is left: `pool@12` gives 144 tokens."""

from __future__ import annotations

import torch
from torch.nn import functional

from trainers.connectors.base import required
from trainers.connectors.mlp import Mlp2x
from trainers.contracts import Grid
from trainers.errors import SpaceError


class Pool(Mlp2x):
    """Average pooling to a grid of option x option, then `Mlp2x`."""

    def __init__(self, grid: Grid, in_width: int, out_width: int, option: int | None) -> None:
        side = required(option, "pool")
        if side > min(grid):
            raise SpaceError(
                f"the connector 'pool@{side}' cannot pool a grid of {grid[0]} x {grid[1]} to a finer one; "
                f"expected pool@{min(grid)} or less"
            )
        super().__init__(grid, in_width, out_width, option)
        self.side = side

    def token_grid(self, grid: Grid) -> Grid:
        return self.side, self.side

    def project(self, features: torch.Tensor) -> torch.Tensor:
        pooled = functional.adaptive_avg_pool2d(features.permute(0, 3, 1, 2), self.side)
        return super().project(pooled.permute(0, 2, 3, 1))
