"""Matching of features by cosine, in half precision too."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from acsearch.scores import matching
from acsearch.scores.correspondence import place
from acsearch.scores.matching import cosines, products
from support.keypoint_pairs import frames_of, random_features, random_pairs


def test_centring_lets_half_precision_find_the_same_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU multiplies, emulated: operands rounded to half, sums in float32. Cosines are about 0.99."""
    pairs = random_pairs(2, count=200)
    features = random_features(1, 6, 16, 16, 64) + 12 * random_features(3, 64)
    queries = place(pairs, frames_of(pairs, 64), (16, 16))

    def found(multiply: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> torch.Tensor:
        monkeypatch.setattr(matching, "_multiply", multiply)
        return torch.cat([some.argmax(1) for some in cosines([products(features, queries)], queries)])

    exact = found(lambda left, right: (left.double() @ right.double().T).float())
    half = found(lambda left, right: left.half().float() @ right.half().float().T)
    unit = torch.nn.functional.normalize(features.flatten(1, 2), dim=-1).half().float()
    uncentred = torch.stack(
        [
            (unit[source, cell] @ unit[target].T).half().argmax()
            for source, cell, target in zip(queries.source, queries.cell, queries.targets[queries.row], strict=True)
        ]
    )
    assert (half == exact).float().mean() > 0.98
    assert (uncentred == exact).float().mean() < 0.9
