"""From a posterior to advice: who is probably best, how sure that is, and what is lost by stopping here."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from acsearch.law.bayes import Posterior
from acsearch.law.features import Array, Index

_SCREEN = 512  # candidates beyond the most promising ones have no measurable chance of being best
_DRAWS = 4096


@dataclass(frozen=True, eq=False)
class Recommendation:
    """Beliefs about the objective of N candidates, in scaled scores. All arrays (N,).

    low, high: 80 % interval.  p_best, p_top3: probability of being the best, of being among the three best.
    credible_set: fewest candidates that hold the best with probability 0.9.
    expected_regret: how far the best candidate is expected to be above the best finetuned one; the most that further
    finetunes could gain. NaN before the first.
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
    """Judge every candidate by joint draws of the posterior. `order` is by P(best), ties by expected score."""
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
    """Rows with the highest mean + 3 sd, in their own order; all of them when there are no more than the limit."""
    if len(mean) <= limit:
        return np.arange(len(mean))
    return np.sort(np.argpartition(-(mean + 3 * sd), limit)[:limit])
