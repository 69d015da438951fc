"""What passes between the roles of a representation: how images are shown, and what was seen of them.

    images -- framing --> Layout and views -- encoders --> Features -- joining --> Features -- connector --> Tokens

A layout follows from an image's size alone, and the number of its tokens from its layout. So loaders, plans and indices
need no pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

Grid = tuple[int, int]  # (height, width) in cells


@dataclass(frozen=True)
class Layout:
    """How one image or video is shown, as a number of views.

    Views come frame by frame; of each frame the overview first, where there is one, and then the tiles row by row.

    Attributes:
        width: of the image, in pixels.
        height: of the image, in pixels.
        rows: tiles above each other.
        columns: tiles beside each other.
        overview: whether the whole image is shown before its tiles.
        frames: how many frames of a video are shown; 1 for an image.
        grid: cells of each view of the first encoder, where it differs from image to image; None where it does not.
    """

    width: int
    height: int
    rows: int = 1
    columns: int = 1
    overview: bool = False
    frames: int = 1
    grid: Grid | None = None

    @property
    def tiled(self) -> bool:
        """Whether there are tiles beside the overview."""
        return self.overview or self.rows * self.columns > 1

    @property
    def views(self) -> int:
        """How many views there are."""
        return self.frames * (self.rows * self.columns + self.overview)


@dataclass(frozen=True)
class MapShape:
    """The shape of what a connector is given of a view.

    Attributes:
        grid: of a square image; others may have another one, see `Layout.grid`.
        width: channels.
    """

    grid: Grid
    width: int


@dataclass(frozen=True)
class Features:
    """Feature maps of V views.

    Attributes:
        values: (V, L, C) cells row by row; a view with fewer than L cells is padded with zeros behind its own.
        grids: (height, width) of each view's map.
    """

    values: Tensor
    grids: tuple[Grid, ...]

    @classmethod
    def of_maps(cls, maps: Tensor) -> Features:
        """Features of maps of equal size, (V, height, width, C)."""
        return cls(maps.flatten(1, 2), ((maps.shape[1], maps.shape[2]),) * len(maps))

    def maps(self) -> Tensor:
        """(V, height, width, C), of views whose maps are of equal size."""
        (grid,) = set(self.grids)
        return torch.unflatten(self.values, 1, grid)

    @property
    def mask(self) -> Tensor:
        """(V, L) bool: which cells are a view's own."""
        cells = torch.tensor([height * width for height, width in self.grids], device=self.values.device)
        return torch.arange(self.values.shape[1], device=self.values.device) < cells[:, None]

    def by_grid(self) -> Iterator[tuple[list[int], Tensor]]:
        """Maps of equal size together: which views they are of, and (views, height, width, C)."""
        for grid in dict.fromkeys(self.grids):
            views = [view for view, one in enumerate(self.grids) if one == grid]
            own = self.values if len(views) == len(self.grids) else self.values[views, : grid[0] * grid[1]]
            yield views, torch.unflatten(own, 1, grid)

    def map(self, change: Callable[[Tensor, list[int]], Tensor]) -> Features:
        """The features with every map changed.

        Args:
            change: is called with (views, height, width, C) and which views these are; gives the same with another size
                or width.
        """
        groups = [(views, change(maps, views)) for views, maps in self.by_grid()]
        if len(groups) == 1:
            return Features.of_maps(groups[0][1])
        maps = {view: one for views, changed in groups for view, one in zip(views, changed, strict=True)}
        return Features.padded([maps[view] for view in range(len(self.grids))])

    @classmethod
    def padded(cls, maps: Sequence[Tensor]) -> Features:
        """Features of maps of any sizes, each (height, width, C)."""
        grids = tuple((one.shape[0], one.shape[1]) for one in maps)
        length = max(height * width for height, width in grids)
        rows = [functional.pad(one.flatten(0, 1), (0, 0, 0, length - one.shape[0] * one.shape[1])) for one in maps]
        return cls(torch.stack(rows), grids)


@dataclass(frozen=True)
class Tokens:
    """Tokens of n images, as the language model takes them.

    Attributes:
        values: (sum of counts, width of the language model), image after image.
        counts: tokens of each image.
    """

    values: Tensor
    counts: tuple[int, ...]

    def split(self) -> tuple[Tensor, ...]:
        """The tokens of each image, (count, width)."""
        parts: tuple[Tensor, ...] = torch.split(self.values, list(self.counts))
        return parts


@dataclass(frozen=True)
class Seen:
    """The n images or videos of a batch, with their V views, in the samples' order.

    Attributes:
        layouts: of each image.
        seeds: (V,) the content seeds of the views.
        views: of each encoder its views, uint8: tensors (some, 3, height, width), each of views of one size; empty
            where there are features.
        features: of each encoder, from a cache.
    """

    layouts: tuple[Layout, ...]
    seeds: Tensor
    views: tuple[tuple[Tensor, ...], ...] = ()
    features: tuple[Features, ...] = ()

    def each(self, change: Callable[[Tensor], Tensor]) -> Seen:
        """The same with every tensor changed."""
        return replace(
            self,
            seeds=change(self.seeds),
            views=tuple(tuple(map(change, part)) for part in self.views),
            features=tuple(replace(part, values=change(part.values)) for part in self.features),
        )
