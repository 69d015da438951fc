"""C_compat, the correspondence as the published code computes it, against a loop over its steps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from acsearch.scores.compat import compat_correspondence, compat_spec, place_compat
from acsearch.scores.correspondence import correspondence
from acsearch.scores.extract import extract, measure_compat, on_grid
from acsearch.scores.pairs import read_pairs
from support.colour_encoder import Colours, colours
from support.keypoint_pairs import frames_of, random_features, random_pairs
from support.naive_pck import naive_pck
from trainers.encoders import Encoder, Registry
from trainers.encoders.joined import VisionRepresentation
from trainers.framings.square import SQUASH
from trainers.joinings.normconcat import NormConcat
from trainers.representation import Choice, parse


@pytest.mark.parametrize("own", [0.0, 4.0])
def test_compat_agrees_with_a_loop_over_the_published_steps(own: float) -> None:
    """own: what each image has that no other has. With much of it all similarities are near zero, and zeros count."""
    pairs = random_pairs(3)
    side, stride = 16, 840 / 16
    features = random_features(4, 6, side, side, 24) / 5
    features = torch.cat([features, own * torch.eye(6)[:, None, None].expand(6, side, side, 6)], dim=-1)

    def on_canvas(image: int, x: float, y: float) -> tuple[float, float]:
        w, h = pairs.sizes[image]
        scale = 840 / max(w, h)
        return x * scale + int((840 - round(840 * w / max(w, h))) / 2), y * scale + int(
            (840 - round(840 * h / max(w, h))) / 2
        )

    expected = naive_pck(
        features.numpy(),
        pairs,
        cell_of=lambda image, x, y: tuple(one * side / 840 for one in on_canvas(image, x, y)),  # type: ignore[return-value]
        point_of=lambda _, column, row: (column * stride + stride // 2, row * stride + stride // 2),
        truth_of=on_canvas,
        tolerance=lambda image, limit: limit * 840 / max(pairs.sizes[image]),
        decode="zero outside",
    )
    ours = compat_correspondence([features], pairs)
    assert (ours.per_image, ours.per_point) == pytest.approx(expected, abs=1e-6)
    argmax = correspondence(features, pairs, frames_of(pairs, 64, SQUASH))
    assert argmax.overall != ours.overall


def test_compat_canvas_by_hand() -> None:
    """100 x 75 on 840 pixels: scale 8.4, 105 above; 101 x 75 has 624 rows, so 108; a cell of 52.5 starts at 26."""
    pairs = random_pairs(3)
    sizes = np.array([[100, 75], [101, 75], [75, 101], [50, 50], [9, 10], [11, 13]], dtype=float)
    queries = place_compat(replace(pairs, sizes=sizes), 16)
    assert np.unique(queries.shift).tolist() == [26.0]
    assert np.unique(queries.scale).tolist() == [52.5]
    offsets = {0: (8.4, 0, 105), 1: (840 / 101, 0, 108), 2: (840 / 101, 108, 0), 3: (16.8, 0, 0), 4: (84, 42, 0)}
    offsets[5] = (840 / 13, 64, 0)  # 711 columns leave 64.5 to each side
    for query, (pair, slot) in enumerate(zip(queries.pair, queries.slot, strict=True)):
        scale, left, above = offsets[int(pairs.target[pair])]
        x, y = pairs.target_points[pair, slot]
        assert queries.truth[query] == pytest.approx([x * scale + left, y * scale + above])


def test_of_equal_parts_and_grids_normconcat_is_the_published_way_to_join_two() -> None:
    pairs = random_pairs(3)
    one, two = (random_features(seed, 6, 8, 8, 16, common=1.0) for seed in (1, 2))
    unit = torch.nn.functional.normalize
    joined = unit(torch.cat([unit(one, dim=-1), unit(50 * two, dim=-1)], dim=-1), dim=-1)
    from_parts = compat_correspondence(on_grid([one, 50 * two], NormConcat()), pairs)
    assert from_parts == compat_correspondence([joined], pairs)


def test_compat_stretches_images_and_scales_pixels_to_one(spair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import trainers.encoders.joined

    made = []

    def make(part: Any, registry: Registry, **_: Any) -> Encoder:
        made.append(registry[part.encoder])
        encoder = colours(part.size)
        return Colours(replace(encoder.spec, mean=made[-1].mean, std=made[-1].std), part.size, -1, digest="")

    monkeypatch.setattr(trainers.encoders.joined, "make_encoder", make)
    pairs = read_pairs(spair)
    registry = Registry({"colours": colours(64).spec})
    result = measure_compat(parse("colours@64+colours@64|concat|linear"), registry, pairs)
    assert [(spec.mean, spec.std) for spec in made] == [((0.5,) * 3, (0.5,) * 3)] * 2
    with Image.open(pairs.images[0]) as image:
        squashed = np.asarray(image.resize((64, 64), Image.Resampling.BICUBIC), dtype=np.float32)
    seen = extract(VisionRepresentation([Colours(made[0], 64, -1, digest="")], framing=Choice(SQUASH)), pairs)
    expected = (squashed / 255 - 0.5) * 2
    np.testing.assert_allclose(seen[0][0], expected.reshape(16, 4, 16, 4, 3).mean((1, 3)), atol=1e-6)
    assert result == compat_correspondence(on_grid(seen + seen, NormConcat()), pairs)
    assert compat_spec(made[0]) == made[0]
