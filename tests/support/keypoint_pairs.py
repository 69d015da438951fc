"""Pairs of images with keypoints: random ones, and a small copy of SPair-71k's folder layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from acsearch.scores.pairs import Pairs
from trainers.framings.square import LETTERBOX, frame

SIZES = {"wide": (96, 72), "tall": (60, 80), "square": (64, 64), "thin": (90, 41)}


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
