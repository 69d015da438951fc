"""Pixel shuffle: each s x s square of locations becomes one token with s * s times the channels, then one linear layer.

As in Idefics 3, SmolVLM and nanoVLM: the square's locations are laid end to end row by row, and the layer has no bias.

    shuffle@2 on a 2 x 2 grid of features a b / c d:  one token, W [a, b, c, d]
"""

from __future__ import annotations

import torch
from torch import nn

from trainers.connectors.base import required
from trainers.connectors.maps import MapConnector
from trainers.contracts import Grid
from trainers.errors import SpaceError


class Shuffle(MapConnector):
    """Folds squares of option x option locations into one token each, then one linear layer."""

    def __init__(self, grid: Grid, in_width: int, out_width: int, option: int | None) -> None:
        super().__init__(grid)
        self.side = required(option, "shuffle")
        self.token_grid(grid)
        self.projection = nn.Linear(in_width * self.side**2, out_width, bias=False)

    def token_grid(self, grid: Grid) -> Grid:
        if grid[0] % self.side or grid[1] % self.side:
            raise SpaceError(
                f"the connector 'shuffle@{self.side}' folds squares of {self.side} x {self.side}, which do not divide "
                f"a grid of {grid[0]} x {grid[1]}; choose another size for the encoder, the framing "
                f"'native@{self.side}' in place of 'native', or a joining such as "
                f"'concat@{max(self.side, grid[0] // self.side * self.side)}', which resamples the grid"
            )
        return grid[0] // self.side, grid[1] // self.side

    def project(self, features: torch.Tensor) -> torch.Tensor:
        batch, height, width, channels = features.shape
        side = self.side
        rows = features.reshape(batch, height // side, side, width // side, side, channels)
        squares = rows.permute(0, 1, 3, 2, 4, 5).flatten(3)  # (batch, H, W, s * s * channels)
        tokens: torch.Tensor = self.projection(squares.flatten(1, 2))
        return tokens
