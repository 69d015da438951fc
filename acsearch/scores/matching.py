"""Similarity of each keypoint of a source image to all cells of the target image.

Only the cells of keypoints are compared, and the pairs are sorted by their target image, so each target's feature map
is read once, and one matrix product serves all keypoints that are searched for in it.

Dot products and squared lengths are kept, because they add up over channels. So C of several joined encoders is
computed exactly from the products of each encoder, without their features:

    cosine of [a1, a2] and [b1, b2]  =  (<a1, b1> + <a2, b2>) / sqrt((|a1|^2 + |a2|^2) (|b1|^2 + |b2|^2))
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from acsearch.law.features import Array, Index
    from acsearch.scores.pairs import Flags, Pairs

_ROWS = 4096  # keypoints decoded at a time, which bounds memory
_TINY = 1e-30  # replaces a length of zero


@dataclass(frozen=True, eq=False)
class Queries:
    """All Q keypoints of all pairs, sorted by their target image, on a grid of cells.

    Attributes:
        grid: Height and width of the grid, in cells.
        pair: (Q,) the pair of each keypoint, a row of `Pairs`.
        slot: (Q,) the column of each keypoint in the arrays of `Pairs`.
        source: (Q,) the source image, a row of `Pairs.images`.
        cell: (Q,) the cell of the keypoint in the source image, row-major.
        targets: (T,) the target images; the keypoints of `targets[t]` are `starts[t]` to `starts[t + 1]`.
        starts: (T + 1,) see `targets`.
        scale: (Q, 2) with `shift` maps column and row of a target cell to pixels of `truth`: cell * scale + shift.
        shift: (Q, 2) see `scale`.
        truth: (Q, 2) x and y of the corresponding keypoint.
        tolerance: (Q,) distance from the truth below which a prediction is correct.
    """

    grid: tuple[int, int]
    pair: Index
    slot: Index
    source: Index
    cell: Index
    targets: Index
    starts: Index
    scale: Array
    shift: Array
    truth: Array
    tolerance: Array

    def correct(self, cells: Array) -> Flags:
        """Whether predictions are within the tolerance.

        Args:
            cells: (Q, 2) predicted column and row in the target image; fractions are allowed.

        Returns:
            (Q,) booleans.
        """
        error = np.linalg.norm(cells * self.scale + self.shift - self.truth, axis=1)
        found: Flags = error < self.tolerance
        return found

    @property
    def same_cells(self) -> Array:
        """(Q, 2) column and row of the keypoint in the source image, which features of position alone would predict."""
        return np.stack([self.cell % self.grid[1], self.cell // self.grid[1]], axis=1).astype(float)

    @property
    def nearest_cells(self) -> Array:
        """(Q, 2) the column and row nearest to the truth, which perfect features would predict on this grid."""
        most = np.array([self.grid[1] - 1, self.grid[0] - 1])
        nearest: Array = np.clip(np.rint((self.truth - self.shift) / self.scale), 0, most)
        return nearest

    @property
    def row(self) -> Index:
        """(Q,) the index in `targets` of the target image of each keypoint."""
        return np.repeat(np.arange(len(self.targets)), np.diff(self.starts))


def make_queries(
    pairs: Pairs,
    grid: tuple[int, int],
    source_cells: Array,
    truth: Array,
    tolerance: Array,
    scale: Array,
    shift: Array,
) -> Queries:
    """Make queries from values that are given for each pair. For their meaning see `Queries`.

    Args:
        pairs: The P pairs, with up to K keypoints each.
        grid: Height and width of the grid, in cells.
        source_cells: (P, K, 2) column and row of the cell of each keypoint; those outside the grid are clipped to it.
        truth: (P, K, 2) pixels.
        tolerance: (P,) pixels.
        scale: (P, 2) pixels per cell.
        shift: (P, 2) pixels.
    """
    pair, slot = np.nonzero(pairs.mask)
    order = np.argsort(pairs.target[pair], kind="stable")
    pair, slot = pair[order], slot[order]
    height, width = grid
    column, line = np.clip(source_cells[pair, slot].astype(np.intp), 0, [width - 1, height - 1]).T
    targets, starts = np.unique(pairs.target[pair], return_index=True)
    return Queries(
        grid=grid,
        pair=pair,
        slot=slot,
        source=pairs.source[pair],
        cell=line * width + column,
        targets=targets,
        starts=np.append(starts, len(pair)),
        scale=scale[pair],
        shift=shift[pair],
        truth=truth[pair, slot],
        tolerance=tolerance[pair],
    )


@dataclass(frozen=True, eq=False)
class Products:
    """Dot products of the features of one encoder, for Q queries over T target images with N cells each; float32.

    Attributes:
        dots: (Q, N) dot products of each query with the cells of its target image.
        query: (Q,) squared lengths of the queries.
        target: (T, N) squared lengths of the target cells.
    """

    dots: Tensor
    query: Tensor
    target: Tensor


def products(features: Tensor, queries: Queries) -> Products:
    """Compute the dot products of all queries with the cells of their target images.

    All features share a large common component, and the differences between cells are small beside it. So features are
    normalised in float32, and the mean of the target's features is subtracted before the multiplication and added back
    to the result. On a GPU, half precision with float32 sums then agrees with float32.

    Args:
        features: (images, height, width, channels) on the grid of the queries, of any precision and device.
        queries: The queries.

    Raises:
        ValueError: the features are on another grid.
    """
    if tuple(features.shape[1:3]) != queries.grid:
        raise ValueError(f"features on a grid of {tuple(features.shape[1:3])} for queries on {queries.grid}")
    maps = features.flatten(1, 2)  # (images, cells, channels)
    source, cell = (torch.from_numpy(one).to(features.device) for one in (queries.source, queries.cell))
    count, cells = len(queries.pair), maps.shape[1]
    dots = torch.empty(count, cells, device=features.device)
    query = torch.empty(count, device=features.device)
    target = torch.empty(len(queries.targets), cells, device=features.device)
    starts = queries.starts.tolist()
    for row, (image, begin, end) in enumerate(zip(queries.targets.tolist(), starts[:-1], starts[1:], strict=True)):
        wanted, wanted_length = _unit(maps[source[begin:end], cell[begin:end]])
        there, length = _unit(maps[image])
        mean = there.mean(dim=0)
        cosine = _multiply(wanted, there - mean) + (wanted @ mean)[:, None]
        dots[begin:end] = cosine * wanted_length[:, None] * length
        query[begin:end], target[row] = wanted_length.square(), length.square()
    return Products(dots, query, target)


def cosines(parts: Sequence[Products], queries: Queries) -> Iterator[Tensor]:
    """Cosine similarities of features whose channels are joined.

    Args:
        parts: The products of each encoder.
        queries: The queries that they belong to.

    Yields:
        (n, N) similarities of the next n queries, in their order.
    """
    rows = torch.from_numpy(queries.row).to(parts[0].dots.device)
    query = torch.stack([part.query for part in parts]).sum(0).sqrt()
    target = torch.stack([part.target for part in parts]).sum(0).sqrt()
    for begin in range(0, len(queries.pair), _ROWS):
        here = slice(begin, begin + _ROWS)
        dots = parts[0].dots[here].clone()
        for part in parts[1:]:
            dots += part.dots[here]
        yield dots / query[here, None].clamp_min(_TINY) / target[rows[here]].clamp_min(_TINY)


def _unit(features: Tensor) -> tuple[Tensor, Tensor]:
    """(n, channels) of unit length in float32, and the lengths (n,). Zero stays zero."""
    wide = features.float()
    length = torch.linalg.vector_norm(wide, dim=-1)
    return wide / length.clamp_min(_TINY)[:, None], length


def _multiply(left: Tensor, right: Tensor) -> Tensor:
    """left @ right.T in float32; on a GPU the operands are rounded to half precision."""
    if left.device.type != "cuda":
        return left @ right.T
    product: Tensor = torch.mm(left.half(), right.half().T, out_dtype=torch.float32)
    return product
