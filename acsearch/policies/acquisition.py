"""Acquisition functions: the value of finetuning a candidate next, given the posterior of the law.

Each takes a `Belief` about the objective and returns one value per candidate; the candidate with the highest value is
proposed. For candidates that are being finetuned at the moment, outcomes are drawn (fantasies), and the values are
averaged over beliefs that are conditioned on them.

Source: expected improvement (Jones et al. 1998), UCB (Srinivas et al. 2010), knowledge gradient for correlated
beliefs (Frazier, Powell, Dayanik 2009), here with the whole vector of benchmark scores as the observation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import special

from acsearch.law.bayes import Posterior
from acsearch.law.conjugate import stack
from acsearch.law.features import Array, Index
from acsearch.policies.recommendation import screen

_FANTASIES = 16
_KG_CANDIDATES = 128
_KG_OUTCOMES = 64


@dataclass(frozen=True, eq=False)
class Belief:
    """Gaussian belief about the objective of N candidates, from the first two moments of a `Posterior`.

    Attributes:
        posterior: The posterior of the law.
        weights: (M,) weights of the benchmarks in the objective.
        mean: (N,) expected value of the objective.
        known: (N,) whether the value is certain: the candidate was finetuned, or its outcome was drawn.
        covariance: (P, P) covariance of the weights of the law.
    """

    posterior: Posterior
    weights: Array
    mean: Array
    known: NDArray[np.bool_]
    covariance: Array

    @classmethod
    def of(cls, posterior: Posterior, weights: Array) -> Belief:
        """The belief that follows from a posterior, with (M,) weights of the objective."""
        known = np.zeros(len(posterior.design), dtype=bool)
        known[posterior.observed] = True
        return cls(posterior, weights, posterior.objective(weights)[0], known, posterior.moments[1])

    @cached_property
    def design(self) -> Array:
        """(N, P) design of the objective, zero where the value is known."""
        return self.posterior.objective_design(self.weights) * ~self.known[:, None]

    @property
    def misfit(self) -> Array:
        """(M, M) covariance of misfit and noise of a candidate."""
        return self.posterior.moments[2]

    @cached_property
    def sd(self) -> Array:
        """(N,) standard deviation of the objective, 0 where the value is known."""
        law = np.einsum("np,np->n", self.design @ self.covariance, self.design)
        sd: Array = np.sqrt(np.maximum(law + self.weights @ self.misfit @ self.weights, 0.0)) * ~self.known
        return sd

    @property
    def incumbent(self) -> float:
        """The best known value; -inf before the first finetune."""
        return float(self.mean[self.known].max()) if self.known.any() else -np.inf

    def rows(self, rows: Index) -> Array:
        """(rows, M, P) designs of these candidates; the product with the weights of the law is their scaled scores."""
        return stack(self.posterior.design[rows]) * self.posterior.scale[:, None]

    def fantasize(self, pending: Index, n: int, rng: np.random.Generator) -> list[Belief]:
        """Condition on outcomes that are drawn for the pending candidates.

        Args:
            pending: Rows of the candidates that are being finetuned.
            n: Number of fantasies.
            rng: Source of randomness.

        Returns:
            n beliefs, each conditioned on one joint outcome of all pending candidates.
        """
        x = self.rows(pending)
        benchmarks = x.shape[1]
        flat = x.reshape(-1, x.shape[2])  # (pending * M, P)
        noise = np.kron(np.eye(len(pending)), self.misfit)
        root = np.linalg.cholesky(flat @ self.covariance @ flat.T + noise)
        gain = np.linalg.solve(root, flat @ self.covariance)  # (pending * M, P)
        known = self.known.copy()
        known[pending] = True
        beliefs = []
        for outcome in rng.standard_normal((n, len(root))):
            mean = self.mean + self.design @ (gain.T @ outcome)
            mean[pending] = self.mean[pending] + (root @ outcome).reshape(-1, benchmarks) @ self.weights
            beliefs.append(replace(self, mean=mean, known=known, covariance=self.covariance - gain.T @ gain))
        return beliefs


Acquisition = Callable[[Belief], Array]


def acquire(posterior: Posterior, weights: Array, pending: Index, acquisition: Acquisition, seed: int) -> Array:
    """Evaluate an acquisition function on the whole pool.

    Args:
        posterior: The posterior of the law.
        weights: (M,) weights of the benchmarks in the objective.
        pending: Rows of the candidates that are being finetuned.
        acquisition: The acquisition function.
        seed: Seed of the outcomes that are drawn for the pending candidates.

    Returns:
        (N,) value of finetuning each candidate next; -inf for those that are finetuned or pending.
    """
    belief = Belief.of(posterior, weights)
    if len(pending):
        fantasies = belief.fantasize(pending, _FANTASIES, np.random.default_rng(seed))
        values: Array = np.mean([acquisition(one) for one in fantasies], axis=0)
    else:
        values = acquisition(belief)
    values[posterior.observed] = -np.inf
    values[pending] = -np.inf
    return values


def expected_improvement(belief: Belief) -> Array:
    """(N,) E[max(0, value - incumbent)]; before the first finetune the expected value itself."""
    if not belief.known.any():
        return belief.mean.copy()
    sd = np.where(belief.sd > 0, belief.sd, 1.0)
    u = (belief.mean - belief.incumbent) / sd
    improvement: Array = np.where(
        belief.known, 0.0, sd * (u * special.ndtr(u) + np.exp(-u * u / 2) / np.sqrt(2 * np.pi))
    )
    return improvement


def upper_confidence_bound(belief: Belief) -> Array:
    """(N,) mean plus half a standard deviation; with so few finetunes, a larger factor would explore too much."""
    bound: Array = belief.mean + 0.5 * belief.sd
    return bound


def knowledge_gradient(belief: Belief) -> Array:
    """(N,) expected rise of the highest posterior mean after observing all benchmark scores of a candidate.

    Observing candidate i moves the means by T_i z with z ~ N(0, I_M) and T_i = Cov(objective, scores_i) L_i^-T, where
    L_i L_i' is the covariance of its scores; no refit is needed. The expectation is over 64 Sobol points. In a large
    pool the 128 candidates with the highest mean + 3 sd are considered.
    """
    rows = screen(belief.mean, belief.sd, _KG_CANDIDATES)
    if belief.known.any():
        rows = np.union1d(rows, [np.where(belief.known, belief.mean, -np.inf).argmax()])
    x, mean = belief.rows(rows), belief.mean[rows]  # (r, M, P), (r,)
    law = x @ belief.covariance  # (r, M, P)
    scores = np.einsum("rbp,rcp->rbc", law, x) + belief.misfit  # covariance of a candidate's scores
    shared = np.einsum("rbp,np->rbn", law, belief.design[rows])  # with the objective of all candidates
    own = np.arange(len(rows))
    shared[own, :, own] += (belief.misfit @ belief.weights) * ~belief.known[rows, None]
    step = np.linalg.solve(np.linalg.cholesky(scores), shared)  # (r, M, r)
    moved = mean + np.einsum("zb,rbn->rzn", _normal_points(x.shape[1]), step, optimize=True)
    values = np.full(len(belief.mean), -np.inf)
    values[rows] = np.where(belief.known[rows], -np.inf, moved.max(axis=2).mean(axis=1) - mean.max())
    return values


@cache
def _normal_points(dimensions: int) -> Array:
    """(64, dimensions) quasi-random standard normal points, the same on every call."""
    from scipy.stats import qmc  # here, because scipy.stats takes a second to import

    points = qmc.Sobol(dimensions, rng=np.random.default_rng(0)).random(_KG_OUTCOMES)
    normal: Array = special.ndtri(np.clip(points, 1e-9, 1 - 1e-9))
    return normal
