"""As concat, with each encoder's feature of unit length at every location, before and after resampling.

So the cosine similarity of two joined features is the mean of their parts' cosine similarities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch.nn import functional

from trainers.contracts import Features
from trainers.joinings.base import on_grid
from trainers.joinings.concat import Concat


class NormConcat(Concat):
    """All channels on the common grid, normalised."""

    def features(self, parts: Sequence[Features]) -> tuple[Features, ...]:
        views = len(parts[0].grids)
        grids = parts[0].grids if self.grid is None else ((self.grid, self.grid),) * views
        unit = [_normalised(part) for part in parts]
        return super().features([one if one.grids == grids else _normalised(on_grid(one, grids)) for one in unit])


def _normalised(features: Features) -> Features:
    return replace(features, values=functional.normalize(features.values, dim=-1))
