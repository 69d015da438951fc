"""What every joining offers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch.nn import functional

from trainers.contracts import Features, Grid, MapShape, Tokens
from trainers.representation import Choice


class Joining:
    """How several encoders become one: before their one connector, or after a connector of each.

    Attributes:
        branches: how many connectors there are: "one" gets all that `features` gives, or there is "each" of them for
            one of it.
        grid: side of the common grid; None is the first encoder's grid.
    """

    branches: ClassVar[Literal["one", "each"]] = "one"

    def __init__(self, grid: int | None = None) -> None:
        self.grid = grid

    def shapes(self, parts: Sequence[MapShape]) -> tuple[MapShape, ...]:
        """The shapes of what `features` gives, from those of the encoders."""
        raise NotImplementedError

    def features(self, parts: Sequence[Features]) -> tuple[Features, ...]:
        """What the connectors get, from the features of each encoder."""
        raise NotImplementedError

    def tokens(self, parts: Sequence[Tokens]) -> Tokens:
        """The tokens of images, from those of each connector; for "each" alone."""
        raise NotImplementedError

    def count(self, counts: Sequence[int]) -> int:
        """How many tokens an image becomes, from how many each connector makes of it; for "each" alone."""
        return sum(counts)


def make_joining(choice: Choice) -> Joining:
    """Make the joining that a representation names."""
    made: Joining = choice.load()(choice.option)
    return made


def on_grid(features: Features, grids: Sequence[Grid]) -> Features:
    """Features resampled to other grids, bilinearly and, where these are coarser, antialiased.

    Args:
        features: of V views.
        grids: (height, width) for each view.
    """
    if features.grids == tuple(grids):
        return features

    def resample(maps: torch.Tensor, views: list[int]) -> torch.Tensor:
        return _resample(maps, grids[views[0]]) if maps.shape[1:3] != grids[views[0]] else maps

    return features.map(resample)


def _resample(maps: torch.Tensor, grid: Grid) -> torch.Tensor:
    channels_first = maps.permute(0, 3, 1, 2).float()  # half precision cannot be antialiased on a CPU
    resampled = functional.interpolate(channels_first, size=grid, mode="bilinear", align_corners=False, antialias=True)
    return resampled.permute(0, 2, 3, 1).to(maps.dtype)
