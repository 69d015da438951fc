"""How well a form of the law holds on a recorded table.

R^2 on the fitted candidates always rises with the number of weights, also when the features are noise. So four numbers
are reported together: R^2, R^2 adjusted for the number of weights, leave-one-out R^2, and R^2 of the same fit on noise
instead of A and C. The 80 % intervals of the leave-one-out predictions should cover 80 % of the scores.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from acsearch.errors import TableError
from acsearch.law.bayes import HierarchicalLaw, Posterior
from acsearch.law.features import Array, Features, Index, Surrogate
from acsearch.law.leave_one_out import leave_one_out
from acsearch.tables.table import Table

_LEVEL = 0.8


@dataclass(frozen=True)
class Interval:
    """A weight in points of its benchmark, with its 80 % interval.

    Attributes:
        estimate: The estimate.
        low: Lower end of the interval, NaN where there is none.
        high: Upper end of the interval, NaN where there is none.
    """

    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class BenchmarkFit:
    """Diagnostics of one benchmark; NaN where a quantity is not defined, for instance with too few candidates.

    Attributes:
        r2: R^2 on the candidates that the law was fitted to.
        r2_adjusted: The same, adjusted for the effective number of weights.
        r2_loo: Leave-one-out R^2.
        r2_noise: R^2 of fits on noise instead of A and C, averaged over several draws.
        coverage_80: Share of the scores that lie in the 80 % interval of their leave-one-out prediction.
        weights: The weight of each term.
        residuals: By representation, the score minus its leave-one-out prediction, in points.
    """

    r2: float
    r2_adjusted: float
    r2_loo: float
    r2_noise: float
    coverage_80: float
    weights: dict[str, Interval]
    residuals: dict[str, float]


@dataclass(frozen=True)
class LawFit:
    """Diagnostics of a table.

    Attributes:
        table: Name of the table.
        surrogate: Name of the form of the law.
        benchmarks: Diagnostics of each benchmark.
        term_weights: Probability of each set of terms.
    """

    table: str
    surrogate: str
    benchmarks: dict[str, BenchmarkFit]
    term_weights: dict[str, float]

    @property
    def mean(self) -> dict[str, float]:
        """Each diagnostic averaged over the benchmarks; NaN if it is NaN for one of them."""
        names = ("r2", "r2_adjusted", "r2_loo", "r2_noise", "coverage_80")
        return {name: float(np.mean([getattr(fit, name) for fit in self.benchmarks.values()])) for name in names}


def diagnose(table: Table, surrogate: str, law: Surrogate, *, noise_fits: int = 20, seed: int = 0) -> LawFit:
    """Fit the law to a whole table, without each candidate in turn, and on noise.

    Args:
        table: The recorded table.
        surrogate: Name of the form of the law, for the result.
        law: The form of the law.
        noise_fits: Number of fits on noise.
        seed: Seed of the noise.

    Raises:
        TableError: the table has fewer than four candidates.
        ConfigError: a term needs C, and the table does not give it for all candidates.
    """
    n = len(table.representations)
    if n < 4:
        raise TableError(f"{table.name}: {n} candidates; leaving one out needs four or more")
    features, scores, all_rows = Features.of(table), table.scaled, np.arange(n)
    fitted = law.fit(features, all_rows, scores)
    predicted, covered = _leave_one_out(law, features, all_rows, scores)
    noise = [_r2(scores, law.fit(fake, all_rows, scores).fitted) for fake in _noise(features, noise_fits, seed)]
    r2, effective = _r2(scores, fitted.fitted), fitted.effective_weights()
    with np.errstate(divide="ignore", invalid="ignore"):
        adjusted = np.where(n > effective, 1 - (1 - r2) * (n - 1) / (n - effective), np.nan)
    r2_loo, r2_noise = _r2(scores, predicted), np.mean(noise, axis=0)
    weights, residuals = fitted.weight_intervals(_LEVEL), (scores - predicted) * table.span
    return LawFit(
        table=table.name,
        surrogate=surrogate,
        term_weights=fitted.term_weights,
        benchmarks={
            name: BenchmarkFit(
                r2=float(r2[b]),
                r2_adjusted=float(adjusted[b]),
                r2_loo=float(r2_loo[b]),
                r2_noise=float(r2_noise[b]),
                coverage_80=float(covered[:, b].mean()),
                weights={term: Interval(*(values[:, b] * table.span[b]).tolist()) for term, values in weights.items()},
                residuals=dict(zip(table.representations, residuals[:, b].tolist(), strict=True)),
            )
            for b, name in enumerate(table.benchmarks)
        },
    )


def _r2(scores: Array, predicted: Array) -> Array:
    """(M,) share of the variance that the predictions explain."""
    total = ((scores - scores.mean(axis=0)) ** 2).sum(axis=0)
    r2: Array = 1 - ((scores - predicted) ** 2).sum(axis=0) / total
    return r2


def _noise(features: Features, n: int, seed: int) -> list[Features]:
    """Uniformly random features: one A for all benchmarks, and a C where the given features have one."""
    rng = np.random.default_rng(seed)
    shape = features.alignment.shape
    fakes = []
    for _ in range(n):
        alignment = np.broadcast_to(rng.random((shape[0], 1)), shape)
        correspondence: Array = rng.random((shape[0], 1))[:, 0]
        fakes.append(Features(alignment, None if features.correspondence is None else correspondence))
    return fakes


def finetuned_r2(law: HierarchicalLaw, features: Features, posterior: Posterior) -> tuple[float, float]:
    """R^2 and leave-one-out R^2 on the finetuned candidates of a pool, averaged over the benchmarks.

    Args:
        law: The law, for the leave-one-out fits.
        features: Features of the pool.
        posterior: The fit to all finetuned candidates.

    Returns:
        The two numbers; both NaN with fewer than three finetunes, or where a benchmark has no variation.
    """
    scores, observed = posterior.scores, posterior.observed
    if len(scores) < 3 or (np.ptp(scores, axis=0) == 0).any():
        return float("nan"), float("nan")
    predicted, _ = _leave_one_out(law, features, observed, scores)
    return float(_r2(scores, posterior.fitted[observed]).mean()), float(_r2(scores, predicted).mean())


def _leave_one_out(law: Surrogate, features: Features, observed: Index, scores: Array) -> tuple[Array, Array]:
    """(n, M) predictions for each observed candidate by a fit without it, and whether its interval held the score."""
    if isinstance(law, HierarchicalLaw):
        return leave_one_out(law, features, observed, scores, _LEVEL)
    predicted, covered = np.empty_like(scores), np.empty_like(scores)
    for place, row in enumerate(observed.tolist()):
        fitted = law.fit(features, np.delete(observed, place), np.delete(scores, place, axis=0))
        predicted[place] = fitted.fitted[row]
        covered[place] = fitted.covers(row, scores[place], _LEVEL)
    return predicted, covered
