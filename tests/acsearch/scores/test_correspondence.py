"""C, against an implementation that loops over keypoints and shares nothing with ours."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from acsearch.scores.compat import compat_correspondence
from acsearch.scores.correspondence import correspondence, from_products, place
from acsearch.scores.extract import on_grid
from acsearch.scores.matching import products
from acsearch.scores.pairs import Pairs
from support.keypoint_pairs import frames_of, random_features, random_pairs
from support.naive_pck import naive_pck
from trainers.contracts import Features
from trainers.errors import ConfigError, DataError
from trainers.framings.square import LETTERBOX, SQUASH
from trainers.joinings import Joining
from trainers.joinings.concat import Concat
from trainers.joinings.normconcat import NormConcat


def naive_c(
    features: torch.Tensor, pairs: Pairs, size: int, policy: str, decode: str, **more: Any
) -> tuple[float, float]:
    _, height, width, _ = features.shape

    def scales(image: int) -> tuple[float, float, float, float]:
        w, h = pairs.sizes[image]
        inner = (size, size) if policy == SQUASH else (round(w * size / max(w, h)), round(h * size / max(w, h)))
        return inner[0] / w, inner[1] / h, (size - inner[0]) // 2, (size - inner[1]) // 2

    def cell_of(image: int, x: float, y: float) -> tuple[float, float]:
        sx, sy, ox, oy = scales(image)
        return (x * sx + ox) * width / size, (y * sy + oy) * height / size

    def point_of(image: int, column: float, row: float) -> tuple[float, float]:
        sx, sy, ox, oy = scales(image)
        return ((column + 0.5) * size / width - ox) / sx, ((row + 0.5) * size / height - oy) / sy

    return naive_pck(
        features.numpy(), pairs, cell_of, point_of, lambda _, x, y: (x, y), lambda _, limit: limit, decode, **more
    )


@pytest.mark.parametrize("policy", [LETTERBOX, SQUASH])
@pytest.mark.parametrize("decode", ["argmax", "soft"])
def test_agrees_with_a_loop_over_keypoints(policy: str, decode: str) -> None:
    pairs = random_pairs(1)
    features = random_features(2, 6, 9, 9, 12, common=1.0)
    ours = correspondence(features, pairs, frames_of(pairs, 63, policy), decode=decode)
    assert (ours.per_image, ours.per_point) == pytest.approx(naive_c(features, pairs, 63, policy, decode), abs=1e-6)
    assert ours.geometry_aware is not None
    aware = naive_c(features, pairs, 63, policy, decode, chosen=pairs.geometry)
    assert (ours.geometry_aware.per_image, ours.geometry_aware.per_point) == pytest.approx(aware, abs=1e-6)
    assert (ours.overall.pairs, ours.overall.points) == (40, pairs.points)
    assert ours.per_image != pytest.approx(ours.per_point)


@pytest.mark.parametrize("decode", ["argmax", "soft"])
@pytest.mark.parametrize("joining", [Concat(), NormConcat(), Concat(6), NormConcat(10)])
def test_a_combination_from_its_parts_is_the_joined_map(joining: Joining, decode: str) -> None:
    pairs = random_pairs(5)
    parts = [
        random_features(6, 6, 8, 8, 12, common=1.0),
        3 * random_features(7, 6, 12, 12, 20),
        random_features(8, 6, 8, 8, 5),
    ]
    where = frames_of(pairs, 64)
    direct = correspondence(
        joining.features([Features.of_maps(part) for part in parts])[0].maps(), pairs, where, decode=decode
    )
    assert correspondence(on_grid(parts, joining), pairs, where, decode=decode) == direct

    queries = place(pairs, where, direct.grid)  # each part's features can be forgotten after this
    stored = [products(one, queries) for one in on_grid(parts, joining)]
    assert from_products(stored, queries, pairs, decode=decode) == direct


def test_a_combination_differs_from_each_part() -> None:
    pairs = random_pairs(5)
    parts = [random_features(seed, 6, 8, 8, 12) for seed in (1, 2)]
    where = frames_of(pairs, 64)
    scores = {correspondence(some, pairs, where).per_image for some in ([parts[0]], [parts[1]], parts)}
    assert len(scores) == 3


def shown_twice(pairs: Pairs) -> Pairs:
    """Every pair an image with itself."""
    return replace(pairs, source=pairs.target, source_points=pairs.target_points)


@pytest.mark.parametrize("decode", ["argmax", "soft"])
@pytest.mark.parametrize("policy", [LETTERBOX, SQUASH])
def test_identical_images_give_100_percent(policy: str, decode: str) -> None:
    pairs = shown_twice(random_pairs(9))
    pairs = replace(pairs, boxes=np.concatenate([np.zeros((40, 2)), pairs.sizes[pairs.target]], axis=1))
    features = random_features(1, 6, 24, 24, 64)
    result = correspondence(features, pairs, frames_of(pairs, 96, policy), decode=decode)
    assert result.per_image == result.per_point == result.ceiling.per_image == 100.0


def test_permuting_channels_scaling_cells_and_adding_channels_of_zeros_change_nothing() -> None:
    pairs = random_pairs(2)
    features = random_features(1, 6, 8, 8, 16, common=2.0)
    where = frames_of(pairs, 64)
    expected = correspondence(features, pairs, where)
    assert (
        correspondence(features[..., torch.randperm(16, generator=torch.Generator().manual_seed(0))], pairs, where)
        == expected
    )
    assert (
        correspondence(features * torch.rand(6, 8, 8, 1, generator=torch.Generator().manual_seed(0)), pairs, where)
        == expected
    )
    assert correspondence([features, torch.zeros(6, 8, 8, 3)], pairs, where) == expected


def test_position_baseline_is_what_a_position_code_scores() -> None:
    pairs = random_pairs(4)
    code = torch.eye(64).view(1, 8, 8, 64).expand(6, -1, -1, -1)
    result = correspondence(code, pairs, frames_of(pairs, 64))
    assert result.overall == result.position
    other = correspondence(random_features(1, 6, 8, 8, 16), pairs, frames_of(pairs, 64))
    assert other.position == result.position != other.overall


def test_per_image_per_point_and_geometry_by_hand() -> None:
    """Two pairs on a 4 x 4 grid of 10-pixel cells, boxes 60 wide, so a keypoint is found nearer than 6 pixels.

    Features are one-hot by cell in image 0; image 1 has them one cell further right, image 2 unchanged.
    """
    code = torch.eye(16).view(4, 4, 16)
    features = torch.stack([code, code.roll(1, dims=1), code])
    points = np.zeros((2, 2, 4, 2))
    points[0, 0, :1] = [[5, 5]]
    points[1, 0, :1] = [[15, 5]]  # found: the cell right of it
    points[0, 1, :4] = [[5, 5], [15, 15], [25, 25], [35, 35]]
    points[1, 1, :4] = [[5, 5], [15, 15], [25, 31], [5, 5]]  # found, found, missed by just 6, missed
    mask = np.array([[True, False, False, False], [True, True, True, True]])
    pairs = Pairs(
        images=(Path("0"), Path("1"), Path("2")),
        sizes=np.full((3, 2), 40.0),
        source=np.array([0, 0]),
        target=np.array([1, 2]),
        source_points=points[0],
        target_points=points[1],
        mask=mask,
        ids=np.where(mask, np.arange(4), -1),
        boxes=np.array([[0, 0, 60, 10], [0, 0, 10, 60]], dtype=float),
        category=np.array([0, 1]),
        categories=("one", "two", "none"),
        geometry=np.array([[False] * 4, [False, True, True, False]]),
    )
    result = correspondence(features, pairs, frames_of(pairs, 40))
    assert (result.per_image, result.per_point) == (75.0, 60.0)  # (1/1 + 2/4) / 2, and 3/5
    assert {name: one.per_image for name, one in result.by_category.items()} == {"one": 100.0, "two": 50.0}
    assert result.class_mean == 75.0
    assert result.geometry_aware is not None
    assert (result.geometry_aware.per_image, result.geometry_aware.pairs, result.geometry_aware.points) == (50.0, 1, 2)
    assert result.position.per_point == 40.0  # in the first pair the same cell is wrong
    assert result.ceiling.per_point == 100.0
    assert correspondence(features, pairs, frames_of(pairs, 40), alpha=0.12).per_point == 80.0


def test_a_large_common_component_does_not_hide_what_differs() -> None:
    pairs = random_pairs(2)
    features = random_features(1, 6, 8, 8, 32)
    direction = torch.nn.functional.normalize(random_features(3, 32), dim=0)
    features = torch.nn.functional.normalize(features - (features @ direction)[..., None] * direction, dim=-1)
    where = frames_of(pairs, 64)
    assert (
        correspondence(features + 30 * direction, pairs, where).overall
        == correspondence(features, pairs, where).overall
    )


def test_what_a_grid_does_not_cover_is_left_out() -> None:
    """Patches of 14 on 64 pixels: 4 x 4 cells on 56 pixels, where a point at x = 43 is in column 3, not 2."""
    pairs = random_pairs(2)
    at_43 = replace(pairs, source_points=np.full_like(pairs.source_points, 43.0), sizes=np.full_like(pairs.sizes, 64.0))
    where = frames_of(at_43, 64)
    assert set(place(at_43, where, (4, 4), extent=56).cell) == {15}
    assert set(place(at_43, where, (4, 4)).cell) == {10}


def test_features_of_other_images_are_refused() -> None:
    pairs = random_pairs(1)
    with pytest.raises(DataError, match="6 images"):
        correspondence(torch.zeros(5, 8, 8, 3), pairs, frames_of(pairs, 64))
    with pytest.raises(DataError, match="one grid"):
        correspondence([torch.zeros(6, 8, 8, 3), torch.zeros(6, 9, 9, 3)], pairs, frames_of(pairs, 64))
    with pytest.raises(DataError, match="5 frames"):
        correspondence(torch.zeros(6, 8, 8, 3), pairs, frames_of(pairs, 64)[:5])
    with pytest.raises(ConfigError, match="'hard'"):
        correspondence(torch.zeros(6, 8, 8, 3), pairs, frames_of(pairs, 64), decode="hard")
    with pytest.raises(DataError, match="side"):
        compat_correspondence([torch.zeros(6, 8, 9, 3)], pairs)
