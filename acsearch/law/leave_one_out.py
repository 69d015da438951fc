"""Predictions of the hierarchical law for each finetuned candidate from the others alone, without a fit for each.

With K_i = x_i C x_i', the posterior covariance of candidate i's scores when it was fitted too, S that of its misfit and
noise, and e_i its residual, all at one grid point and for unit variance:

    W_i = S - K_i
    its score lies       S W_i^-1 e_i           from its prediction by the others
    with covariance      S W_i^-1 S             there, noise included
    and it adds          e_i' W_i^-1 e_i        to the squared distance of all scores from their prior mean

The grid points are then weighted as in a fit, and the scales of the benchmarks are found as in a fit, without i.
Source: the Woodbury identity; for regression without a prior, Allen's PRESS (1974).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy import special

from acsearch.law.bayes import HierarchicalLaw
from acsearch.law.conjugate import Grid, Scales, Solution, Sums, grid_weights, solve, stack
from acsearch.law.features import Array, Features, Index

_TOGETHER = 16  # candidates: with 20 benchmarks and 60 grid points, 20 MB at a time


def leave_one_out(
    law: HierarchicalLaw, features: Features, observed: Index, scores: Array, level: float
) -> tuple[Array, Array]:
    """Predict each finetuned candidate by the law fitted to the others.

    Args:
        law: The law.
        features: Features of the whole pool.
        observed: (n,) rows of the finetuned candidates, two or more.
        scores: (n, M) their scaled scores.
        level: Probability of the intervals, such as 0.8.

    Returns:
        (n, M) predictions, and (n, M) 1 where the central interval of the prediction contains the score, else 0.
    """
    prior, design = law.prior, features.design()[observed]
    has_c, (n, benchmarks) = features.correspondence is not None, scores.shape
    sums, grid = Sums.of(design, scores), Grid.of(prior, benchmarks, has_c=has_c)
    predicted, covered = np.empty_like(scores), np.empty_like(scores)
    for scale, rows in _by_scale(Scales.of(prior, sums, has_c=has_c).without_each(design, scores)):
        solved = solve(sums, scale, grid)
        for part in np.array_split(rows, -(-len(rows) // _TOGETHER)):
            distance, spread, quadratic, log_determinant = _without(
                solved, grid, stack(design[part]), scores[part] / scale
            )
            weight, variance, half_dof = grid_weights(prior, grid, (n - 1) * benchmarks, quadratic, log_determinant)
            below = special.stdtr(2 * half_dof, distance / np.sqrt(spread * variance[..., None]))
            predicted[part] = scores[part] - np.einsum("hi,hib->ib", weight, distance) * scale
            covered[part] = np.abs(np.einsum("hi,hib->ib", weight, below) - 0.5) <= level / 2
    return predicted, covered


def _by_scale(scales: Array) -> Iterator[tuple[Array, Index]]:
    """The different rows of (n, M) scales, each with the candidates that have it."""
    different, which = np.unique(scales, axis=0, return_inverse=True)
    for place, scale in enumerate(different):
        yield scale, np.flatnonzero(which.ravel() == place)


def _without(solved: Solution, grid: Grid, x: Array, z: Array) -> tuple[Array, Array, Array, Array]:
    """What the other candidates say of some candidates, at each grid point and for unit variance.

    Args:
        solved: the fit to all.
        grid: of the prior.
        x: (i, M, P) designs of the candidates.
        z: (i, M) their scores in units of the benchmarks' scales.

    Returns:
        Distance of the scores from their predictions (H, i, M), its variance (H, i, M), and for `grid_weights`, without
        each candidate, the squared distance (H, i) and the log determinant (H, i).
    """
    count, benchmarks, weights = x.shape
    law = (x.reshape(-1, weights) @ solved.covariance).reshape(-1, count, benchmarks, weights)
    remaining = np.linalg.inv(grid.spread[:, None] - law @ x.transpose(0, 2, 1))  # W^-1, (H, i, M, M)
    residual = z - np.einsum("ibp,hp->hib", x, solved.coefficients)
    weighted = np.einsum("hibc,hic->hib", remaining, residual)
    distance = np.einsum("hbc,hic->hib", grid.spread, weighted)
    spread = np.einsum("hbc,hicd,hdb->hib", grid.spread, remaining, grid.spread, optimize=True)
    quadratic = solved.quadratic[:, None] - np.einsum("hib,hib->hi", residual, weighted)
    own = 2 * np.linalg.slogdet(grid.spread)[1][:, None] + np.linalg.slogdet(remaining)[1]  # of S W^-1 S
    return distance, spread, quadratic, solved.log_determinant[:, None] - own
