"""Two linear layers with a GELU between them: LLaVA 1.5's projector ("mlp2x_gelu"). A token for every location."""

from __future__ import annotations

import torch
from torch import nn

from trainers.connectors.maps import MapConnector
from trainers.contracts import Grid


class Mlp2x(MapConnector):
    """Two linear layers with a GELU between them; a token for every location."""

    def __init__(self, grid: Grid, in_width: int, out_width: int, option: int | None) -> None:
        super().__init__(grid)
        self.layers = nn.Sequential(nn.Linear(in_width, out_width), nn.GELU(), nn.Linear(out_width, out_width))

    def project(self, features: torch.Tensor) -> torch.Tensor:
        tokens: torch.Tensor = self.layers(features.flatten(1, 2))
        return tokens
