"""Images as encoders see them, and how the maps of several encoders become one."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
import torch
from PIL import Image, ImageDraw

from support.tiny_encoders import close, spec, specs
from trainers.contracts import Features
from trainers.encoders import Registry
from trainers.encoders.images import content_seed, open_image
from trainers.encoders.joined import build_representation
from trainers.errors import DataError
from trainers.framings import pixels
from trainers.framings.square import LETTERBOX, SQUASH, fit, frame
from trainers.joinings import Joining
from trainers.joinings.concat import Concat
from trainers.joinings.normconcat import NormConcat
from trainers.representation import parse

# --- joining ---------------------------------------------------------------------------------------------------------


def random_maps(*shapes: tuple[int, int]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(2, side, side, channels, generator=generator) * 5**i for i, (side, channels) in enumerate(shapes)
    ]


def join(maps: list[torch.Tensor], joining: Joining) -> torch.Tensor:
    (joined,) = joining.features([Features.of_maps(one) for one in maps])
    return joined.maps()


def test_raw_concat_keeps_the_parts():
    first, second = random_maps((4, 8), (4, 6))
    joined = join([first, second], Concat())
    assert torch.equal(joined[..., :8], first)
    assert torch.equal(joined[..., 8:], second)
    assert torch.equal(join([first], Concat()), first)


@pytest.mark.parametrize("joining", [NormConcat(), NormConcat(3)], ids=["own", "3"])
def test_similarity_of_a_normalised_concat_is_the_mean_of_the_parts(joining):
    maps = random_maps((4, 8), (6, 6), (4, 30))
    joined = join(maps, joining)
    parts = [join([one], NormConcat(joining.grid or 4)) for one in maps]
    a, b = (slice(None), 0, 0), (slice(None), 2, 1)
    similarities = [torch.cosine_similarity(part[a], part[b], dim=-1) for part in parts]
    close(torch.cosine_similarity(joined[a], joined[b], dim=-1), torch.stack(similarities).mean(0))


def test_the_common_grid_is_the_first_parts_unless_given():
    maps = random_maps((4, 8), (6, 6))
    assert join(maps, Concat()).shape == (2, 4, 4, 14)
    assert join(maps[::-1], Concat()).shape == (2, 6, 6, 14)
    assert join(maps, Concat(3)).shape == (2, 3, 3, 14)
    fine = maps[1].requires_grad_()
    join([fine], Concat(3)).sum().backward()
    assert fine.grad.min() > 0.05  # antialiased: no location is skipped
    constant = torch.full((1, 5, 5, 3), 2.0)
    close(join([constant], Concat(7)), torch.full((1, 7, 7, 3), 2.0))
    assert join([maps[0].half()], Concat(3)).dtype == torch.float16


# --- images ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [LETTERBOX, SQUASH])
@pytest.mark.parametrize(("width", "height"), [(96, 72), (72, 96), (96, 96), (301, 200), (640, 11)])
def test_points_move_as_pixels_do(width, height, policy):
    """A bright square's centre lands where the frame says."""
    side = max(4, min(width, height) // 6)
    image = Image.new("RGB", (width, height), (0, 0, 0))
    left, top = width * 3 // 5, height // 5
    ImageDraw.Draw(image).rectangle((left, top, left + side - 1, top + side - 1), fill=(255, 255, 255))
    fitted = pixels(fit(image, 64, (0.0, 0.0, 0.0), policy))[0].double()
    total = fitted.sum()
    centres = torch.arange(64) + 0.5
    landed = ((fitted.sum(0) * centres).sum() / total, (fitted.sum(1) * centres).sum() / total)
    place = frame(width, height, 64, policy)
    assert landed[0].item() == pytest.approx((left + side / 2) * place.scale_x + place.offset_x, abs=0.4)
    assert landed[1].item() == pytest.approx((top + side / 2) * place.scale_y + place.offset_y, abs=0.4)


def test_letterbox_keeps_proportions_and_fills_the_bars():
    place = frame(96, 72, 64)
    assert (place.scale_x, place.scale_y, place.offset_x, place.offset_y) == (64 / 96, 48 / 72, 0, 8)
    squashed = frame(96, 72, 64, SQUASH)
    assert (squashed.scale_x, squashed.scale_y, squashed.offset_x, squashed.offset_y) == (64 / 96, 64 / 72, 0, 0)
    fitted = pixels(fit(Image.new("RGB", (96, 72), (255, 0, 0)), 64, (0.25, 0.5, 0.75)))
    assert fitted[:, :8].unique(dim=1).flatten().tolist()[:1] == [64]
    assert fitted[:, 0, 0].tolist() == fitted[:, 63, 63].tolist() == [64, 128, 191]
    assert fitted[:, 8, 0].tolist() == fitted[:, 55, 63].tolist() == [255, 0, 0]
    with pytest.raises(DataError, match="'crop' is not a way to fit an image"):
        frame(96, 72, 64, "crop")


def test_the_seed_is_of_the_content(tmp_path):
    image = Image.effect_noise((20, 10), 50).convert("RGB")
    file = io.BytesIO()
    image.save(file, "PNG")
    image.save(tmp_path / "other name.png", compress_level=0)
    seed = content_seed(image)
    assert 0 <= seed < 2**63
    assert content_seed(open_image(file.getvalue())) == content_seed(open_image(tmp_path / "other name.png")) == seed
    assert content_seed(image.convert("RGBA")) == seed
    assert content_seed(Image.frombytes("RGB", (10, 20), image.tobytes())) != seed
    image.putpixel((3, 3), (1, 2, 3))
    assert content_seed(image) != seed


def test_images_are_opened_upright_or_refused_by_name(tmp_path):
    image = Image.new("RGB", (20, 10))
    exif = image.getexif()
    exif[0x0112] = 6  # turned by 90 degrees
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert open_image(tmp_path / "turned.jpg").size == (10, 20)
    (tmp_path / "text.png").write_text("not an image")
    for source, named in ((tmp_path / "text.png", "text.png"), (tmp_path / "gone.png", "gone.png"), (b"no", "2 bytes")):
        with pytest.raises(DataError, match=f"cannot read an image from .*{named}"):
            open_image(source)


# --- from images on ---------------------------------------------------------------------------------------------------


def test_a_representation_end_to_end(checkpoints):
    rows = {name: replace(given, name=name.replace("_", "-")) for name, given in specs(checkpoints).items()}
    rows["noise"] = spec("noise", None)
    registry = Registry({name.replace("_", "-"): row for name, row in rows.items()})
    vision = build_representation(parse("clip@32+dinov2@48+noise@32"), registry)
    assert (vision.grid, vision.width) == ((4, 4), 96)
    image = Image.new("RGB", (40, 30), (200, 30, 90))
    seen = vision.look([[image]])
    assert [[tuple(view.shape) for view in part] for part in seen.views] == [
        [(1, 3, 32, 32)],
        [(1, 3, 48, 48)],
        [(1, 3, 32, 32)],
    ]
    assert seen.seeds.tolist() == [content_seed(image)]
    (joined,) = vision.features(seen)
    assert joined.maps().shape == (1, 4, 4, 96)
    assert torch.equal(joined.maps()[..., :32], vision.parts[0].encode(seen.views[0][0], seen.seeds))
    others = ["clip@32+dinov2@48+noise@32|normconcat", "dinov2@48+clip@32+noise@32", "clip@32+dinov2@32+noise@32"]
    fingerprints = {build_representation(parse(name), registry).fingerprint for name in others}
    assert len(fingerprints | {vision.fingerprint}) == 4
    assert build_representation(parse("clip@32+dinov2@48+noise@32|linear"), registry).fingerprint == vision.fingerprint
