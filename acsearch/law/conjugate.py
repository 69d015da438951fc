"""The exact posterior of the hierarchical law at each point of its prior's grid; `acsearch.law.bayes` has the model.

All that the finetuned candidates say goes into a few sums, whose size does not depend on how many there are. With one
candidate less the posterior follows without another fit: see `acsearch.law.leave_one_out`.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from acsearch.law.features import FULL, TERMS, WITHOUT_C, Array
from acsearch.law.prior import Prior

_LEVEL_SD = 10.0  # of mu_b, in units of a benchmark's scale: vague
_SCALE_GRID = np.linspace(-4.0, 2.0, 61)  # log tau_b around its prior median
_NEGLIGIBLE = 1e-4  # posterior weight below which a grid point is dropped


@dataclass(frozen=True, eq=False)
class Sums:
    """Sums over n finetuned candidates of products of their terms and scores.

    Attributes:
        count: n.
        terms: (M, terms, M, terms) of two terms.
        crossed: (M, terms, M) of a term and a score.
        scores: (M, M) of two scores.
    """

    count: int
    terms: Array
    crossed: Array
    scores: Array

    @classmethod
    def of(cls, design: Array, scores: Array) -> Sums:
        """The sums of (n, M, terms) designs and (n, M) scores."""
        n, benchmarks, terms = design.shape
        flat = design.reshape(n, benchmarks * terms)
        products = (flat.T @ flat).reshape(benchmarks, terms, benchmarks, terms)
        return cls(n, products, (flat.T @ scores).reshape(benchmarks, terms, benchmarks), scores.T @ scores)


@dataclass(frozen=True, eq=False)
class Grid:
    """The H grid points of the prior, in the space (beta, delta_1 .. delta_M) of the P = terms * (M + 1) weights.

    Attributes:
        mean: (H, P) of the weights.
        sd: (H, P) of the weights, zero for terms that a point leaves out.
        spread: (H, M, M) covariance of misfit and noise of a candidate.
        misfit: (H, M, M) of the misfit alone.
        log_prior: (H,).
        terms: of each point.
    """

    mean: Array
    sd: Array
    spread: Array
    misfit: Array
    log_prior: Array
    terms: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, prior: Prior, benchmarks: int, *, has_c: bool) -> Grid:
        """The grid of a prior; without C, only with terms that do not need it."""
        possible = [(t, p) for t, p in prior.term_sets if has_c or set(t) <= set(WITHOUT_C)] or [(WITHOUT_C, 1.0)]
        mean, sd, misfit, log_prior, terms = [], [], [], [], []
        for (chosen, probability), share, size, correlation in itertools.product(
            possible, prior.sharing, prior.misfit, prior.correlation
        ):
            used = np.array([term in chosen for term in FULL])
            shared = np.sqrt(share) * used * prior.sd
            own = np.sqrt(1 - share) * used * prior.sd
            sd.append(np.concatenate([[0.0], shared, np.tile(np.concatenate([[_LEVEL_SD], own]), benchmarks)]))
            mean.append(np.concatenate([[0.0], used * prior.mean, np.zeros(benchmarks * len(TERMS))]))
            misfit.append(size**2 * (correlation + (1 - correlation) * np.eye(benchmarks)))
            log_prior.append(np.log(probability))
            terms.append(chosen)
        spread = np.array(misfit) + prior.noise**2 * np.eye(benchmarks)
        return cls(np.array(mean), np.array(sd), spread, np.array(misfit), np.array(log_prior), tuple(terms))


@dataclass(frozen=True, eq=False)
class Solution:
    """The posterior at each grid point, for unit variance.

    Attributes:
        coefficients: (H, P) mean of the weights.
        covariance: (H, P, P) of the weights.
        quadratic: (H,) squared distance of the scores from their prior mean, in units of their covariance.
        log_determinant: (H,) of that covariance.
    """

    coefficients: Array
    covariance: Array
    quadratic: Array
    log_determinant: Array


def solve(sums: Sums, scale: Array, grid: Grid) -> Solution:
    """The posterior of the weights.

    Args:
        sums: of the finetuned candidates.
        scale: (M,) of the benchmarks.
        grid: of the prior.
    """
    precision = np.linalg.inv(grid.spread)  # (H, M, M)
    shape = grid.sd.shape
    own = precision[:, :, None, :, None] * sums.terms  # (H, M, terms, M, terms)
    gram = _and_shared(_and_shared(own, 1), 3).reshape(*shape, shape[1])  # sum of x' precision x
    crossed = np.einsum("hbc,btc->hbt", precision, sums.crossed / scale)
    linear = _and_shared(crossed, 1).reshape(shape)  # sum of x' precision z
    # (weight - mean) / sd has a standard normal prior, so terms with sd 0 drop out
    information = np.eye(shape[1]) + grid.sd[:, :, None] * gram * grid.sd[:, None, :]
    expected = np.einsum("hpq,hq->hp", gram, grid.mean)
    projected = grid.sd * (linear - expected)
    inverse = np.linalg.inv(information)
    solution = np.einsum("hpq,hq->hp", inverse, projected)
    quadratic = np.einsum("hbc,bc->h", precision, sums.scores / np.outer(scale, scale))
    quadratic += np.einsum("hp,hp->h", grid.mean, expected - 2 * linear) - np.einsum("hp,hp->h", projected, solution)
    return Solution(
        coefficients=grid.mean + grid.sd * solution,
        covariance=grid.sd[:, :, None] * inverse * grid.sd[:, None, :],
        quadratic=quadratic,
        log_determinant=np.linalg.slogdet(information)[1] - sums.count * np.linalg.slogdet(precision)[1],
    )


def _and_shared(own: Array, axis: int) -> Array:
    """What belongs to the weights of each benchmark, with its sum before it, which belongs to the shared weights."""
    return np.concatenate([own.sum(axis=axis, keepdims=True), own], axis=axis)


def grid_weights(
    prior: Prior, grid: Grid, observations: int, quadratic: Array, log_determinant: Array
) -> tuple[Array, Array, float]:
    """The posterior of the grid points and of the common variance.

    Args:
        prior: of the law.
        grid: its grid.
        observations: number of scores.
        quadratic: (H, ...) see `Solution`.
        log_determinant: (H, ...) see `Solution`.

    Returns:
        Probability of each grid point (H, ...), zero for negligible ones; estimate of sigma^2 (H, ...); half the
        degrees of freedom.
    """
    shape = prior.shape + observations / 2
    rate = prior.rate + np.maximum(quadratic, 0.0) / 2  # rounding may leave less
    before = grid.log_prior.reshape(-1, *[1] * (quadratic.ndim - 1))
    log_weight = before - log_determinant / 2 - shape * np.log(rate)
    weight = np.exp(log_weight - log_weight.max(axis=0))
    weight /= weight.sum(axis=0)
    weight = np.where(weight > _NEGLIGIBLE, weight, 0.0)
    return weight / weight.sum(axis=0), rate / shape, shape


@dataclass(frozen=True, eq=False)
class Scales:
    """How probable the scales tau_b of the benchmarks are, each benchmark on its own.

    The squared distance of the scores from their prior mean is a quadratic function of 1 / tau_b.

    Attributes:
        prior: of the law.
        sums: of the finetuned candidates.
        inverse: (M, terms, terms) posterior covariance of the weights.
        solution: (2, M, terms) of the weights, for the scores and for their prior mean.
        distance: (3, M) factors of 1 / tau^2, -2 / tau and 1.
        mean: (terms,) prior mean of the weights.
        spread: variance of a candidate's misfit and noise.
    """

    prior: Prior
    sums: Sums
    inverse: Array
    solution: Array
    distance: Array
    mean: Array
    spread: float

    @classmethod
    def of(cls, prior: Prior, sums: Sums, *, has_c: bool) -> Scales:
        used = np.array([True, *(has_c or term in WITHOUT_C for term in FULL)])
        sd = np.array([_LEVEL_SD, *prior.sd]) * used
        mean = np.array([0.0, *prior.mean]) * used
        spread = float(np.median(prior.misfit)) ** 2 + prior.noise**2
        each = np.arange(len(sums.scores))
        terms, crossed = sums.terms[each, :, each], sums.crossed[each, :, each]  # (M, terms, terms), (M, terms)
        inverse = np.linalg.inv(np.eye(len(sd)) + sd[:, None] * terms * sd / spread)
        inverse = sd[:, None] * inverse * sd / spread
        linear = np.stack([crossed, terms @ mean])
        solution = np.einsum("btu,vbu->vbt", inverse, linear)
        squares = np.stack([np.diagonal(sums.scores), crossed @ mean, terms @ mean @ mean])
        fitted = np.stack([np.einsum("bt,bt->b", linear[v], solution[w]) for v, w in ((0, 0), (0, 1), (1, 1))])
        return cls(prior, sums, inverse, solution, (squares - fitted) / spread, mean, spread)

    @property
    def best(self) -> Array:
        """(M,) the most probable scales, as a part of floor to ceiling."""
        return self._best(self.sums.count, self.distance)

    def without_each(self, design: Array, scores: Array) -> Array:
        """(n, M) the most probable scales without each of the candidates of the sums, in turn.

        Args:
            design: (n, M, terms).
            scores: (n, M).
        """
        leverage = np.einsum("nbt,btu,nbu->nb", design, self.inverse, design)
        residual = np.stack([scores, design @ self.mean]) - np.einsum("nbt,vbt->vnb", design, self.solution)
        products = np.stack([residual[v] * residual[w] for v, w in ((0, 0), (0, 1), (1, 1))])
        own = products / (self.spread * (1 - leverage))
        return self._best(self.sums.count - 1, self.distance[:, None] - own)

    def _best(self, count: int, distance: Array) -> Array:
        prior, candidates = self.prior, self.prior.scale_median * np.exp(_SCALE_GRID)
        if count == 0:
            return np.full(distance.shape[1:], prior.scale_median)
        density = -count * np.log(candidates) - (_SCALE_GRID / prior.scale_spread) ** 2 / 2
        squares, crossed, rest = distance[..., None]
        quadratic = squares / candidates**2 - 2 * crossed / candidates + rest
        density = density - (prior.shape + count / 2) * np.log(prior.rate + np.maximum(quadratic, 0.0) / 2)
        best: Array = candidates[density.argmax(axis=-1)]
        return best


def stack(design: Array) -> Array:
    """Repeat the terms for the shared weights and for the weights of each benchmark.

    Args:
        design: (n, M, terms).

    Returns:
        (n, M, P) where P = terms * (M + 1), so that the product with the weights (beta, delta_1 .. delta_M) is the law.
    """
    n, benchmarks, terms = design.shape
    stacked = np.zeros((n, benchmarks, benchmarks + 1, terms))
    stacked[:, :, 0] = design
    for b in range(benchmarks):
        stacked[:, b, b + 1] = design[:, b]
    return stacked.reshape(n, benchmarks, (benchmarks + 1) * terms)
