"""C from features, beside two plain ways to compute it: how many times faster, at the same numbers.

    python benchmarks/correspondence.py

Pairs like SPair-71k's test split, a tenth of it: 7.2 keypoints per pair, 25 pairs per target image; random features of
24 x 24 cells. One loop takes keypoint after keypoint; the other pair after pair and compares all cells with all, as
published code does. All three run in turns in one process on one thread; the medians of their times and ratios are
printed. Reading features is not part of it, in any of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import torch
from torch import Tensor

from acsearch.scores.correspondence import correspondence
from acsearch.scores.pairs import Pairs
from trainers.framings.square import Frame, frame

SIDE, CHANNELS, SIZE = 24, 512, 336


def make_pairs(images: int, count: int) -> Pairs:
    rng = np.random.default_rng(0)
    sizes = rng.integers(200, 501, (images, 2)).astype(float)
    ends = np.array([rng.choice(images, 2, replace=False) for _ in range(count)])
    mask = np.arange(30) < np.clip(rng.poisson(7.2, count), 1, 30)[:, None]
    points = rng.uniform(0, 1, (2, count, 30, 2)) * sizes[ends.T][:, :, None]
    boxes = np.concatenate([np.zeros((count, 2)), sizes[ends[:, 1]] * 0.6], axis=1)
    return Pairs(
        images=tuple(Path(f"{image}.jpg") for image in range(images)),
        sizes=sizes,
        source=ends[:, 0],
        target=ends[:, 1],
        source_points=points[0],
        target_points=points[1],
        mask=mask,
        ids=np.where(mask, np.arange(30), -1),
        boxes=boxes,
        category=np.zeros(count, dtype=np.intp),
        categories=("all",),
    )


def by_keypoint(features: Tensor, pairs: Pairs, frames: list[Frame]) -> float:
    """One keypoint after the other, each with all cells of the target."""
    shares = []
    for pair in range(len(pairs)):
        source, target = pairs.source[pair], pairs.target[pair]
        there = features[target].flatten(0, 1)
        hits = []
        for place in np.flatnonzero(pairs.mask[pair]):
            query = features[source].flatten(0, 1)[_cell(pairs.source_points[pair, place], frames[source])]
            best = int(torch.nn.functional.cosine_similarity(query[None], there).argmax())
            hits.append(_hit(best, pairs, pair, place, frames[target]))
        shares.append(np.mean(hits))
    return 100 * float(np.mean(shares))


def by_pair(features: Tensor, pairs: Pairs, frames: list[Frame]) -> float:
    """One pair after the other, all cells with all cells."""
    shares = []
    for pair in range(len(pairs)):
        source, target = pairs.source[pair], pairs.target[pair]
        here, there = (
            torch.nn.functional.normalize(features[image].flatten(0, 1), dim=-1) for image in (source, target)
        )
        best = (here @ there.T).argmax(dim=1)
        places = np.flatnonzero(pairs.mask[pair])
        cells = [_cell(pairs.source_points[pair, place], frames[source]) for place in places]
        hits = [
            _hit(int(best[cell]), pairs, pair, place, frames[target]) for cell, place in zip(cells, places, strict=True)
        ]
        shares.append(np.mean(hits))
    return 100 * float(np.mean(shares))


def ours(features: Tensor, pairs: Pairs, frames: list[Frame]) -> float:
    return correspondence(features, pairs, frames).per_image


def _cell(point: np.ndarray, where: Frame) -> int:
    column = int((point[0] * where.scale_x + where.offset_x) * SIDE / SIZE)
    row = int((point[1] * where.scale_y + where.offset_y) * SIDE / SIZE)
    return min(row, SIDE - 1) * SIDE + min(column, SIDE - 1)


def _hit(cell: int, pairs: Pairs, pair: int, place: int, where: Frame) -> bool:
    row, column = divmod(cell, SIDE)
    x = ((column + 0.5) * SIZE / SIDE - where.offset_x) / where.scale_x
    y = ((row + 0.5) * SIZE / SIDE - where.offset_y) / where.scale_y
    right = pairs.target_points[pair, place]
    return float(np.hypot(x - right[0], y - right[1])) < 0.1 * float((pairs.boxes[pair, 2:]).max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--pairs", type=int, default=1223)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    pairs = make_pairs(given.images, given.pairs)
    frames = [frame(int(width), int(height), SIZE) for width, height in pairs.sizes]
    features = torch.randn(given.images, SIDE, SIDE, CHANNELS, generator=torch.Generator().manual_seed(0))
    ways: dict[str, Callable[[Tensor, Pairs, list[Frame]], float]] = {
        "acsearch": ours,
        "by pair": by_pair,
        "by keypoint": by_keypoint,
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    values = {}
    for _ in range(given.repeats):
        for name, way in ways.items():
            began = perf_counter()
            values[name] = way(features, pairs, frames)
            seconds[name].append(perf_counter() - began)
    print(f"{given.pairs} pairs, {pairs.points} keypoints, {given.images} images, {SIDE} x {SIDE} x {CHANNELS}\n")
    for name, times in seconds.items():
        ratio = median(other / own for other, own in zip(times, seconds["acsearch"], strict=True))
        print(f"  {name:12} {median(times):7.3f} s   {ratio:6.1f} times acsearch's   C {values[name]:.4f}")
    if max(values.values()) - min(values.values()) > 1e-6:
        raise SystemExit("the ways do not agree")


if __name__ == "__main__":
    main()
