"""Quick figures on an encoder's features for its card: linear probes, and the correspondence of parts.

Features are those that the study uses: the patch tokens of the spec's layer, through the project's own adapters.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from studies.micro import world
from studies.micro.pretrain.corpus import Corpus, label_sets
from studies.micro.pretrain.recipes import PROBE_SPLIT, WORLD_SEED

Encode = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # (B, 3, S, S) uint8, (B,) seeds -> (B, h, w, C)
_GRID = 4  # features are averaged to 4 x 4 cells before a linear probe
_RIDGE = 0.1  # of the mean eigenvalue of the features' covariance
_PAIRS_PER_SPECIES = 60
_ALPHA = 0.2


def features(encode: Encode, images: np.ndarray) -> torch.Tensor:
    """Encode images.

    Args:
        encode: the encoder.
        images: (N, 3, S, S) uint8; noise is seeded by their number.

    Returns:
        (N, h, w, C).
    """
    parts = []
    for begin in range(0, len(images), 128):
        some = torch.from_numpy(np.array(images[begin : begin + 128]))
        parts.append(encode(some, torch.arange(begin, begin + len(some))))
    return torch.cat(parts)


def linear_probes(found: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """How well a linear probe ranks each value of a label above the others.

    The probe is a ridge regression on one-hot labels. Three quarters of the images train it, and the rest test it.

    Args:
        found: (N, h, w, C) features.
        labels: (N, sets).

    Returns:
        The mean area under the ROC curve, 0.5 by chance, by name of the label.
    """
    pooled = F.adaptive_avg_pool2d(found.permute(0, 3, 1, 2), _GRID).flatten(1).double()
    train = len(pooled) * 3 // 4
    pooled = pooled - pooled[:train].mean(dim=0)
    pooled = pooled / pooled[:train].std(dim=0).clamp(min=1e-6)
    covariance = pooled[:train].T @ pooled[:train]
    covariance += _RIDGE * covariance.diagonal().mean() * torch.eye(len(covariance), dtype=torch.float64)
    factor = torch.linalg.cholesky(covariance)
    areas = {}
    for place, (name, count) in enumerate(label_sets().items()):
        wanted = F.one_hot(labels[:, place], count).double()
        weights = torch.cholesky_solve(pooled[:train].T @ (wanted[:train] - wanted[:train].mean(dim=0)), factor)
        guessed = pooled[train:] @ weights
        each = [_area(guessed[:, one], wanted[train:, one] > 0) for one in range(count)]
        known = [area for area in each if area is not None]
        areas[name] = sum(known) / len(known) if known else 0.5
    return areas


def _area(scores: torch.Tensor, positive: torch.Tensor) -> float | None:
    """The share of (positive, negative) pairs that are ranked right; None where there is no such pair."""
    ups, downs = int(positive.sum()), int((~positive).sum())
    if not ups or not downs:
        return None
    ranks = scores.argsort().argsort()[positive].double() + 1
    return float((ranks.sum() - ups * (ups + 1) / 2) / (ups * downs))


def grouped(scores: dict[str, float]) -> dict[str, float]:
    """Average the probes' scores by what they ask for: colour, texture, count, creature, background, reading."""
    from studies.micro.world.names import SHAPES, TEXTURES

    groups = {
        "shapes and their colours": tuple(SHAPES),
        "textures": tuple(TEXTURES),
        "count": ("count",),
        "species": ("species",),
        "body colour": ("body",),
        "background": ("background",),
        "reading": ("text",),
    }
    return {group: sum(scores[name] for name in names) / len(names) for group, names in groups.items()}


@dataclass(frozen=True, eq=False)
class Creatures:
    """N scenes with a creature.

    Attributes:
        images: (N, 3, S, S).
        points: keypoints of each creature by name, in pixels of the images.
        extent: the longer side of each creature's box, in pixels of the images.
        species: of each creature.
    """

    images: np.ndarray
    points: list[dict[str, tuple[float, float]]]
    extent: list[float]
    species: list[str]


def creatures(corpus: Corpus, size: int) -> Creatures:
    """The scenes of the probe split with a creature, and their keypoints.

    Args:
        corpus: the images of the probe split.
        size: of the images, in pixels.
    """
    from trainers.framings.square import frame

    rows, points, extents, species = [], [], [], []
    for index in range(len(corpus)):
        scene = world.scene(WORLD_SEED, PROBE_SPLIT, index)
        box = world.bounding_box(scene)
        if scene.creature is None or box is None:
            continue
        at = frame(scene.width, scene.height, size)
        rows.append(index)
        points.append(
            {
                name: (x * at.scale_x + at.offset_x, y * at.scale_y + at.offset_y)
                for name, (x, y) in world.keypoints(scene).items()
            }
        )
        extents.append(max((box[2] - box[0]) * at.scale_x, (box[3] - box[1]) * at.scale_y))
        species.append(scene.creature.species)
    return Creatures(corpus.images[rows], points, extents, species)


def correspondence(encode: Encode, found: Creatures, size: int) -> float:
    """PCK@0.2 of nearest patches by cosine similarity, between images of the same species.

    Args:
        encode: the encoder.
        found: the images and their keypoints.
        size: of the images, in pixels.
    """
    maps = F.normalize(features(encode, found.images), dim=-1)
    cells = maps.shape[1]
    centres = (torch.arange(cells) + 0.5) * size / cells
    hits = []
    for name in dict.fromkeys(found.species):
        members = [i for i, species in enumerate(found.species) if species == name][: _PAIRS_PER_SPECIES + 1]
        for a, b in itertools.pairwise(members):
            for point, (x, y) in found.points[a].items():
                if point not in found.points[b]:
                    continue
                at = maps[a, min(int(y * cells / size), cells - 1), min(int(x * cells / size), cells - 1)]
                row, column = divmod(int((maps[b].flatten(0, 1) @ at).argmax()), cells)
                dx = float(centres[column]) - found.points[b][point][0]
                dy = float(centres[row]) - found.points[b][point][1]
                hits.append((dx * dx + dy * dy) ** 0.5 < _ALPHA * found.extent[b])
    return sum(hits) / len(hits) if hits else 0.0


def probe(encode: Encode, corpus: Corpus, size: int) -> dict[str, float]:
    """All figures for the card of an encoder.

    Args:
        encode: the encoder.
        corpus: the images of the probe split.
        size: of the images, in pixels.
    """
    scores = grouped(linear_probes(features(encode, corpus.images), corpus.labels))
    told = {f"linear probe, {group}": score for group, score in scores.items()}
    return told | {"part correspondence, PCK@0.2": correspondence(encode, creatures(corpus, size), size)}


def through_adapter(rows: Path, name: str, size: int) -> Encode:
    """Load a stored encoder through the project's own adapters.

    Args:
        rows: the registry file that declares it.
        name: of the encoder.
        size: of its images, in pixels.
    """
    from trainers.encoders.registry import load_registry, make_encoder
    from trainers.representation import Part

    return make_encoder(Part(name, size), load_registry(rows)).encode
