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

Cost of a fit: O(H (n M P + P^3)) with P = 6 (M + 1) weights and H = 60 grid points; about 10 ms for four finetunes on
eight benchmarks.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy import special  # not scipy.stats, which takes a second to import

from acsearch.law.features import FULL, TERMS, WITHOUT_C, Array, Features, Index
from acsearch.law.prior import Prior
from acsearch.tables.table import TableMetadata

_LEVEL_SD = 10.0  # of mu_b, in units of a benchmark's scale: vague
_INTERVAL_DRAWS = 4000
_NEGLIGIBLE = 1e-4  # posterior weight below which a grid point is dropped
_SCALE_GRID = np.linspace(-4.0, 2.0, 61)  # log tau_b around its prior median


@dataclass(frozen=True, eq=False)
class _Grid:
    """The H grid points of the prior, in the space (beta, delta_1 .. delta_M) of the P = terms * (M + 1) weights."""

    mean: Array  # (H, P)
    sd: Array  # (H, P), zero for terms that a point leaves out
    misfit: Array  # (H, M, M)
    log_prior: Array  # (H,)
    terms: tuple[tuple[str, ...], ...]  # of each point


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
        scale = self._scales(design[observed], scores, has_c)
        grid = self._grid(benchmarks, has_c)
        noise = prior.noise**2 * np.eye(benchmarks)
        x = stack(design[observed])  # (n, M, P)
        precision = np.linalg.inv(grid.misfit + noise)  # (H, M, M)
        weighted = np.einsum("hbc,icp->hibp", precision, x)
        gram = np.einsum("ibp,hibq->hpq", x, weighted, optimize=True)
        residual = scores / scale - np.einsum("ibp,hp->hib", x, grid.mean)  # (H, n, M)
        # (weight - mean) / sd has a standard normal prior, so terms with sd 0 drop out
        information = np.eye(x.shape[2]) + grid.sd[:, :, None] * gram * grid.sd[:, None, :]
        projected = grid.sd * np.einsum("hibp,hib->hp", weighted, residual)
        inverse = np.linalg.inv(information)
        solution = np.einsum("hpq,hq->hp", inverse, projected)
        quadratic = np.einsum("hib,hbc,hic->h", residual, precision, residual, optimize=True)
        quadratic -= np.einsum("hp,hp->h", projected, solution)
        shape = prior.shape + scores.size / 2
        rate = prior.rate + quadratic / 2
        log_determinant = np.linalg.slogdet(information)[1] - len(scores) * np.linalg.slogdet(precision)[1]
        log_weight = grid.log_prior - log_determinant / 2 - shape * np.log(rate)
        weight = np.exp(log_weight - log_weight.max())
        weight /= weight.sum()
        kept = weight > _NEGLIGIBLE
        return Posterior(
            design=design,
            observed=observed,
            scores=scores,
            scale=scale,
            weight=weight[kept] / weight[kept].sum(),
            coefficients=(grid.mean + grid.sd * solution)[kept],
            covariance=(grid.sd[:, :, None] * inverse * grid.sd[:, None, :])[kept],
            misfit=grid.misfit[kept],
            variance=rate[kept] / shape,
            dof=2 * shape,
            noise=prior.noise,
            terms=tuple(terms for terms, keep in zip(grid.terms, kept, strict=True) if keep),
        )

    def _grid(self, benchmarks: int, has_c: bool) -> _Grid:
        prior = self.prior
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
        return _Grid(np.array(mean), np.array(sd), np.array(misfit), np.array(log_prior), tuple(terms))

    def _scales(self, design: Array, scores: Array, has_c: bool) -> Array:
        """(M,) most probable scale of each benchmark on its own, as a part of floor to ceiling."""
        prior, (n, benchmarks, _) = self.prior, design.shape
        if n == 0:
            return np.full(benchmarks, prior.scale_median)
        used = np.array([True, *(has_c or term in WITHOUT_C for term in FULL)])
        sd = np.array([_LEVEL_SD, *prior.sd]) * used
        mean = design @ (np.array([0.0, *prior.mean]) * used)  # (n, M)
        spread = float(np.median(prior.misfit)) ** 2 + prior.noise**2
        covariance = np.einsum("ibp,p,jbp->bij", design, sd**2, design) + spread * np.eye(n)
        candidates = prior.scale_median * np.exp(_SCALE_GRID)
        residual = scores.T[:, None, :] / candidates[:, None] - mean.T[:, None, :]  # (M, grid, n)
        quadratic = np.einsum("bgi,bij,bgj->bg", residual, np.linalg.inv(covariance), residual, optimize=True)
        log_density = -(prior.shape + n / 2) * np.log(prior.rate + quadratic / 2) - n * np.log(candidates)
        log_density -= (_SCALE_GRID / prior.scale_spread) ** 2 / 2
        best: Array = candidates[log_density.argmax(axis=1)]
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
        stacked = stack(self.design[self.observed])
        precision = np.linalg.inv(self.misfit + self.noise**2 * np.eye(len(self.scale)))
        smoother = np.einsum("ibp,hpq,icq,hcb->hb", stacked, self.covariance, stacked, precision, optimize=True)
        effective: Array = self.weight @ smoother
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
