"""Framings: what is seen of an image follows from its size alone, and every encoder's cells line up."""

from __future__ import annotations

import math

import pytest
import torch
from PIL import Image

from support import tiny
from support.colour_encoder import colours, vision
from trainers.encoders.images import content_seed
from trainers.encoders.joined import VisionRepresentation
from trainers.errors import SpaceError
from trainers.framings import make_framing
from trainers.representation import Choice, words

FRAMINGS = [Choice(word) for word in words("framing")] + [Choice("anyres", 6), Choice("native", 2)]
SIZES = [(40, 30), (30, 40), (64, 64), (500, 20), (20, 500), (1, 1), (1, 900), (7, 5), (1333, 800)]
MEAN = (0.5, 0.5, 0.5)


@pytest.mark.parametrize("choice", FRAMINGS, ids=str)
@pytest.mark.parametrize("frames", [1, 3])
def test_views_are_as_many_and_as_large_as_the_layout_says(choice: Choice, frames: int) -> None:
    framing = make_framing(choice, 32, 8)
    for size in SIZES:
        layout = framing.layout(*size, frames)
        assert layout == framing.layout(*size, frames)
        height, width = layout.grid or (4, 4)
        assert height * width <= 16
        for own_size, patch in ((32, 8), (48, 12)):  # another encoder of as many cells
            images = [tiny.picture("red", frame, size) for frame in range(frames)]
            views = framing.views(images, layout, own_size, patch, MEAN)
            assert views.dtype == torch.uint8
            assert views.shape == (layout.views, 3, height * patch, width * patch)


def test_letterbox_and_squash_show_one_square() -> None:
    for word in ("letterbox", "squash"):
        layout = make_framing(Choice(word), 32, 8).layout(500, 20)
        assert (layout.views, layout.tiled, layout.grid) == (1, False, None)


def test_anyres_takes_as_many_tiles_as_it_may() -> None:
    tiles = {most: make_framing(Choice("anyres", most), 32, 8).layout(900, 900) for most in (1, 2, 4, 9, 12)}
    assert {most: (one.rows, one.columns, one.overview) for most, one in tiles.items()} == {
        1: (1, 1, False),
        2: (1, 2, True),
        4: (2, 2, True),
        9: (3, 3, True),
        12: (3, 3, True),
    }
    video = make_framing(Choice("anyres"), 32, 8).layout(900, 900, 5)
    assert (video.views, video.tiled) == (5, False)


def test_native_keeps_proportions_and_never_enlarges() -> None:
    framing = make_framing(Choice("native"), 128, 8)  # 256 cells
    for width, height in ((512, 128), (128, 512), (300, 200), (1000, 999)):
        rows, columns = framing.layout(width, height).grid or (0, 0)
        assert rows * columns <= 256
        assert math.log(columns / rows) == pytest.approx(math.log(width / height), abs=0.15)
        assert rows * columns > 200
    assert framing.layout(40, 16).grid == (2, 5)
    assert make_framing(Choice("native", 2), 128, 8).layout(40, 16).grid == (2, 4)
    assert framing.layout(10_000, 8).grid == (1, 256)


def test_native_needs_an_encoder_that_takes_rectangles() -> None:
    with pytest.raises(SpaceError, match="the framing 'native' shows images in their own proportions, and colours@32"):
        vision(32, framing="native")
    free = colours(32)
    free.any_shape = True
    seen = VisionRepresentation([free], framing=Choice("native")).look([[tiny.picture("red", 0, (60, 12))]])
    assert [tuple(view.shape) for view in seen.views[0]] == [(1, 3, 12, 60)]


def test_every_view_has_a_seed_and_the_first_the_images_own() -> None:
    image, other = tiny.picture("red", 0, (90, 40)), tiny.picture("red", 1)
    seen = vision(32, framing="anyres").look([[image], [other, image]])
    assert [layout.views for layout in seen.layouts] == [4, 2]
    seeds = seen.seeds.tolist()
    assert (seeds[0], seeds[4:]) == (content_seed(image), [content_seed(other), content_seed(image)])
    assert len(set(seeds[:5])) == 5
    assert vision(32, framing="anyres").look([[image]]).seeds.tolist() == seeds[:4]


def test_tiles_show_the_image_in_its_order() -> None:
    """A red left half and a blue right one, in 1 x 2 tiles."""
    image = Image.new("RGB", (64, 32), (255, 0, 0))
    image.paste((0, 0, 255), (32, 0, 64, 32))
    model = vision(32, framing="anyres")
    (views,) = model.look([[image]]).views[0]
    assert views.shape == (3, 3, 32, 32)
    assert views[1].float().mean((1, 2)).tolist() == pytest.approx([255, 0, 0], abs=12)
    assert views[2].float().mean((1, 2)).tolist() == pytest.approx([0, 0, 255], abs=12)
    assert model.in_squares.policy == "squash"
    assert vision(32).in_squares.policy == "letterbox"
