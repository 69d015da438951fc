"""Keypoint pairs across instances and poses, in the published layout of SPair-71k (arXiv 1908.10543).

JPEGImages/<category>/*.jpg, ImageAnnotation/<category>/*.json, Layout/large/test.txt and
PairAnnotation/test/<id>-<source>-<target>:<category>.json; the categories are the species. Beside them lies
keypoints.json: the names of the keypoints and which of them are told apart by geometry alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from studies.micro.world.dataset.labels import bounding_box, keypoints
from studies.micro.world.scenes.creatures import SPECIES
from studies.micro.world.scenes.draw import draw
from studies.micro.world.scenes.scene import Scene, portrait
from studies.micro.world.seeded_rng import SeededRng

_IDS = max(len(species.keypoints) for species in SPECIES.values())
_FEWEST = 3  # keypoints that a pair must share
_VARIATIONS = ("viewpoint_variation", "scale_variation", "truncation", "occlusion")
Json = dict[str, Any]


def write_pairs(folder: Path, seed: int, pairs: int, images: int, tick: Callable[[int], None]) -> None:
    """Write ordered keypoint pairs, and their images, spread evenly over the species.

    Args:
        folder: where they are written.
        seed: of the world.
        pairs: how many pairs; there are fewer where all pairs are used up.
        images: how many images.
        tick: is called with how many images were made since the last call.
    """
    names: list[str] = []
    for place, category in enumerate(SPECIES):
        shown = [portrait(seed, category, index) for index in range(_share(images, place))]
        annotations = [_write_image(folder, category, index, scene) for index, scene in enumerate(shown)]
        tick(len(shown))
        for source, target in _choose(seed, category, annotations, _share(pairs, place)):
            pair = _pair(len(names), category, source, target)
            names.append(pair["filename"])
            _write_json(folder / "PairAnnotation" / "test" / f"{pair['filename']}.json", pair)
    listing = folder / "Layout" / "large" / "test.txt"
    listing.parent.mkdir(parents=True, exist_ok=True)
    listing.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    _write_json(folder / "keypoints.json", {category: _names(category) for category in SPECIES})


def _share(count: int, place: int) -> int:
    """The share of a count for the species at this place: 10 over 4 species is 3, 3, 2, 2."""
    return count // len(SPECIES) + (place < count % len(SPECIES))


def _names(category: str) -> Json:
    """The names of a species' keypoints in the order of their ids, the ids that mirror each other, and groups of ids.

    The points of a group look alike and differ by where they are, such as the four legs. The geometry-aware subset of a
    pair is the keypoints for which another one of their group is visible in the target.
    """
    species = SPECIES[category]
    order = species.keypoints
    groups: dict[str, set[int]] = {}
    for pair in species.pairs:
        for point in pair:
            groups.setdefault(species.spots.get(point, pair[0]), set()).add(order.index(point))
    return {
        "keypoints": list(order),
        "symmetric": [[order.index(point) for point in pair] for pair in species.pairs],
        "groups": [sorted(group) for group in groups.values()],
    }


def _write_image(folder: Path, category: str, index: int, scene: Scene) -> Json:
    """Write one image and its annotation, which is returned."""
    name = f"{category}_{index:04d}"
    path = folder / "JPEGImages" / category / f"{name}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    draw(scene).save(path, quality=95, subsampling=0)
    points = keypoints(scene)
    order = SPECIES[category].keypoints
    rounded = {name: [round(x, 2), round(y, 2)] for name, (x, y) in points.items()}
    annotation = {
        "filename": path.name,
        "image_width": scene.width,
        "image_height": scene.height,
        "image_depth": 3,
        "category": category,
        "category_id": list(SPECIES).index(category),
        "truncated": int(len(points) < len(order)),
        "occluded": 0,
        "difficult": 0,
        "bndbox": [round(edge, 2) for edge in bounding_box(scene) or ()],
        "kps": {str(i): rounded.get(order[i]) if i < len(order) else None for i in range(_IDS)},
    }
    _write_json(folder / "ImageAnnotation" / category / f"{name}.json", annotation)
    return annotation


def _choose(seed: int, category: str, annotations: list[Json], count: int) -> list[tuple[Json, Json]]:
    """Ordered pairs of different images that share enough keypoints."""
    every = [(source, target) for source in annotations for target in annotations if source is not target]
    enough = [pair for pair in every if len(_shared(*pair)) >= _FEWEST]
    return SeededRng("pairs", seed, category).shuffled(enough)[:count]


def _shared(source: Json, target: Json) -> list[str]:
    """Ids of the keypoints visible in both."""
    return [key for key in source["kps"] if source["kps"][key] and target["kps"][key]]


def _pair(number: int, category: str, source: Json, target: Json) -> Json:
    shared = _shared(source, target)
    stems = [Path(image["filename"]).stem for image in (source, target)]
    pair: Json = {
        "pair_id": number,
        "filename": f"{number:06d}-{stems[0]}-{stems[1]}:{category}",
        "category": category,
        "category_id": source["category_id"],
        "kps_ids": shared,
        **dict.fromkeys(_VARIATIONS, 0),
    }
    for side, image in (("src", source), ("trg", target)):
        pair[f"{side}_imname"] = image["filename"]
        pair[f"{side}_imsize"] = [image["image_width"], image["image_height"], image["image_depth"]]
        pair[f"{side}_bndbox"] = image["bndbox"]
        pair[f"{side}_kps"] = [image["kps"][key] for key in shared]
    return pair


def _write_json(path: Path, content: Json) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
