"""How well a form of the law holds on a recorded table, told honestly.

R^2 on the candidates that were fitted always rises with the number of weights, on noise too. So four numbers stand
together: R^2, R^2 adjusted for the weights used, R^2 of predictions for candidates left out one at a time, and R^2 of
the same fit on noise instead of A and C. The 80 % interval of the left-out predictions should cover 80 % of the scores.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special

from acsearch.bayes import HierarchicalLaw, Posterior
from acsearch.errors import TableError
from acsearch.law import FULL, TERMS, Array, Features, Index, LinearFit, PublishedLaw
from acsearch.table import Table

_LEVEL = 0.8
_COEFFICIENT_DRAWS = 4000


@dataclass(frozen=True)
class Interval:
    """Estimate of a weight, in points of its benchmark, with its 80 % interval (NaN where there is none)."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class BenchmarkFit:
    """Diagnostics of one benchmark. NaN where a quantity is not defined, as with no more candidates than weights."""

    r2: float
    r2_adjusted: float
    r2_loo: float
    r2_noise: float
    coverage_80: float
    coefficients: dict[str, Interval]
    residuals: dict[str, float]  # score minus left-out prediction, in points, by representation


@dataclass(frozen=True)
class LawFit:
    """Diagnostics of a table. term_weights: posterior probability of each set of terms, empty for the published law."""

    table: str
    surrogate: str
    terms: tuple[str, ...]
    benchmarks: dict[str, BenchmarkFit]
    term_weights: dict[str, float]

    @property
    def mean(self) -> dict[str, float]:
        """Each diagnostic averaged over benchmarks; NaN as soon as one of them is."""
        names = ("r2", "r2_adjusted", "r2_loo", "r2_noise", "coverage_80")
        return {name: float(np.mean([getattr(fit, name) for fit in self.benchmarks.values()])) for name in names}


def diagnose(table: Table, law: PublishedLaw | HierarchicalLaw, *, noise_fits: int = 20, seed: int = 0) -> LawFit:
    """Fit a table whole, without each candidate in turn, and on noise.

    Raises TableError when the table has fewer than four candidates, ConfigError when terms need a C it lacks.
    """
    if len(table.representations) < 4:
        raise TableError(f"{table.name}: {len(table.representations)} candidates; leaving one out needs four or more")
    features, scores = Features.of(table), table.scaled
    fitted = _fit(law, features, scores)
    predicted, covered = _leave_one_out(law, features, np.arange(len(scores)), scores)
    noise = [_r2(scores, _fit(law, fake, scores).fitted) for fake in _noise(features, noise_fits, seed)]
    r2 = _r2(scores, fitted.fitted)
    n = len(scores)
    effective = fitted.effective_weights()
    with np.errstate(divide="ignore", invalid="ignore"):
        adjusted = np.where(n > effective, 1 - (1 - r2) * (n - 1) / (n - effective), np.nan)
    coefficients = coefficients_of(fitted, features, scores, seed)
    r2_loo, r2_noise = _r2(scores, predicted), np.mean(noise, axis=0)
    residuals = (scores - predicted) * table.span
    return LawFit(
        table=table.name,
        surrogate="published" if isinstance(law, PublishedLaw) else "bayes",
        terms=law.terms if isinstance(law, PublishedLaw) else FULL,
        term_weights={} if isinstance(fitted, LinearFit) else fitted.term_weights,
        benchmarks={
            name: BenchmarkFit(
                r2=float(r2[b]),
                r2_adjusted=float(adjusted[b]),
                r2_loo=float(r2_loo[b]),
                r2_noise=float(r2_noise[b]),
                coverage_80=float(covered[:, b].mean()),
                coefficients={
                    term: Interval(*(coefficients[term][:, b] * table.span[b]).tolist()) for term in coefficients
                },
                residuals=dict(zip(table.representations, residuals[:, b].tolist(), strict=True)),
            )
            for b, name in enumerate(table.benchmarks)
        },
    )


def _fit(law: PublishedLaw | HierarchicalLaw, features: Features, scores: Array) -> LinearFit | Posterior:
    return law.fit(features, np.arange(len(scores)), scores)


def _r2(scores: Array, predicted: Array) -> Array:
    """(M,) share of the variance that predictions explain."""
    total = ((scores - scores.mean(axis=0)) ** 2).sum(axis=0)
    r2: Array = 1 - ((scores - predicted) ** 2).sum(axis=0) / total
    return r2


def _noise(features: Features, n: int, seed: int) -> list[Features]:
    """Features of the same kind without any knowledge: uniform, one A for all benchmarks, C where there is one."""
    rng = np.random.default_rng(seed)
    shape = features.alignment.shape
    fakes = []
    for _ in range(n):
        alignment = np.broadcast_to(rng.random((shape[0], 1)), shape)
        correspondence: Array = rng.random((shape[0], 1))[:, 0]
        fakes.append(Features(alignment, None if features.correspondence is None else correspondence))
    return fakes


def finetuned_r2(law: HierarchicalLaw, features: Features, posterior: Posterior) -> tuple[float, float]:
    """R^2 and left-out R^2, averaged over benchmarks, on the finetuned candidates of a pool; NaN before the third."""
    scores, observed = posterior.scores, posterior.observed
    if len(scores) < 3 or (np.ptp(scores, axis=0) == 0).any():
        return float("nan"), float("nan")
    predicted, _ = _leave_one_out(law, features, observed, scores)
    return float(_r2(scores, posterior.fitted[observed]).mean()), float(_r2(scores, predicted).mean())


def _leave_one_out(
    law: PublishedLaw | HierarchicalLaw, features: Features, observed: Index, scores: Array
) -> tuple[Array, Array]:
    """(n, M) predictions for each of the observed by a fit without it, and whether the 80 % interval held its score."""
    predicted, covered = np.empty_like(scores), np.empty_like(scores)
    for place, row in enumerate(observed):
        rest, others = np.delete(observed, place), np.delete(scores, place, axis=0)
        fitted = law.fit(features, rest, others)
        predicted[place] = fitted.fitted[row]
        if isinstance(fitted, Posterior):
            covered[place] = np.abs(fitted.cdf(row, scores[place]) - 0.5) <= _LEVEL / 2
        else:
            half = _half_width(fitted, features.design(fitted.terms), rest, others, row)
            covered[place] = np.where(np.isnan(half), np.nan, np.abs(scores[place] - predicted[place]) <= half)
    return predicted, covered


def _half_width(fitted: LinearFit, design: Array, rest: Index, scores: Array, row: int) -> Array:
    """(M,) half the width of the least-squares prediction interval; NaN without degrees of freedom."""
    dof = len(rest) - len(fitted.terms) - 1
    if dof < 1:
        return np.full(scores.shape[1], np.nan)
    half = np.empty(scores.shape[1])
    for b in range(scores.shape[1]):
        centre = design[rest, b].mean(axis=0)
        centred, new = design[rest, b] - centre, design[row, b] - centre
        leverage = 1 / len(rest) + new @ np.linalg.pinv(centred.T @ centred) @ new
        variance = ((scores[:, b] - fitted.fitted[rest, b]) ** 2).sum() / dof
        half[b] = special.stdtrit(dof, 0.5 + _LEVEL / 2) * np.sqrt(variance * (1 + leverage))
    return half


def coefficients_of(fitted: LinearFit | Posterior, features: Features, scores: Array, seed: int) -> dict[str, Array]:
    """By term (3, M): estimate, low, high, in scaled scores."""
    if isinstance(fitted, Posterior):
        drawn = fitted.coefficient_draws(_COEFFICIENT_DRAWS, np.random.default_rng(seed))  # (draws, M, terms)
        low, high = np.quantile(drawn, [0.5 - _LEVEL / 2, 0.5 + _LEVEL / 2], axis=0)
        return {
            term: np.stack([drawn[..., t].mean(axis=0), low[:, t], high[:, t]])
            for t, term in enumerate(TERMS)
            if "C" not in term or features.correspondence is not None
        }
    estimates = np.vstack([fitted.intercept, fitted.weights])
    design = features.design(("1", *fitted.terms))
    dof = len(scores) - len(estimates)
    half = np.full_like(estimates, np.nan)
    if dof > 0:
        for b in range(scores.shape[1]):
            variance = ((scores[:, b] - fitted.fitted[:, b]) ** 2).sum() / dof
            spread = np.sqrt(np.diag(np.linalg.pinv(design[:, b].T @ design[:, b])) * variance)
            half[:, b] = special.stdtrit(dof, 0.5 + _LEVEL / 2) * spread
    return {
        term: np.stack([estimates[t], estimates[t] - half[t], estimates[t] + half[t]])
        for t, term in enumerate(("1", *fitted.terms))
    }
