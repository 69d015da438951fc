"""Correspondence C: how well features match keypoints between two images of objects of the same category.

It is per-image PCK@0.10 of nearest neighbours by cosine similarity, on exactly the feature map that the connector
receives: with each encoder's own normalisation, size and layer, the joined channels and the native grid. Keypoints are
moved by the same frame as the pixels.

    source keypoint -> frame -> the cell it lies in      position in pixels is counted from the outer corner of the
    best target cell -> its centre -> target image       top left pixel; a cell's centre is at (column + 0.5, row + 0.5)
    found when nearer than alpha * max(box width, box height), in pixels of the original target image

`acsearch.scores.compat` computes C as the authors of the AC law do. The two are different scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from acsearch.scores.decoding import TEMPERATURE, WINDOW, argmax, soft_argmax
from acsearch.scores.matching import Products, Queries, make_queries, products
from acsearch.scores.pck import CorrespondenceResult, Decode, evaluate
from trainers.errors import ConfigError, DataError

if TYPE_CHECKING:
    from acsearch.law.features import Array
    from acsearch.scores.pairs import Pairs
    from trainers.framings.square import Frame

ALPHA = 0.10
DECODES = ("argmax", "soft")


def correspondence(
    features: Tensor | Sequence[Tensor],
    pairs: Pairs,
    frames: Sequence[Frame],
    *,
    alpha: float = ALPHA,
    decode: str = "argmax",
    window: int = WINDOW,
    temperature: float = TEMPERATURE,
    extent: float | None = None,
) -> CorrespondenceResult:
    """Compute C from one feature map, or from several whose channels are joined.

    Args:
        features: (images, height, width, channels) in the order of `pairs.images`; several maps must be prepared as
            their joining says, see `acsearch.scores.extract.on_grid`.
        pairs: The pairs.
        frames: How each image was placed in the encoder's square, in the same order.
        alpha: Share of the longer side of the box that counts as found.
        decode: `argmax` or `soft`.
        window: Cells on each side of the best one, for the soft decoding.
        temperature: Temperature of the soft decoding.
        extent: Pixels of the frame's side that the grid covers, where an encoder drops pixels that fill no patch;
            default: all.

    Raises:
        DataError: the features or frames are not those of the images of the pairs.
        ConfigError: the decoding is unknown.
    """
    maps = [features] if isinstance(features, Tensor) else list(features)
    for one in maps:
        if len(one) != len(pairs.images) or one.shape[:3] != maps[0].shape[:3]:
            raise DataError(
                f"features {tuple(one.shape)} for {len(pairs.images)} images on a grid of {tuple(maps[0].shape[1:3])}; "
                "expected (images, height, width, channels) of all the pairs' images, all parts on one grid"
            )
    height, width = maps[0].shape[1:3]
    queries = place(pairs, frames, (height, width), alpha=alpha, extent=extent)
    given = [products(one, queries) for one in maps]
    return from_products(given, queries, pairs, alpha=alpha, decode=decode, window=window, temperature=temperature)


def from_products(
    parts: Sequence[Products],
    queries: Queries,
    pairs: Pairs,
    *,
    alpha: float = ALPHA,
    decode: str = "argmax",
    window: int = WINDOW,
    temperature: float = TEMPERATURE,
) -> CorrespondenceResult:
    """Compute C of a combination of encoders from the dot products of each.

    It equals C of the joined map exactly: for the joining `concat` with products of raw features, for `normconcat`
    with products of normalised ones.

    Args:
        parts: What `products` returned for each encoder, on the same queries.
        queries: The queries.
        pairs: The pairs that the queries belong to.
        alpha: Share of the longer side of the box that counts as found.
        decode: `argmax` or `soft`.
        window: Cells on each side of the best one, for the soft decoding.
        temperature: Temperature of the soft decoding.

    Raises:
        ConfigError: the decoding is unknown.
    """
    return evaluate(parts, queries, pairs, _decoder(decode, window, temperature), alpha=alpha, name=decode)


def place(
    pairs: Pairs, frames: Sequence[Frame], grid: tuple[int, int], *, alpha: float = ALPHA, extent: float | None = None
) -> Queries:
    """Place the keypoints of the pairs on a grid of features.

    Args:
        pairs: The pairs.
        frames: How each image was placed in the encoder's square, in the order of `pairs.images`.
        grid: Height and width of the grid, in cells.
        alpha: Share of the longer side of the box that counts as found.
        extent: Pixels of the frame's side that the grid covers; default: all.

    Raises:
        DataError: there is not one frame for each image.
    """
    if len(frames) != len(pairs.images):
        raise DataError(f"{len(frames)} frames for {len(pairs.images)} images; expected one for each")
    scale = np.array([(one.scale_x, one.scale_y) for one in frames])
    offset = np.array([(one.offset_x, one.offset_y) for one in frames])
    side = np.array([one.size if extent is None else extent for one in frames], dtype=float)
    cell = side[:, None] / np.array([grid[1], grid[0]])  # (images, 2) width and height of a cell in the frame
    source, target = pairs.source, pairs.target
    in_frame = pairs.source_points * scale[source][:, None] + offset[source][:, None]
    return make_queries(
        pairs,
        grid,
        source_cells=np.floor(in_frame / cell[source][:, None]),
        truth=pairs.target_points,
        tolerance=alpha * box_size(pairs),
        scale=cell[target] / scale[target],
        shift=(cell[target] / 2 - offset[target]) / scale[target],
    )


def box_size(pairs: Pairs) -> Array:
    """(P,) the longer side of each pair's target box, in pixels of the target image."""
    longer: Array = np.maximum(pairs.boxes[:, 2] - pairs.boxes[:, 0], pairs.boxes[:, 3] - pairs.boxes[:, 1])
    return longer


def _decoder(decode: str, window: int, temperature: float) -> Decode:
    soft: Any = partial(soft_argmax, window=window, temperature=temperature)
    known: dict[str, Decode] = {"argmax": argmax, "soft": soft}
    if decode not in known:
        raise ConfigError(f"decoding {decode!r}: choose {' or '.join(DECODES)}")
    return known[decode]
