"""Connectors that see one map of each view, and what becomes of the views of an image.

Views that stand for themselves (a square, a frame of a video, a whole image of its own shape) follow each other. Tiles
are laid out as they were cut, rows of tokens across all of them; the image's bars are cut off, and each row ends with
a learned newline. That is LLaVA-NeXT's order ("spatial_unpad"), after the tokens of the overview.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from trainers.connectors.base import Connector
from trainers.contracts import Features, Grid, Layout, MapShape, Seen, Tokens
from trainers.errors import SpaceError


class MapConnector(Connector):
    """A connector of one map, view by view.

    A subclass takes (grid, in_width, out_width, option), defines `project`, and `token_grid` where tokens lie on
    another grid than the map's cells.

    Attributes:
        grid: (height, width) of the map of a square view.
        newline: (out_width,) the learned token at the end of a row of tiles; None where nothing is shown in tiles.
    """

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.grid = grid
        self.newline: nn.Parameter | None = None

    @classmethod
    def make(cls, shapes: Sequence[MapShape], out_width: int, option: int | None, newline: bool) -> MapConnector:
        if len(shapes) != 1:
            raise SpaceError(f"a {cls.__name__} takes one map, and the joining gives {len(shapes)}")
        made: MapConnector = cls(shapes[0].grid, shapes[0].width, out_width, option)  # type: ignore[call-arg]
        if newline:
            made.newline = nn.Parameter(torch.empty(out_width))
        return made

    def token_grid(self, grid: Grid) -> Grid:
        """(height, width) of the tokens of a map of this grid."""
        return grid

    def project(self, features: Tensor) -> Tensor:
        """The tokens of maps, row by row.

        Args:
            features: (batch, height, width, in_width).

        Returns:
            (batch, tokens, out_width), as many as `token_grid` has cells.
        """
        raise NotImplementedError

    def initialise(self, generator: torch.Generator) -> None:
        super().initialise(generator)
        if self.newline is not None:
            nn.init.normal_(self.newline, std=1 / math.sqrt(len(self.newline)), generator=generator)

    def count(self, layout: Layout) -> int:
        height, width = self.token_grid(layout.grid or self.grid)
        if not layout.tiled:
            return layout.views * height * width
        top, bottom, left, right = unpadded((layout.rows * height, layout.columns * width), layout)
        tiles = (bottom - top) * (right - left + (self.newline is not None))
        return layout.frames * (layout.overview * height * width + tiles)

    def forward(self, features: tuple[Features, ...], seen: Seen) -> Tokens:
        (own,) = features
        if self.newline is None and not any(one.tiled for one in seen.layouts) and len(set(own.grids)) == 1:
            tokens = self.project(own.maps())
            counts = tuple(layout.views * tokens.shape[1] for layout in seen.layouts)
            return Tokens(tokens.flatten(0, 1), counts)
        projected: dict[int, Tensor] = {}
        for views, maps in own.by_grid():
            projected |= dict(zip(views, self.project(maps), strict=True))
        images = [torch.cat([*self._arranged(mine, layout)]) for mine, layout in _by_image(projected, own, seen)]
        values = torch.cat(images)
        if self.newline is not None:
            values = values + 0.0 * self.newline.sum()  # an image without a row has no newline, and all need a gradient
        return Tokens(values, tuple(map(len, images)))

    def _arranged(self, views: list[tuple[Tensor, Grid]], layout: Layout) -> Iterator[Tensor]:
        """The tokens of one image, in parts (some, out_width)."""
        for frame in range(layout.frames):
            mine = views[frame * len(views) // layout.frames : (frame + 1) * len(views) // layout.frames]
            if layout.overview or not layout.tiled:
                yield mine[0][0]
            if layout.tiled:
                yield self._tiled(mine[int(layout.overview) :], layout)

    def _tiled(self, tiles: list[tuple[Tensor, Grid]], layout: Layout) -> Tensor:
        """The tokens of tiles, row by row of the whole image."""
        height, width = self.token_grid(tiles[0][1])
        laid = torch.stack([tokens for tokens, _ in tiles]).view(layout.rows, layout.columns, height, width, -1)
        whole = laid.transpose(1, 2).flatten(0, 1).flatten(1, 2)  # (rows * height, columns * width, out_width)
        top, bottom, left, right = unpadded((whole.shape[0], whole.shape[1]), layout)
        whole = whole[top:bottom, left:right]
        if self.newline is not None:
            ends = self.newline.to(whole.dtype).expand(len(whole), 1, -1)
            whole = torch.cat([whole, ends], dim=1)
        return whole.flatten(0, 1)


def unpadded(grid: Grid, layout: Layout) -> tuple[int, int, int, int]:
    """Which rows and columns of a grid show the image, and not bars: LLaVA-NeXT's `unpad_image`.

    Args:
        grid: (height, width) of all tiles.
        layout: of the image.

    Returns:
        (top, bottom, left, right), of which bottom and right are no longer shown.
    """
    height, width = grid
    if layout.width / layout.height > width / height:
        shown = int(round(layout.height * (width / layout.width), 7))
        bar = (height - shown) // 2
        return bar, height - bar, 0, width
    shown = int(round(layout.width * (height / layout.height), 7))
    bar = (width - shown) // 2
    return 0, height, bar, width - bar


def _by_image(
    projected: dict[int, Tensor], features: Features, seen: Seen
) -> Iterator[tuple[list[tuple[Tensor, Grid]], Layout]]:
    """Each image's views, their tokens and the grids of their maps."""
    begin = 0
    for layout in seen.layouts:
        places = range(begin, begin + layout.views)
        yield [(projected[place], features.grids[place]) for place in places], layout
        begin += layout.views
