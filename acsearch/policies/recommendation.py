"""Recommendations from a posterior: which candidate is probably best, how sure that is, and what could be gained."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from acsearch.law.bayes import Posterior
from acsearch.law.features import Array, Index

_SCREEN = 512  # candidates that are drawn; the others have no measurable probability of being best
_DRAWS = 4096


@dataclass(frozen=True, eq=False)
class Recommendation:
    """What the law says about the objective of N candidates, in scaled scores.

    Attributes:
        mean: (N,) expected objective.
        low: (N,) lower end of the 80 % interval.
        high: (N,) upper end of the 80 % interval.
        p_best: (N,) probability of being the best candidate.
        p_top3: (N,) probability of being among the three best.
        order: (N,) rows by P(best), ties by expected objective.
        credible_set: Rows of the fewest candidates that contain the best one with probability 0.9.
        expected_regret: By how much the best candidate is expected to exceed the best finetuned one, which is the most
            that further finetunes could gain; NaN before the first finetune.
    """

    mean: Array
    low: Array
    high: Array
    p_best: Array
    p_top3: Array
    order: Index
    credible_set: Index
    expected_regret: float


def recommend(posterior: Posterior, weights: Array, seed: int, draws: int = _DRAWS) -> Recommendation:
    """Compute the recommendation from joint draws of the posterior.

    Args:
        posterior: The posterior of the law.
        weights: (M,) weights of the benchmarks in the objective.
        seed: Seed of the draws.
        draws: Number of draws.
    """
    mean, sd = posterior.objective(weights)
    rows = screen(mean, sd, _SCREEN)
    drawn = posterior.draws(draws, np.random.default_rng(seed), rows, weights[:, None])[..., 0]  # (draws, rows)
    p_best, p_top3 = np.zeros_like(mean), np.zeros_like(mean)
    p_best[rows] = np.bincount(drawn.argmax(axis=1), minlength=len(rows)) / draws
    top = min(3, len(rows))
    best_three = np.argpartition(-drawn, top - 1, axis=1)[:, :top]
    p_top3[rows] = np.bincount(best_three.ravel(), minlength=len(rows)) / draws
    low, high = mean - 1.2816 * sd, mean + 1.2816 * sd
    low[rows], high[rows] = np.quantile(drawn, [0.1, 0.9], axis=0)
    order = np.lexsort((-mean, -p_best))
    needed = int(np.searchsorted(np.cumsum(p_best[order]), 0.9)) + 1
    finetuned = drawn[:, np.isin(rows, posterior.observed)]
    regret = float((drawn.max(axis=1) - finetuned.max(axis=1)).mean()) if finetuned.size else float("nan")
    return Recommendation(mean, low, high, p_best, p_top3, order, order[:needed], regret)


def screen(mean: Array, sd: Array, limit: int) -> Index:
    """The rows with the highest mean + 3 sd, in ascending order; at most `limit` of them."""
    if len(mean) <= limit:
        return np.arange(len(mean))
    return np.sort(np.argpartition(-(mean + 3 * sd), limit)[:limit])
