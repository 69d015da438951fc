"""The AC law as published: performance is about a quadratic function of alignment A and correspondence C.

    score ~ w0 + w1 A + w2 C + w3 A^2 + w4 A C + w5 C^2

A and C are min-max scaled over the pool of candidates, which is known before any finetune; the weights are ordinary
least squares. With fewer finetunes than weights the answer depends on the solver: as in the authors' code it is the
minimum-norm solution of the centred problem, which is what `sklearn.linear_model.LinearRegression` returns.

Our own form, `acsearch.law.bayes.HierarchicalLaw`, is built on the same terms. Both satisfy `Surrogate`.
Source: "Law of Vision Representation in MLLMs", arXiv 2408.16357, section 3.4, and its code (policy/fit.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import special

from acsearch.errors import ConfigError
from acsearch.tables.table import Table

Array = NDArray[np.float64]
Index = NDArray[np.intp]

TERMS = ("1", "A", "C", "A2", "AC", "C2")
FULL = TERMS[1:]
WITHOUT_C = ("A", "A2")


def parse_terms(text: str) -> tuple[str, ...]:
    """`full`, or terms joined by `+` such as `A+A2+C`, in the law's order. Raises ConfigError naming a wrong term."""
    if text == "full":
        return FULL
    given = text.split("+")
    for term in given:
        if term not in FULL:
            raise ConfigError(f"no term {term!r} in {text!r}; the terms are {', '.join(FULL)}, or 'full' for all")
    return tuple(term for term in FULL if term in given)


@dataclass(frozen=True, eq=False)
class Features:
    """A and C of a pool of N candidates for M benchmarks, min-max scaled over the pool.

    alignment: (N, M).  correspondence: (N,), or None where it is not known for all of them.
    """

    alignment: Array
    correspondence: Array | None

    @classmethod
    def of(cls, table: Table) -> Features:
        """The features of a table's candidates."""
        correspondence = _min_max(table.correspondence) if table.has_correspondence else None
        return cls(_min_max(table.alignment), correspondence)

    def design(self, terms: Sequence[str] = TERMS) -> Array:
        """(N, M, terms). Terms with C are zero where C is unknown."""
        a = self.alignment
        c = np.zeros_like(a) if self.correspondence is None else np.broadcast_to(self.correspondence[:, None], a.shape)
        design = np.empty((*a.shape, len(terms)))
        for column, term in enumerate(terms):
            design[..., column] = _TERM[term](a, c)
        return design


_TERM = {
    "1": lambda a, c: np.ones_like(a),
    "A": lambda a, c: a,
    "C": lambda a, c: c,
    "A2": lambda a, c: a * a,
    "AC": lambda a, c: a * c,
    "C2": lambda a, c: c * c,
}


def _min_max(values: Array) -> Array:
    """Scale each column to [0, 1]; a column without variation becomes 0."""
    low, span = values.min(axis=0), np.ptp(values, axis=0)
    scaled: Array = (values - low) / np.where(span > 0, span, 1.0)
    return scaled


class Prediction(Protocol):
    """What a form of the law believes about a pool after some finetunes. Scores are scaled throughout."""

    @property
    def fitted(self) -> Array:
        """(N, M) the law's own value for every candidate, finetuned ones included."""
        ...

    def effective_weights(self) -> Array:
        """(M,) number of weights that the data decide, the intercept among them."""
        ...

    def covers(self, row: int, scores: Array, level: float) -> Array:
        """(M,) 1 where the interval of a candidate not finetuned holds its score, else 0; NaN without one."""
        ...

    def weight_intervals(self, level: float) -> dict[str, Array]:
        """By term (3, M): estimate, low and high of its weight; NaN where there is no interval."""
        ...

    @property
    def term_weights(self) -> dict[str, float]:
        """Sets of terms joined by `+`, and the probability of each."""
        ...


class Surrogate(Protocol):
    """A form of the law: fitted to the finetuned candidates, it predicts the whole pool."""

    def fit(self, features: Features, observed: Index, scores: Array) -> Prediction:
        """observed: (n,) rows of the pool that have been finetuned.  scores: (n, M) scaled."""
        ...


@dataclass(frozen=True, eq=False)
class LinearFit:
    """Least squares per benchmark. design: (N, M, terms).  intercept: (M,).  weights: (terms, M)."""

    terms: tuple[str, ...]
    design: Array
    observed: Index
    scores: Array
    intercept: Array
    weights: Array

    @property
    def fitted(self) -> Array:
        fitted: Array = self.intercept + np.einsum("nbt,tb->nb", self.design, self.weights)
        return fitted

    @property
    def term_weights(self) -> dict[str, float]:
        return {"+".join(self.terms): 1.0}

    @property
    def dof(self) -> int:
        """Degrees of freedom of the residuals."""
        return len(self.observed) - len(self.terms) - 1

    def effective_weights(self) -> Array:
        return np.full(len(self.intercept), 1.0 + len(self.terms))

    def covers(self, row: int, scores: Array, level: float) -> Array:
        if self.dof < 1:
            return np.full_like(scores, np.nan)
        inverse, variance = self._covariance()
        new = np.concatenate([np.ones((len(scores), 1)), self.design[row]], axis=1)  # (M, 1 + terms)
        leverage = np.einsum("bs,bst,bt->b", new, inverse, new)
        half = special.stdtrit(self.dof, (1 + level) / 2) * np.sqrt(variance * (1 + leverage))
        held: Array = (np.abs(scores - self.fitted[row]) <= half).astype(float)
        return held

    def weight_intervals(self, level: float) -> dict[str, Array]:
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
    """Centred minimum-norm least squares on some of the quadratic terms, each benchmark by itself."""

    terms: tuple[str, ...] = FULL

    def fit(self, features: Features, observed: Index, scores: Array) -> LinearFit:
        """Raises ConfigError when a term needs a C that the pool lacks."""
        needs_c = [term for term in self.terms if "C" in term]
        if features.correspondence is None and needs_c:
            raise ConfigError(f"terms {', '.join(needs_c)} need correspondence, which this table does not give for all")
        design = features.design(self.terms)
        solved = [minimum_norm(design[observed, b], scores[:, b]) for b in range(scores.shape[1])]
        intercept = np.array([intercept for intercept, _ in solved])
        weights = np.stack([weights for _, weights in solved], axis=1)
        return LinearFit(self.terms, design, observed, scores, intercept, weights)


def minimum_norm(design: Array, target: Array) -> tuple[float, Array]:
    """Intercept and weights of least squares with an unpenalised intercept; minimum norm where underdetermined.

    design: (n, terms) without a constant.  target: (n,).
    """
    centre = design.mean(axis=0)
    weights = np.linalg.lstsq(design - centre, target - target.mean(), rcond=None)[0]
    return float(target.mean() - centre @ weights), weights
