"""Which cell of the target image each keypoint of the source image looks most like.

Only the keypoints' own cells are compared, and the pairs are taken target by target, so each target's map is read once
and one matrix product serves all keypoints that look for a counterpart in it.

What a feature map gives is kept as dot products and squared lengths, which add up over the channels. So C of several
encoders joined comes from what each of them gave alone, exactly, without their features:

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
_TINY = 1e-30  # instead of a length of zero


@dataclass(frozen=True, eq=False)
class Queries:
    """All Q keypoints of all pairs, sorted by their target image, on a grid of cells.

    grid: height and width.  pair, slot: (Q,) where each keypoint is in `Pairs`.
    source: (Q,) its image.  cell: (Q,) row-major place of its cell there.
    targets: (T,) the target images; the keypoints of targets[t] are starts[t] to starts[t + 1].
    scale, shift: (Q, 2) from a cell's column and row in the target to the pixels of `truth`: cell * scale + shift.
    truth: (Q, 2) where the counterpart is.  tolerance: (Q,) how far from it a prediction may be.
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
        """(Q,) whether predictions, (Q, 2) column and row of a cell (fractions allowed), are close enough."""
        error = np.linalg.norm(cells * self.scale + self.shift - self.truth, axis=1)
        found: Flags = error < self.tolerance
        return found

    @property
    def same_cells(self) -> Array:
        """(Q, 2) what a pure position code predicts: the cell where the keypoint is in the source image."""
        return np.stack([self.cell % self.grid[1], self.cell // self.grid[1]], axis=1).astype(float)

    @property
    def nearest_cells(self) -> Array:
        """(Q, 2) the cells that are nearest to the truth: what perfect features predict on this grid."""
        most = np.array([self.grid[1] - 1, self.grid[0] - 1])
        nearest: Array = np.clip(np.rint((self.truth - self.shift) / self.scale), 0, most)
        return nearest

    @property
    def row(self) -> Index:
        """(Q,) place of each keypoint's target image in `targets`."""
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
    """Queries from the same per pair.

    source_cells: (P, K, 2) column and row of the keypoints' cells, floored; those outside the grid take the nearest.
    truth: (P, K, 2).  tolerance: (P,).  scale, shift: (P, 2).
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
    """What an encoder's features give for a set of Q queries over T target images, N cells each.

    dots: (Q, N) with the target's cells.  query: (Q,) and target: (T, N) squared lengths. All float32.
    """

    dots: Tensor
    query: Tensor
    target: Tensor


def products(features: Tensor, queries: Queries) -> Products:
    """Compare a map of features with itself at the queries.

    features: (images, height, width, channels) on the queries' grid, of any precision and device.
    Raises ValueError for another grid.

    Features share a large common component, beside which what tells two cells apart is small. So they are normalised
    in float32 and the target's mean is taken off before they are multiplied, which adds a constant to each query's
    row; the constant is put back afterwards. On a GPU this lets half precision with float32 sums agree with float32.
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
        sought, sought_length = _unit(maps[source[begin:end], cell[begin:end]])
        there, length = _unit(maps[image])
        mean = there.mean(dim=0)
        cosine = _multiply(sought, there - mean) + (sought @ mean)[:, None]
        dots[begin:end] = cosine * sought_length[:, None] * length
        query[begin:end], target[row] = sought_length.square(), length.square()
    return Products(dots, query, target)


def cosines(parts: Sequence[Products], queries: Queries) -> Iterator[Tensor]:
    """Cosine similarities of the parts joined by their channels: (n, N) for the next n queries, in their order."""
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
    """left @ right.T in float32; on a GPU of half-precision operands."""
    if left.device.type != "cuda":
        return left @ right.T
    product: Tensor = torch.mm(left.half(), right.half().T, out_dtype=torch.float32)
    return product
