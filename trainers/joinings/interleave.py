"""A connector for each encoder, and their tokens in turn, so that those of one place stand together.

    a b a b a b

The interleaved mixture of features of "Eyes Wide Shut?" (arXiv 2401.06209). All encoders are brought to one grid first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch

from trainers.contracts import Features, MapShape, Tokens
from trainers.errors import SpaceError
from trainers.joinings.base import Joining, on_grid


class Interleave(Joining):
    """A token of the first encoder, then one of the next, place by place."""

    branches: ClassVar[Literal["one", "each"]] = "each"

    def shapes(self, parts: Sequence[MapShape]) -> tuple[MapShape, ...]:
        grid = parts[0].grid if self.grid is None else (self.grid, self.grid)
        return tuple(MapShape(grid, part.width) for part in parts)

    def features(self, parts: Sequence[Features]) -> tuple[Features, ...]:
        views = len(parts[0].grids)
        grids = parts[0].grids if self.grid is None else ((self.grid, self.grid),) * views
        return tuple(on_grid(part, grids) for part in parts)

    def tokens(self, parts: Sequence[Tokens]) -> Tokens:
        counts = tuple(self.count(image) for image in zip(*(part.counts for part in parts), strict=True))
        return Tokens(torch.stack([part.values for part in parts], dim=1).flatten(0, 1), counts)

    def count(self, counts: Sequence[int]) -> int:
        if len(set(counts)) > 1:
            raise SpaceError(f"only equally many tokens of each encoder can be interleaved, not {sorted(set(counts))}")
        return sum(counts)
