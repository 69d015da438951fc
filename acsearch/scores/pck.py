"""PCK: the share of keypoints that are found, in percent, in the ways that the literature takes its mean.

per image: the mean over pairs of each pair's share.  per point: the share of all keypoints.  The two differ where pairs
have different numbers of keypoints, by one to six points; they are never mixed.
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
    """per_image, per_point: percent.  pairs, points: how many they are means of."""

    per_image: float
    per_point: float
    pairs: int
    points: int


@dataclass(frozen=True)
class CorrespondenceResult:
    """C of a representation. What the AC law calls C is `per_image`.

    by_category: in the order of `Pairs.categories`, of those that have pairs.
    geometry_aware: keypoints that geometry alone tells from another visible one; None where no groups are known.
    position: what features give that know nothing but their place in the image; C has no meaning below it.
    ceiling: what perfect features give on this grid by argmax, since a prediction is the centre of a cell.
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
        return self.overall.per_image

    @property
    def per_point(self) -> float:
        return self.overall.per_point

    @property
    def class_mean(self) -> float:
        """Per image, the plain mean over categories."""
        return float(np.mean([one.per_image for one in self.by_category.values()]))

    def to_json(self) -> dict[str, Any]:
        """All of it, in JSON's types."""
        return asdict(self) | {"class_mean": self.class_mean}


def pck(correct: Flags, pair: Index, chosen: Flags | None = None) -> Pck | None:
    """Both means over the keypoints, or the chosen ones; None when there are none.

    correct, chosen: (Q,).  pair: (Q,) which pair each keypoint belongs to.
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
    """Predict every keypoint from the parts' joined similarities and count the hits.

    parts: what each encoder gave for these queries.  decode: see decoding.py.  name: of the decoding.
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
