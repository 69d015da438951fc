"""C_compat: C as the authors of the AC law compute it. It only serves to compare with their published numbers.

What differs from C (arXiv 2408.16357, folder C_score/ of its code):

- images are stretched to a square, while keypoints are placed as if they had been padded to one, 840 pixels wide; so
  on pictures that are not square, features and keypoints do not line up;
- every encoder's pixels are scaled to [-1, 1], whatever it was trained on;
- a cell is predicted by a soft-argmax whose other cells count with similarity zero, and its position is its corner
  plus half a cell, rounded down;
- features of several encoders are each normalised, joined, and normalised again.

It is a mean over pairs, as C is; the authors call it "weighted per image".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from acsearch.scores.correspondence import ALPHA, box_size
from acsearch.scores.decoding import soft_argmax
from acsearch.scores.matching import Queries, make_queries, products
from acsearch.scores.pck import CorrespondenceResult, evaluate
from trainers.errors import DataError

if TYPE_CHECKING:
    from acsearch.scores.pairs import Pairs
    from trainers.encoders import EncoderSpec

CANVAS = 840
DECODE = "soft, zero outside"


def compat_correspondence(features: Sequence[Tensor], pairs: Pairs, *, alpha: float = ALPHA) -> CorrespondenceResult:
    """Compute C_compat from the feature maps of one or more encoders.

    Args:
        features: (images, side, side, channels) of stretched images for each encoder, all on one grid; where there are
            several encoders, normalised to unit length.
        pairs: The pairs.
        alpha: Share of the longer side of the box that counts as found.

    Raises:
        DataError: the grid is not square, or the maps are not those of the images of the pairs.
    """
    side = features[0].shape[1]
    for one in features:
        if one.shape[:3] != (len(pairs.images), side, side):
            raise DataError(
                f"features {tuple(one.shape)}: C_compat needs (images, side, side, channels) of all "
                f"{len(pairs.images)} images, here with side {side}"
            )
    queries = place_compat(pairs, side, alpha=alpha)
    given = [products(one, queries) for one in features]
    return evaluate(given, queries, pairs, partial(soft_argmax, outside="zero"), alpha=alpha, name=DECODE)


def place_compat(pairs: Pairs, side: int, *, alpha: float = ALPHA) -> Queries:
    """Place the keypoints on the padded canvas, as the authors do.

    Args:
        pairs: The pairs.
        side: Cells of a side of the grid.
        alpha: Share of the longer side of the box that counts as found.
    """
    longest = pairs.sizes.max(axis=1, keepdims=True)
    content = np.around(CANVAS * pairs.sizes / longest)
    offset = np.floor((CANVAS - content) / 2)  # (images, 2)
    scale = CANVAS / longest  # (images, 1)
    source, target = pairs.source, pairs.target
    stride = CANVAS / side
    on_canvas = pairs.source_points * scale[source][:, None] + offset[source][:, None]
    return make_queries(
        pairs,
        (side, side),
        source_cells=np.floor(on_canvas * side / CANVAS),
        truth=pairs.target_points * scale[target][:, None] + offset[target][:, None],
        tolerance=alpha * box_size(pairs) * scale[target][:, 0],
        scale=np.full((len(pairs), 2), stride),
        shift=np.full((len(pairs), 2), stride // 2),
    )


def compat_spec(spec: EncoderSpec) -> EncoderSpec:
    """The same encoder with the normalisation of the authors' script, which scales pixels to [-1, 1]."""
    return replace(spec, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
