"""Correspondence from images on: the features are those that the connector receives."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from acsearch.scores.correspondence import correspondence
from acsearch.scores.extract import extent, extract, frames, measure, on_grid
from acsearch.scores.pairs import read_pairs
from support.colour_encoder import colours, vision
from trainers.contracts import Features
from trainers.encoders.joined import VisionRepresentation
from trainers.errors import DataError
from trainers.framings.square import LETTERBOX, SQUASH


def test_features_are_those_the_connector_receives(spair: Path) -> None:
    pairs = read_pairs(spair)
    model = vision(64, 96, joining="normconcat")
    whole = extract(model, pairs, batch_size=3)
    assert [tuple(one.shape) for one in whole] == [(8, 16, 16, 3), (8, 24, 24, 3)]
    with Image.open(pairs.images[5]) as image:
        (expected,) = model.features(model.look([[image]]))
    torch.testing.assert_close(torch.cat(on_grid(whole, model.joining), dim=-1)[5], expected.maps()[0])
    for one, other in zip(whole, extract(model, pairs, batch_size=100), strict=True):
        torch.testing.assert_close(one, other)
    (joined,) = model.joining.features([Features.of_maps(one) for one in whole])
    assert measure(model, pairs) == correspondence(joined.maps(), pairs, frames(model, pairs))


def test_letterbox_and_squash_agree_on_square_images_and_differ_on_others(spair: Path) -> None:
    pairs = read_pairs(spair)
    boxed, squashed = (measure(vision(64, framing=policy), pairs) for policy in (LETTERBOX, SQUASH))
    assert boxed.overall != squashed.overall
    features = extract(vision(64, framing=SQUASH), pairs)
    crossed = correspondence(
        features, pairs, frames(vision(64), pairs)
    )  # as the published code: squash, then letterbox
    assert crossed.per_image < min(boxed.per_image, squashed.per_image) - 10
    square = replace(pairs, sizes=np.full_like(pairs.sizes, 64.0))
    one, other = (
        correspondence(features, square, frames(vision(64, framing=policy), square)) for policy in (LETTERBOX, SQUASH)
    )
    assert one == other


def test_discs_are_found_in_letterboxed_pictures(spair: Path) -> None:
    """A whole measurement of an encoder that tells the discs apart comes near the ceiling, far above position."""
    result = measure(vision(96), read_pairs(spair))
    assert result.ceiling.per_image == 100.0
    assert result.per_image > 80
    assert result.position.per_image < 40


def test_extent_is_what_whole_patches_cover() -> None:
    assert extent(vision(64)) == 64
    assert extent(VisionRepresentation([colours(64, patch=14)])) == 56


def test_an_image_of_another_size_is_named(spair: Path) -> None:
    pairs = read_pairs(spair)
    Image.new("RGB", (10, 10)).save(pairs.images[3])
    with pytest.raises(DataError, match=f"{pairs.images[3].name}: is 10 x 10 pixels"):
        extract(vision(64), pairs)
