"""The percentage of correct keypoints, one keypoint and one cell after the other; shares nothing with ours."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from acsearch.scores.pairs import Pairs


def naive_pck(
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
