"""C and C_compat, against implementations that loop over keypoints and share nothing with ours."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from acsearch.scores import matching
from acsearch.scores.compat import compat_correspondence, compat_spec, place_compat
from acsearch.scores.correspondence import correspondence, from_products, place
from acsearch.scores.extract import extent, extract, frames, measure, measure_compat, on_grid
from acsearch.scores.matching import cosines, products
from acsearch.scores.pairs import Pairs, read_pairs
from trainers.encoders import Encoder, EncoderSpec, Registry
from trainers.encoders.images import LETTERBOX, SQUASH, frame
from trainers.encoders.joined import VisionRepresentation, join
from trainers.errors import ConfigError, DataError
from trainers.representation import Joining, parse

SIZES = {"wide": (96, 72), "tall": (60, 80), "square": (64, 64), "thin": (90, 41)}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


# -- pairs made up -----------------------------------------------------------------------------------------------------


def random_pairs(seed: int, images: int = 6, count: int = 40) -> Pairs:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(40, 120, (images, 2)).astype(float)
    ends = np.array([rng.permutation(images)[:2] for _ in range(count)])
    mask = np.arange(7) < rng.integers(1, 8, count)[:, None]
    points = rng.uniform(0, 1, (2, count, 7, 2)) * sizes[ends.T][:, :, None]
    boxes = np.concatenate([np.zeros((count, 2)), sizes[ends[:, 1]] * rng.uniform(0.3, 0.9, (count, 2))], axis=1)
    return Pairs(
        images=tuple(Path(f"{i}.jpg") for i in range(images)),
        sizes=sizes,
        source=ends[:, 0],
        target=ends[:, 1],
        source_points=points[0] * mask[..., None],
        target_points=points[1] * mask[..., None],
        mask=mask,
        ids=np.where(mask, np.arange(7), -1),
        boxes=boxes,
        category=rng.integers(0, 2, count),
        categories=("cat", "dog"),
        geometry=mask & (rng.random((count, 7)) < 0.4),
    )


def random_features(seed: int, *shape: int, common: float = 0.0) -> torch.Tensor:
    """With a component that all cells share, as real features have."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator) + common * torch.randn(shape[-1], generator=generator)


def frames_of(pairs: Pairs, size: int, policy: str = LETTERBOX) -> list[Any]:
    return [frame(int(w), int(h), size, policy) for w, h in pairs.sizes]


def naive(
    features: np.ndarray,
    pairs: Pairs,
    cell_of: Callable[[int, float, float], tuple[float, float]],
    point_of: Callable[[int, float, float], tuple[float, float]],
    truth_of: Callable[[int, float, float], tuple[float, float]],
    tolerance: Callable[[int, float], float],
    decode: str,
    chosen: np.ndarray | None = None,
) -> tuple[float, float]:
    """Per image and per point, in percent, one keypoint and one cell after the other."""
    shares, hits, total = [], 0, 0
    _, height, width, _ = features.shape
    for p in range(len(pairs)):
        found = []
        for k in range(pairs.mask.shape[1]):
            if not pairs.mask[p, k] or (chosen is not None and not chosen[p, k]):
                continue
            x, y = cell_of(pairs.source[p], *pairs.source_points[p, k])
            column, row = min(max(math.floor(x), 0), width - 1), min(max(math.floor(y), 0), height - 1)
            query = features[pairs.source[p], row, column].astype(float)
            similarity = np.zeros((height, width))
            for i in range(height):
                for j in range(width):
                    there = features[pairs.target[p], i, j].astype(float)
                    similarity[i, j] = query @ there / (np.linalg.norm(query) * np.linalg.norm(there))
            i, j = np.unravel_index(similarity.argmax(), similarity.shape)
            if decode != "argmax":
                window = np.zeros((height, width), dtype=bool)
                window[max(i - 5, 0) : i + 6, max(j - 5, 0) : j + 6] = True
                if decode == "zero outside":
                    weights = np.exp(np.where(window, similarity, 0.0) / 0.02)
                else:
                    weights = np.where(window, np.exp(similarity / 0.02), 0.0)
                weights /= weights.sum()
                i, j = (weights.sum(1) * np.arange(height)).sum(), (weights.sum(0) * np.arange(width)).sum()
            predicted = point_of(pairs.target[p], j, i)
            right = truth_of(pairs.target[p], *pairs.target_points[p, k])
            x1, y1, x2, y2 = pairs.boxes[p]
            found.append(math.dist(predicted, right) < tolerance(pairs.target[p], 0.1 * max(x2 - x1, y2 - y1)))
        if found:
            shares.append(sum(found) / len(found))
            hits, total = hits + sum(found), total + len(found)
    return 100 * sum(shares) / len(shares), 100 * hits / total


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

    return naive(
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

    expected = naive(
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
    from_parts = compat_correspondence(on_grid([one, 50 * two], Joining("normconcat")), pairs)
    assert from_parts == compat_correspondence([joined], pairs)


# -- combinations ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decode", ["argmax", "soft"])
@pytest.mark.parametrize("joining", [Joining(), Joining("normconcat"), Joining("concat", 6), Joining("normconcat", 10)])
def test_a_combination_from_its_parts_is_the_joined_map(joining: Joining, decode: str) -> None:
    pairs = random_pairs(5)
    parts = [
        random_features(6, 6, 8, 8, 12, common=1.0),
        3 * random_features(7, 6, 12, 12, 20),
        random_features(8, 6, 8, 8, 5),
    ]
    where = frames_of(pairs, 64)
    direct = correspondence(join(parts, joining), pairs, where, decode=decode)
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


# -- known answers -----------------------------------------------------------------------------------------------------


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


def test_what_a_grid_does_not_cover_is_left_out() -> None:
    """Patches of 14 on 64 pixels: 4 x 4 cells on 56 pixels, where a point at x = 43 is in column 3, not 2."""
    pairs = random_pairs(2)
    at_43 = replace(pairs, source_points=np.full_like(pairs.source_points, 43.0), sizes=np.full_like(pairs.sizes, 64.0))
    where = frames_of(at_43, 64)
    assert set(place(at_43, where, (4, 4), extent=56).cell) == {15}
    assert set(place(at_43, where, (4, 4)).cell) == {10}


# -- SPair-71k's layout ------------------------------------------------------------------------------------------------

KEYPOINTS = {"cat": 12, "sofabed": 4}  # cats' paws are 9 to 12 in SPair's groups


def blobs(width: int, height: int, points: dict[int, tuple[float, float]]) -> Image.Image:
    """A picture whose keypoints are discs of colours of their own."""
    image = Image.new("RGB", (width, height), (120, 120, 120))
    pen = ImageDraw.Draw(image)
    for key, (x, y) in points.items():
        pen.ellipse(
            (x - 7, y - 7, x + 7, y + 7), fill=((key * 83) % 256, (key * 151 + 40) % 256, (key * 199 + 90) % 256)
        )
    return image


def write_spair(folder: Path, split: str = "test") -> Path:
    """Four images in each of two categories, all ordered pairs; as published, ids are text and points are integers."""
    rng = np.random.default_rng(0)
    number = 0
    for category, count in KEYPOINTS.items():
        notes = {}
        for name, (width, height) in SIZES.items():
            keys = sorted(rng.permutation(count)[:5].tolist() + ([] if count < 5 else [10]))
            points = {int(key): (int(rng.integers(8, width - 8)), int(rng.integers(8, height - 8))) for key in keys}
            notes[name] = {
                "filename": f"{name}.jpg",
                "image_width": width,
                "image_height": height,
                "category": category,
                "bndbox": [2, 2, width - 2, height - 2],
                "kps": {str(i): list(points[i]) if i in points else None for i in range(30)},
            }
            for kind in ("JPEGImages", "ImageAnnotation"):
                (folder / kind / category).mkdir(parents=True, exist_ok=True)
            blobs(width, height, points).save(folder / "JPEGImages" / category / f"{name}.jpg", quality=95)
            (folder / "ImageAnnotation" / category / f"{name}.json").write_text(json.dumps(notes[name]))
        for one, source in notes.items():
            for other, target in notes.items():
                shared = [key for key in source["kps"] if source["kps"][key] and target["kps"][key]]
                if one == other or not shared:
                    continue
                number += 1
                pair = {"category": category, "kps_ids": shared, "pair_id": number, "viewpoint_variation": 0}
                for side, image in (("src", source), ("trg", target)):
                    pair[f"{side}_imname"] = image["filename"]
                    pair[f"{side}_imsize"] = [image["image_width"], image["image_height"], 3]
                    pair[f"{side}_bndbox"] = image["bndbox"]
                    pair[f"{side}_kps"] = [image["kps"][key] for key in shared]
                path = folder / "PairAnnotation" / split / f"{number:06d}-{one}-{other}:{category}.json"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(pair))
    return folder


@pytest.fixture
def spair(tmp_path: Path) -> Path:
    return write_spair(tmp_path / "SPair-71k")


def test_reads_the_published_layout(spair: Path) -> None:
    pairs = read_pairs(spair)
    files = sorted((spair / "PairAnnotation" / "test").glob("*.json"))
    assert len(pairs) == len(files) > 12
    assert pairs.categories == ("cat", "sofabed")
    assert len(pairs.images) == len(set(pairs.images)) == 8
    for row, path in enumerate(files):
        content = json.loads(path.read_text())
        count = len(content["kps_ids"])
        assert pairs.images[pairs.source[row]] == spair / "JPEGImages" / content["category"] / content["src_imname"]
        assert pairs.images[pairs.target[row]].name == content["trg_imname"]
        assert pairs.sizes[pairs.target[row]].tolist() == content["trg_imsize"][:2]
        assert pairs.source_points[row, :count].tolist() == content["src_kps"]
        assert pairs.target_points[row, :count].tolist() == content["trg_kps"]
        assert pairs.ids[row].tolist() == [int(one) for one in content["kps_ids"]] + [-1] * (
            pairs.mask.shape[1] - count
        )
        assert pairs.mask[row].tolist() == [True] * count + [False] * (pairs.mask.shape[1] - count)
        assert pairs.boxes[row].tolist() == content["trg_bndbox"]
    assert pairs.geometry is None  # SPair has no groups for a sofabed


def test_geometry_aware_points_have_a_visible_partner_in_the_target(spair: Path) -> None:
    groups = {"cat": {"groups": [[0, 1], [9, 10, 11]]}, "sofabed": {"groups": [[2, 3]], "keypoints": ["a", "b"]}}
    (spair / "keypoints.json").write_text(json.dumps(groups))
    pairs = read_pairs(spair)
    assert pairs.geometry is not None
    assert 0 < pairs.geometry.sum() < pairs.points
    for row in range(len(pairs)):
        image = pairs.images[pairs.target[row]]
        notes = json.loads((spair / "ImageAnnotation" / image.parent.name / f"{image.stem}.json").read_text())
        for key, geometry in zip(pairs.ids[row], pairs.geometry[row], strict=True):
            own = [group for group in groups[image.parent.name]["groups"] if key in group]
            assert geometry == any(sum(notes["kps"][str(other)] is not None for other in group) >= 2 for group in own)


def test_spair_groups_are_used_where_the_folder_has_none(tmp_path: Path) -> None:
    folder = write_spair(tmp_path / "cats")
    for path in (folder / "PairAnnotation" / "test").glob("*:sofabed.json"):
        path.unlink()
    pairs = read_pairs(folder)
    assert pairs.geometry is not None
    assert set(pairs.ids[pairs.geometry]) <= {2, 3, 9, 10, 11, 12}
    assert pairs.geometry.any()


def test_reads_the_micro_world_s_pairs(tmp_path: Path) -> None:
    from studies.micro.world.dataset.pairs import write_pairs

    write_pairs(tmp_path, 0, 24, 12, lambda done: None)
    pairs = read_pairs(tmp_path)
    assert (len(pairs), len(pairs.images)) == (24, 12)
    assert pairs.geometry is not None
    assert pairs.geometry.any()
    result = measure(vision(96), pairs)
    assert result.geometry_aware is not None
    assert 0 < result.geometry_aware.points < result.overall.points == pairs.points
    assert result.position.per_image < 20 < result.ceiling.per_image == 100.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda pair: pair.pop("trg_kps"), "trg_kps"),
        (lambda pair: pair["src_kps"].pop(), "not as many"),
        (lambda pair: pair.update(category="dog"), "'dog', and JPEGImages has no such folder"),
        (lambda pair: pair.update(trg_bndbox=[5, 5, 5, 9]), "is empty"),
        (lambda pair: pair.update(src_kps=[], trg_kps=[], kps_ids=[]), "src_kps"),
        (lambda pair: pair.update(src_imsize=[1, 1, 3]), "in another pair"),
        (lambda pair: pair["src_kps"].__setitem__(0, [1, "x"]), "src_kps"),
    ],
)
def test_a_broken_pair_is_named(spair: Path, change: Callable[[dict[str, Any]], Any], message: str) -> None:
    path = sorted((spair / "PairAnnotation" / "test").glob("*.json"))[7]
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=message) as error:
        read_pairs(spair)
    assert path.name in str(error.value)


def test_what_is_missing_is_named(spair: Path) -> None:
    with pytest.raises(DataError, match="no folder JPEGImages"):
        read_pairs(spair / "elsewhere")
    with pytest.raises(DataError, match="no pair of the split 'val'"):
        read_pairs(spair, "val")
    names = [path.stem for path in (spair / "PairAnnotation" / "test").glob("*.json")]
    (spair / "Layout" / "large").mkdir(parents=True)
    (spair / "Layout" / "large" / "test.txt").write_text("\n".join([*names, "999999-a-b:cat"]))
    with pytest.raises(DataError, match=r"1 of the pairs .* 999999-a-b:cat"):
        read_pairs(spair)
    (spair / "Layout" / "large" / "test.txt").write_text("\n".join(names))
    read_pairs(spair)
    (spair / "keypoints.json").write_text('{"cat": {}}')
    with pytest.raises(DataError, match=r"keypoints\.json.*groups"):
        read_pairs(spair)
    (spair / "keypoints.json").unlink()
    (spair / "JPEGImages" / "cat" / "wide.jpg").unlink()
    with pytest.raises(DataError, match=r"wide\.jpg: no such image"):
        read_pairs(spair)


# -- from images on ----------------------------------------------------------------------------------------------------


class Colours(Encoder):
    """Each cell's mean colour once normalised: an encoder that sees, without weights."""

    def features(self, images: torch.Tensor, seeds: torch.Tensor) -> torch.Tensor:
        pooled = torch.nn.functional.adaptive_avg_pool2d(images, self.grid)
        return pooled.permute(0, 2, 3, 1)


def colours(size: int, patch: int = 4, name: str = "colours") -> Colours:
    spec = EncoderSpec(
        name, "colours", None, None, None, "none", size, patch, 3, 0, mean=(0.47, 0.47, 0.47), std=(0.2, 0.2, 0.2)
    )
    return Colours(spec, size, -1, digest="")


def vision(*sizes: int, joining: Joining | None = None, policy: str = LETTERBOX) -> VisionRepresentation:
    return VisionRepresentation([colours(size) for size in sizes], joining or Joining(), policy)


def test_features_are_those_the_connector_receives(spair: Path) -> None:
    pairs = read_pairs(spair)
    model = vision(64, 96, joining=Joining("normconcat"))
    whole = extract(model, pairs, batch_size=3)
    assert [tuple(one.shape) for one in whole] == [(8, 16, 16, 3), (8, 24, 24, 3)]
    with Image.open(pairs.images[5]) as image:
        views = [view[None] for view in model.views(image)]
    expected = model.encode(views, torch.zeros(1, dtype=torch.long))
    torch.testing.assert_close(torch.cat(on_grid(whole, model.joining), dim=-1)[5], expected[0])
    for one, other in zip(whole, extract(model, pairs, batch_size=100), strict=True):
        torch.testing.assert_close(one, other)
    assert measure(model, pairs) == correspondence(join(whole, model.joining), pairs, frames(model, pairs))


def test_letterbox_and_squash_agree_on_square_images_and_differ_on_others(spair: Path) -> None:
    pairs = read_pairs(spair)
    boxed, squashed = (measure(vision(64, policy=policy), pairs) for policy in (LETTERBOX, SQUASH))
    assert boxed.overall != squashed.overall
    features = extract(vision(64, policy=SQUASH), pairs)
    crossed = correspondence(
        features, pairs, frames(vision(64), pairs)
    )  # as the published code: squash, then letterbox
    assert crossed.per_image < min(boxed.per_image, squashed.per_image) - 10
    square = replace(pairs, sizes=np.full_like(pairs.sizes, 64.0))
    one, other = (
        correspondence(features, square, frames(vision(64, policy=policy), square)) for policy in (LETTERBOX, SQUASH)
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
    assert extent(VisionRepresentation([colours(64, patch=14)], Joining())) == 56


def test_an_image_of_another_size_is_named(spair: Path) -> None:
    pairs = read_pairs(spair)
    Image.new("RGB", (10, 10)).save(pairs.images[3])
    with pytest.raises(DataError, match=f"{pairs.images[3].name}: is 10 x 10 pixels"):
        extract(vision(64), pairs)


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
    seen = extract(VisionRepresentation([Colours(made[0], 64, -1, digest="")], Joining(), SQUASH), pairs)
    expected = (squashed / 255 - 0.5) * 2
    np.testing.assert_allclose(seen[0][0], expected.reshape(16, 4, 16, 4, 3).mean((1, 3)), atol=1e-6)
    assert result == compat_correspondence(on_grid(seen + seen, Joining("normconcat")), pairs)
    assert compat_spec(made[0]) == made[0]


def test_command(spair: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from acsearch.cli.main import main

    registry = spair / "encoders.yaml"
    registry.write_text(
        "static:\n  {adapter: noise, licence: none, native_size: 64, patch: 8, width: 16, mean: [0.5, 0.5, 0.5],"
        " std: [0.5, 0.5, 0.5]}\n"
    )

    def run(score: str, encoder: str, *options: str) -> tuple[int, str, str]:
        given = ["acsearch", "score", score, "--encoder", encoder, "--pairs", str(spair), "--registry", str(registry)]
        monkeypatch.setattr(sys, "argv", [*given, *options])
        with pytest.raises(SystemExit) as end:
            main()
        return int(end.value.code or 0), *capsys.readouterr()

    code, out, _ = run("C", "static@64+static@96", "--decode", "soft", "--json")
    read = json.loads(out)
    assert code == 0
    assert (read["definition"], read["version"], read["unit"]) == ("C", 1, "percent")
    assert read["representation"] == "static@64+static@96"
    assert read["value"] == read["overall"]["per_image"]
    assert read["grid"] == [8, 8]
    assert set(read["by_category"]) == {"cat", "sofabed"}
    assert read["seconds"] > 0
    code, out, _ = run("C_compat", "static@64")
    assert code == 0
    assert "position code" in out
    for given, message in {
        ("C", "statik@64"): "no encoder 'statik' in the registry; did you mean 'static'?",
        ("C", "static@64", "--decode", "hard"): "--decode 'hard': choose argmax or soft",
        ("C", "static@64", "--device", "abacus"): "--device 'abacus'",
        ("C", "static@64", "--split", "trn"): "no pair of the split 'trn'",
    }.items():
        code, _, err = run(*given)
        assert code == 1
        assert err.startswith("error: ")
        assert message in err
        assert len(err.splitlines()) == 1
