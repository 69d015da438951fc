"""The Bayesian hierarchical law: one law shared by all benchmarks, a deviation for each, and a misfit per candidate.

Candidate i, benchmark b, terms phi_ib = (A, C, A^2, A C, C^2) and a constant:

    z_ib   = score_ib / tau_b                         tau_b: the benchmark's scale
    z_ib   = mu_b + phi_ib (beta + delta_b) + u_ib + eps_ib
    mu_b   ~ N(0, sigma^2 10^2)                       each benchmark's own level, vague
    beta   ~ N(m, sigma^2 w S)      delta_b ~ N(0, sigma^2 (1 - w) S)      S = diag(s^2)
    u_i    ~ N(0, sigma^2 v^2 R)    R = r 11' + (1 - r) I                  misfit of a candidate
    eps_ib ~ N(0, sigma^2 n^2)      sigma^2 ~ InverseGamma(shape, rate)

Given the sharing w, misfit v, correlation r and the set of terms, the model is conjugate: the posterior is a
multivariate t. These four run over the small grid of the prior and are weighted by marginal likelihood, so that C loses
its weight where it does not help. The mixture is exact; acquisition functions use its first two moments.

Two things differ from the textbook model, because benchmarks may use 2 or 60 points of their range: each has its own
vague level, and its scale tau_b is the most probable one under the prior given the finetuned candidates alone (on a
grid, by empirical Bayes). Scores of candidates that were not finetuned are never used.

Cost of a fit: O(n M^2 + H P^3) with P = 6 (M + 1) weights and H = 60 grid points; about 10 ms for four finetunes on
eight benchmarks. No array has both the candidates and the grid as dimensions.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy import special  # not scipy.stats, which takes a second to import

from acsearch.law.conjugate import Grid, Scales, Sums, grid_weights, solve, stack
from acsearch.law.features import TERMS, Array, Features, Index
from acsearch.law.prior import Prior
from acsearch.tables.table import TableMetadata

_INTERVAL_DRAWS = 4000


@dataclass(frozen=True)
class HierarchicalLaw:
    """The Bayesian hierarchical law, which is the default form.

    Attributes:
        prior: Its prior.
    """

    prior: Prior

    def fit(self, features: Features, observed: Index, scores: Array) -> Posterior:
        """Compute the posterior after some finetunes.

        Args:
            features: Features of the whole pool.
            observed: (n,) rows of the candidates that have been finetuned; with n = 0 the posterior is the prior.
            scores: (n, M) their scores, scaled to floor 0 and ceiling 1.
        """
        prior, design = self.prior, features.design()
        benchmarks, has_c = design.shape[1], features.correspondence is not None
        sums = Sums.of(design[observed], scores)
        scale = Scales.of(prior, sums, has_c=has_c).best
        grid = Grid.of(prior, benchmarks, has_c=has_c)
        solved = solve(sums, scale, grid)
        weight, variance, shape = grid_weights(prior, grid, scores.size, solved.quadratic, solved.log_determinant)
        kept = weight > 0
        return Posterior(
            design=design,
            observed=observed,
            scores=scores,
            scale=scale,
            weight=weight[kept],
            coefficients=solved.coefficients[kept],
            covariance=solved.covariance[kept],
            misfit=grid.misfit[kept],
            variance=variance[kept],
            dof=2 * shape,
            noise=prior.noise,
            terms=tuple(terms for terms, keep in zip(grid.terms, kept, strict=True) if keep),
        )


@dataclass(frozen=True, eq=False)
class Posterior:
    """A mixture of multivariate t distributions over the weights of the law, and so over the scores of all candidates.

    Scores are scaled (floor 0, ceiling 1). The score of a finetuned candidate is certain: that trained model is the one
    that would be used, so the noise of its training is not averaged away.

    Attributes:
        design: (N, M, terms) values of the terms for the whole pool.
        observed: (n,) rows of the finetuned candidates.
        scores: (n, M) their scaled scores.
        scale: (M,) scale of each benchmark, as a part of floor to ceiling.
        weight: (H,) posterior probability of each grid point.
        coefficients: (H, P) posterior mean of the weights.
        covariance: (H, P, P) posterior covariance of the weights, for unit variance.
        misfit: (H, M, M) covariance of the misfit of a candidate, for unit variance.
        variance: (H,) estimate of the common variance sigma^2.
        dof: Degrees of freedom of the t distributions.
        noise: Standard deviation from one training run to another, in units of the benchmarks' scales.
        terms: The set of terms of each grid point.
    """

    design: Array
    observed: Index
    scores: Array
    scale: Array
    weight: Array
    coefficients: Array
    covariance: Array
    misfit: Array
    variance: Array
    dof: float
    noise: float
    terms: tuple[tuple[str, ...], ...]

    @property
    def term_weights(self) -> dict[str, float]:
        """Posterior probability of each set of terms."""
        totals: dict[str, float] = {}
        for terms, weight in zip(self.terms, self.weight, strict=True):
            totals["+".join(terms)] = totals.get("+".join(terms), 0.0) + float(weight)
        return totals

    @cached_property
    def moments(self) -> tuple[Array, Array, Array]:
        """Mean (P,) and covariance (P, P) of the weights, and covariance (M, M) of misfit and noise, of the mixture."""
        mean = self.weight @ self.coefficients
        scaled = self.weight * self.variance * self.dof / (self.dof - 2)
        deviation = self.coefficients - mean
        covariance = np.einsum("h,hpq->pq", scaled, self.covariance)
        covariance += np.einsum("h,hp,hq->pq", self.weight, deviation, deviation)
        misfit = np.einsum("h,hbc->bc", scaled, self.misfit) + scaled.sum() * self.noise**2 * np.eye(len(self.scale))
        return mean, covariance, misfit * np.outer(self.scale, self.scale)

    @property
    def fitted(self) -> Array:
        """(N, M) the mean of the law for every candidate, also for those that were finetuned."""
        weights = self.moments[0].reshape(-1, len(TERMS))
        fitted: Array = np.einsum("nbt,bt->nb", self.design, weights[0] + weights[1:]) * self.scale
        return fitted

    @property
    def mean(self) -> Array:
        """(N, M) expected scores: the observed ones of finetuned candidates, the mean of the law for the others."""
        mean = self.fitted
        mean[self.observed] = self.scores
        return mean

    def objective_design(self, weights: Array) -> Array:
        """The design of the objective, which is a weighted sum of the benchmarks.

        Args:
            weights: (M,) weights of the benchmarks.

        Returns:
            (N, P); its product with the weights of the law is the law's value of the objective.
        """
        own = self.design * (weights * self.scale)[:, None]  # (N, M, terms)
        return np.concatenate([own.sum(axis=1, keepdims=True), own], axis=1).reshape(len(own), -1)

    def objective(self, weights: Array) -> tuple[Array, Array]:
        """Mean and standard deviation of the objective `scores @ weights`.

        Args:
            weights: (M,) weights of the benchmarks.

        Returns:
            Two arrays (N,); the standard deviation of finetuned candidates is 0.
        """
        coefficients, covariance, misfit = self.moments
        design = self.objective_design(weights)
        mean = design @ coefficients
        variance = np.einsum("np,np->n", design @ covariance, design) + weights @ misfit @ weights
        mean[self.observed] = self.scores @ weights
        variance[self.observed] = 0.0
        return mean, np.sqrt(np.maximum(variance, 0.0))

    @cached_property
    def _root(self) -> Array:
        """(H, P, P) Cholesky factors of the covariances; terms that a grid point leaves out stay at zero."""
        tiny = 1e-12 * np.eye(self.covariance.shape[1])
        return np.asarray(np.linalg.cholesky(self.covariance + tiny), dtype=np.float64)

    def _weight_draws(self, n: int, rng: np.random.Generator) -> Iterator[tuple[int, slice, Array, Array]]:
        """For each grid point drawn: its position, its slice of the draws, sigma (size,) and weights (size, P)."""
        ends = np.cumsum(rng.multinomial(n, self.weight))
        for h, (start, end) in enumerate(itertools.pairwise([0, *ends.tolist()])):
            if end > start:
                sigma = np.sqrt(self.variance[h] * self.dof / rng.chisquare(self.dof, end - start))
                standard = rng.standard_normal((end - start, self.coefficients.shape[1]))
                yield h, slice(start, end), sigma, self.coefficients[h] + sigma[:, None] * (standard @ self._root[h].T)

    def draws(self, n: int, rng: np.random.Generator, rows: Index | None = None, weights: Array | None = None) -> Array:
        """Draw the scores of several candidates jointly.

        Args:
            n: Number of draws.
            rng: Source of randomness.
            rows: Rows of the candidates; default: the whole pool.
            weights: (M, K) weights of K sums of benchmarks; default: the identity, so that K = M.

        Returns:
            (n, rows, K) weighted sums of scaled scores.
        """
        rows = np.arange(len(self.design)) if rows is None else rows
        weights = np.eye(len(self.scale)) if weights is None else weights
        in_units = self.scale[:, None] * weights  # (M, K)
        design = np.einsum("rbp,bk->rkp", stack(self.design[rows]), in_units, optimize=True)
        drawn = np.empty((n, len(rows), weights.shape[1]))
        for h, block, sigma, law in self._weight_draws(n, rng):
            noise = in_units.T @ (self.misfit[h] + self.noise**2 * np.eye(len(self.scale))) @ in_units
            misfit = rng.standard_normal((len(sigma), *drawn.shape[1:])) @ np.linalg.cholesky(noise).T
            drawn[block] = np.tensordot(law, design, axes=(1, 2)) + sigma[:, None, None] * misfit
        _, inside, outside = np.intersect1d(rows, self.observed, assume_unique=True, return_indices=True)
        drawn[:, inside] = (self.scores @ weights)[outside]
        return drawn

    def _predictive(self, row: int) -> tuple[Array, Array]:
        """Centre and scale (H, M) of each component of the mixture, for a candidate that was not finetuned."""
        stacked = stack(self.design[[row]])[0]  # (M, P)
        spread = np.einsum("bp,hpq,bq->hb", stacked, self.covariance, stacked, optimize=True)
        spread += np.diagonal(self.misfit, axis1=1, axis2=2) + self.noise**2
        centre = np.einsum("bp,hp->hb", stacked, self.coefficients)
        return centre * self.scale, np.sqrt(spread * self.variance[:, None]) * self.scale

    def cdf(self, row: int, scores: Array) -> Array:
        """The exact predictive distribution function of a candidate that was not finetuned.

        Args:
            row: Row of the candidate in the pool.
            scores: (M,) scaled scores.

        Returns:
            (M,) probability that its score is not above the given one.
        """
        centre, scale = self._predictive(row)
        cdf: Array = self.weight @ special.stdtr(self.dof, (scores - centre) / scale)
        return cdf

    def covers(self, row: int, scores: Array, level: float) -> Array:
        """(M,) 1 where the central interval of a candidate contains the score, else 0; see `Prediction.covers`."""
        return (np.abs(self.cdf(row, scores) - 0.5) <= level / 2).astype(float)

    def weight_intervals(self, level: float) -> dict[str, Array]:
        """Central intervals of the weights in scaled scores, from draws with a fixed seed.

        Args:
            level: Probability of the interval, such as 0.8.

        Returns:
            By term (3, M): mean, lower and upper end for each benchmark. Terms of no grid point are left out.
        """
        rng = np.random.default_rng(0)
        drawn = np.concatenate([law for *_, law in self._weight_draws(_INTERVAL_DRAWS, rng)])
        weights = drawn.reshape(_INTERVAL_DRAWS, -1, len(TERMS))
        weights = (weights[:, :1] + weights[:, 1:]) * self.scale[:, None]  # (draws, M, terms)
        low, high = np.quantile(weights, [(1 - level) / 2, (1 + level) / 2], axis=0)
        ever = {"1"}.union(*self.terms)
        return {
            term: np.stack([weights[..., t].mean(axis=0), low[:, t], high[:, t]])
            for t, term in enumerate(TERMS)
            if term in ever
        }

    def learnt_prior(self, base: Prior, metadata: TableMetadata, inflate: float) -> Prior:
        """Turn the posterior of the shared weights into a prior for studies with the same definitions of A and C.

        Args:
            base: The prior that this posterior was computed with.
            metadata: Metadata of the table that it was fitted to.
            inflate: Factor on the variance of the weights.
        """
        mean, covariance, _ = self.moments
        shared = slice(1, len(TERMS))
        weights = self.term_weights
        known = {"+".join(terms): terms for terms, _ in base.term_sets}
        return replace(
            base,
            name="learnt",
            provenance=f"Learnt with prior {base.name!r}, variance times {inflate:g}. "
            f"{metadata.title}. {metadata.source}",
            alignment=(metadata.alignment,),
            correspondence=(metadata.correspondence,),
            mean=tuple(np.round(mean[shared], 4).tolist()),
            sd=tuple(np.round(np.sqrt(inflate * np.diag(covariance)[shared]), 4).tolist()),
            # a set of terms that does not help on this table may help on another, so each keeps a part
            term_sets=tuple(
                (terms, round(0.8 * weights.get(name, 0.0) + 0.2 / len(known), 4)) for name, terms in known.items()
            ),
        )

    def effective_weights(self) -> Array:
        """(M,) effective number of weights that are fitted to each benchmark: the trace of the smoother matrix."""
        products = Sums.of(self.design[self.observed], self.scores).terms
        precision = np.linalg.inv(self.misfit + self.noise**2 * np.eye(len(self.scale)))
        blocks = self.covariance.reshape(len(self.weight), *[len(self.scale) + 1, len(TERMS)] * 2)
        law = blocks[:, 1:, :, 1:] + blocks[:, :1, :, 1:] + blocks[:, 1:, :, :1] + blocks[:, :1, :, :1]
        effective: Array = self.weight @ np.einsum("btcu,hbtcu,hcb->hb", products, law, precision, optimize=True)
        return effective


def objective_weights(benchmarks: Sequence[str], objective: str) -> Array:
    """The weights of the benchmarks in an objective.

    Args:
        benchmarks: Names of the M benchmarks.
        objective: `mean` for all benchmarks equally, or the name of one of them.

    Returns:
        (M,) weights with sum 1.
    """
    if objective == "mean":
        return np.full(len(benchmarks), 1 / len(benchmarks))
    weights = np.zeros(len(benchmarks))
    weights[list(benchmarks).index(objective)] = 1.0
    return weights
