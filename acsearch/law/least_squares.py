"""The AC law as published: performance is about a quadratic function of alignment A and correspondence C.

    score ~ w0 + w1 A + w2 C + w3 A^2 + w4 A C + w5 C^2

A and C are min-max scaled over the pool of candidates, which is known before any finetune; the weights are ordinary
least squares. With fewer finetunes than weights the answer depends on the solver: as in the authors' code it is the
minimum-norm solution of the centred problem, which is what `sklearn.linear_model.LinearRegression` returns.

Our own form, `acsearch.law.bayes.HierarchicalLaw`, is built on the same terms. Both satisfy `Surrogate`.
Source: "Law of Vision Representation in MLLMs", arXiv 2408.16357, section 3.4, and its code (policy/fit.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special

from acsearch.law.features import FULL, Array, Features, Index
from trainers.errors import ConfigError


@dataclass(frozen=True, eq=False)
class LinearFit:
    """A least-squares fit of each benchmark; a `Prediction`.

    Attributes:
        terms: The terms of the law, without the constant.
        design: (N, M, terms) values of the terms for the whole pool.
        observed: (n,) rows that the fit is based on.
        scores: (n, M) their scaled scores.
        intercept: (M,).
        weights: (terms, M).
    """

    terms: tuple[str, ...]
    design: Array
    observed: Index
    scores: Array
    intercept: Array
    weights: Array

    @property
    def fitted(self) -> Array:
        """(N, M) the value of the law for every candidate."""
        fitted: Array = self.intercept + np.einsum("nbt,tb->nb", self.design, self.weights)
        return fitted

    @property
    def term_weights(self) -> dict[str, float]:
        """The one set of terms, with probability 1."""
        return {"+".join(self.terms): 1.0}

    @property
    def dof(self) -> int:
        """Degrees of freedom of the residuals; below 1 there are no intervals."""
        return len(self.observed) - len(self.terms) - 1

    def effective_weights(self) -> Array:
        """(M,) the number of terms, and one for the intercept."""
        return np.full(len(self.intercept), 1.0 + len(self.terms))

    def covers(self, row: int, scores: Array, level: float) -> Array:
        """(M,) whether the prediction intervals of least squares contain these scores; see `Prediction.covers`."""
        if self.dof < 1:
            return np.full_like(scores, np.nan)
        inverse, variance = self._covariance()
        new = np.concatenate([np.ones((len(scores), 1)), self.design[row]], axis=1)  # (M, 1 + terms)
        leverage = np.einsum("bs,bst,bt->b", new, inverse, new)
        half = special.stdtrit(self.dof, (1 + level) / 2) * np.sqrt(variance * (1 + leverage))
        held: Array = (np.abs(scores - self.fitted[row]) <= half).astype(float)
        return held

    def weight_intervals(self, level: float) -> dict[str, Array]:
        """By term (3, M): estimate and ends of its t interval; see `Prediction.weight_intervals`."""
        estimates = np.vstack([self.intercept, self.weights])
        half = np.full_like(estimates, np.nan)
        if self.dof >= 1:
            inverse, variance = self._covariance()
            spread = np.sqrt(np.diagonal(inverse, axis1=1, axis2=2) * variance[:, None])
            half = special.stdtrit(self.dof, (1 + level) / 2) * spread.T
        terms = ("1", *self.terms)
        return {term: np.stack([e, e - h, e + h]) for term, e, h in zip(terms, estimates, half, strict=True)}

    def _covariance(self) -> tuple[Array, Array]:
        """Inverse of the Gram matrix (M, 1 + terms, 1 + terms) and residual variance (M,)."""
        design = self.design[self.observed].swapaxes(0, 1)  # (M, n, terms)
        design = np.concatenate([np.ones((*design.shape[:2], 1)), design], axis=2)
        inverse: Array = np.asarray(np.linalg.pinv(design.swapaxes(1, 2) @ design), dtype=float)
        return inverse, np.square(self.scores - self.fitted[self.observed]).sum(axis=0) / self.dof


@dataclass(frozen=True)
class PublishedLaw:
    """Centred minimum-norm least squares on some of the quadratic terms, for each benchmark separately.

    Attributes:
        terms: The terms that are used.
    """

    terms: tuple[str, ...] = FULL

    def fit(self, features: Features, observed: Index, scores: Array) -> LinearFit:
        """Fit the law; see `Surrogate.fit`.

        Raises:
            ConfigError: a term needs C, and C is not known for the whole pool.
        """
        needs_c = [term for term in self.terms if "C" in term]
        if features.correspondence is None and needs_c:
            raise ConfigError(f"terms {', '.join(needs_c)} need correspondence, which this table does not give for all")
        design = features.design(self.terms)
        solved = [minimum_norm(design[observed, b], scores[:, b]) for b in range(scores.shape[1])]
        intercept = np.array([intercept for intercept, _ in solved])
        weights = np.stack([weights for _, weights in solved], axis=1)
        return LinearFit(self.terms, design, observed, scores, intercept, weights)


def minimum_norm(design: Array, target: Array) -> tuple[float, Array]:
    """Least squares with an intercept; the weights of minimum norm where the problem is underdetermined.

    Args:
        design: (n, terms) without a constant column.
        target: (n,) values to fit.

    Returns:
        The intercept and the (terms,) weights.
    """
    centre = design.mean(axis=0)
    weights = np.linalg.lstsq(design - centre, target - target.mean(), rcond=None)[0]
    return float(target.mean() - centre @ weights), weights
