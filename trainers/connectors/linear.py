"""One linear layer: LLaVA 1's projector. A token for every location."""

from __future__ import annotations

import torch
from torch import nn

from trainers.connectors.maps import MapConnector
from trainers.contracts import Grid


class Linear(MapConnector):
    """One linear layer; a token for every location."""

    def __init__(self, grid: Grid, in_width: int, out_width: int, option: int | None) -> None:
        super().__init__(grid)
        self.projection = nn.Linear(in_width, out_width)

    def project(self, features: torch.Tensor) -> torch.Tensor:
        tokens: torch.Tensor = self.projection(features.flatten(1, 2))
        return tokens
