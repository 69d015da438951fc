"""PCK: the percentage of keypoints that are predicted correctly.

The literature has two means. Per image: the mean over pairs of the percentage of each pair. Per point: the percentage
of all keypoints. Where pairs have different numbers of keypoints, the two differ by one to six points; they are never
mixed.

Source: SPair-71k (arXiv 1908.10543), section 4.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from acsearch.scores.matching import Products, Queries, cosines

if TYPE_CHECKING:
    from acsearch.law.features import Array, Index
    from acsearch.scores.pairs import Flags, Pairs

Decode = Callable[[Tensor, tuple[int, int]], Tensor]


@dataclass(frozen=True)
class Pck:
    """PCK of a set of keypoints.

    Attributes:
        per_image: Mean over pairs, in percent.
        per_point: Mean over keypoints, in percent.
        pairs: Number of pairs.
        points: Number of keypoints.
    """

    per_image: float
    per_point: float
    pairs: int
    points: int


@dataclass(frozen=True)
class CorrespondenceResult:
    """C of a representation. `per_image` is what the AC law calls C.

    Attributes:
        overall: PCK of all keypoints.
        by_category: PCK of each category that has pairs, in the order of `Pairs.categories`.
        geometry_aware: PCK of the keypoints that only geometry distinguishes from another visible one; None where no
            groups are known.
        position: PCK of features that encode nothing but the position in the image. A lower C has no meaning.
        ceiling: PCK of perfect features on this grid by argmax; a prediction is the centre of a cell, so it is not 100.
        alpha: Share of the longer side of the box that counts as found.
        decode: Name of the decoding.
        grid: Height and width of the grid, in cells.
    """

    overall: Pck
    by_category: dict[str, Pck]
    geometry_aware: Pck | None
    position: Pck
    ceiling: Pck
    alpha: float
    decode: str
    grid: tuple[int, int]

    @property
    def per_image(self) -> float:
        """PCK per image of all keypoints, in percent."""
        return self.overall.per_image

    @property
    def per_point(self) -> float:
        """PCK per point of all keypoints, in percent."""
        return self.overall.per_point

    @property
    def class_mean(self) -> float:
        """Unweighted mean over the categories of PCK per image, in percent."""
        return float(np.mean([one.per_image for one in self.by_category.values()]))

    def to_json(self) -> dict[str, Any]:
        """All values, as JSON types."""
        return asdict(self) | {"class_mean": self.class_mean}


def pck(correct: Flags, pair: Index, chosen: Flags | None = None) -> Pck | None:
    """Compute both means of PCK.

    Args:
        correct: (Q,) whether each keypoint was predicted correctly.
        pair: (Q,) the pair that each keypoint belongs to.
        chosen: (Q,) the keypoints that count; default: all.

    Returns:
        The result; None when no keypoint counts.
    """
    if chosen is not None:
        correct, pair = correct[chosen], pair[chosen]
    if not len(pair):
        return None
    _, pair = np.unique(pair, return_inverse=True)
    shares = np.bincount(pair, weights=correct) / np.bincount(pair)
    return Pck(100 * float(shares.mean()), 100 * float(correct.mean()), len(shares), len(correct))


def evaluate(
    parts: Sequence[Products], queries: Queries, pairs: Pairs, decode: Decode, *, alpha: float, name: str
) -> CorrespondenceResult:
    """Predict every keypoint from the similarities of joined features, and compute PCK.

    Args:
        parts: The products of each encoder for these queries.
        queries: The queries.
        pairs: The pairs that the queries belong to.
        decode: A function of `acsearch.scores.decoding`.
        alpha: Share of the longer side of the box that counts as found; it is only reported.
        name: Name of the decoding; it is only reported.
    """
    found = torch.cat([decode(some, queries.grid).cpu() for some in cosines(parts, queries)])
    correct = queries.correct(np.asarray(found, dtype=float))
    category = pairs.category[queries.pair]
    by_category = {
        label: one
        for place, label in enumerate(pairs.categories)
        if (one := pck(correct, queries.pair, category == place)) is not None
    }
    aware = None if pairs.geometry is None else pairs.geometry[queries.pair, queries.slot]
    return CorrespondenceResult(
        overall=_all(correct, queries),
        by_category=by_category,
        geometry_aware=None if aware is None else pck(correct, queries.pair, aware),
        position=_at(queries.same_cells, queries),
        ceiling=_at(queries.nearest_cells, queries),
        alpha=alpha,
        decode=name,
        grid=queries.grid,
    )


def _at(cells: Array, queries: Queries) -> Pck:
    return _all(queries.correct(cells), queries)


def _all(correct: Flags, queries: Queries) -> Pck:
    one = pck(correct, queries.pair)
    assert one is not None  # every pair has a keypoint
    return one
