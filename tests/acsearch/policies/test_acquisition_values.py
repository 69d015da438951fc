"""Acquisition functions, beliefs and recommendations, compared with numbers worked out by hand or in another way."""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest

from acsearch.law.bayes import HierarchicalLaw, Posterior, objective_weights
from acsearch.law.features import Features
from acsearch.law.prior import Prior
from acsearch.policies import acquisition, recommendation
from acsearch.policies.acquisition import (
    Belief,
    acquire,
    expected_improvement,
    knowledge_gradient,
    upper_confidence_bound,
)
from acsearch.policies.recommendation import recommend, screen
from acsearch.tables.table import Table

ROWS = np.array([1, 3, 7])
NOBODY = np.empty(0, dtype=np.intp)


@pytest.fixture(scope="module")
def posterior(v1: Table, weak: Prior) -> Posterior:
    return HierarchicalLaw(weak).fit(Features.of(v1), ROWS, v1.scaled[ROWS])


@pytest.fixture(scope="module")
def weights(v1: Table) -> np.ndarray:
    return objective_weights(v1.benchmarks, "mean")


@pytest.fixture(scope="module")
def belief(posterior: Posterior, weights: np.ndarray) -> Belief:
    return Belief.of(posterior, weights)


class Given(Posterior):
    """A posterior of three or more candidates whose objective and whose draws are given."""

    def __init__(self, mean: list[float], sd: list[float], drawn: np.ndarray, observed: list[int]) -> None:
        object.__setattr__(self, "given", (np.array(mean, dtype=float), np.array(sd, dtype=float), drawn))
        object.__setattr__(self, "observed", np.array(observed, dtype=np.intp))

    def objective(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mean, sd, _ = self.given
        return mean.copy(), sd.copy()

    def draws(self, n: int, rng: np.random.Generator, rows=None, weights=None) -> np.ndarray:
        return self.given[2][:n, rows, None]


# -- acquisition -------------------------------------------------------------------------------------------------------


def test_the_bound_is_the_mean_plus_half_a_standard_deviation(posterior: Posterior, weights: np.ndarray) -> None:
    mean, sd = posterior.objective(weights)
    bound = upper_confidence_bound(Belief.of(posterior, weights))
    np.testing.assert_allclose(bound, mean + sd / 2, rtol=1e-9)
    free = np.setdiff1d(np.arange(13), ROWS)
    assert (bound[free] > mean[free]).all()
    np.testing.assert_array_equal(bound[ROWS], mean[ROWS])


def test_a_belief_has_the_posterior_s_moments(belief: Belief, posterior: Posterior, weights: np.ndarray) -> None:
    mean, sd = posterior.objective(weights)
    np.testing.assert_allclose(belief.mean, mean)
    np.testing.assert_allclose(belief.sd, sd, atol=1e-12)
    assert np.flatnonzero(belief.known).tolist() == ROWS.tolist()
    assert belief.incumbent == max(mean[ROWS])
    assert (belief.design[ROWS] == 0).all()


def test_expected_improvement_in_closed_form(belief: Belief, posterior: Posterior, weights: np.ndarray) -> None:
    """Numerical integration of max(0, x - best) over each candidate's normal density."""
    values = expected_improvement(belief)
    assert (values[ROWS] == 0).all()
    for row in (0, 4, 12):
        normal = NormalDist(belief.mean[row], belief.sd[row])
        x = np.linspace(belief.incumbent, normal.mean + 12 * normal.stdev, 20_001)
        density = np.array([normal.pdf(one) for one in x])
        assert values[row] == pytest.approx(np.trapezoid((x - belief.incumbent) * density, x), rel=1e-5, abs=1e-12)


def test_before_the_first_finetune_improvement_is_the_mean(v1: Table, weak: Prior, weights: np.ndarray) -> None:
    nothing = Belief.of(HierarchicalLaw(weak).fit(Features.of(v1), NOBODY, v1.scaled[:0]), weights)
    values = expected_improvement(nothing)
    np.testing.assert_array_equal(values, nothing.mean)
    assert values is not nothing.mean
    assert nothing.incumbent == -math.inf


def test_a_certain_candidate_that_was_not_finetuned_has_no_division_by_zero(belief: Belief) -> None:
    sure = replace(belief, covariance=0 * belief.covariance)
    sure.__dict__["sd"] = np.zeros(13)
    assert np.isfinite(expected_improvement(sure)).all()


def test_knowledge_gradient_of_a_screened_pool_is_that_of_the_kept(
    belief: Belief, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a limit of five: the five of highest mean + 3 sd and the best known one; the others are never proposed."""
    whole = knowledge_gradient(belief)
    monkeypatch.setattr(acquisition, "_KG_CANDIDATES", 5)
    values = knowledge_gradient(belief)
    highest = np.argsort(-(belief.mean + 3 * belief.sd))[:5]
    kept = np.setdiff1d(highest, ROWS)
    assert np.flatnonzero(np.isfinite(values)).tolist() == kept.tolist()
    # what cannot be among the best does not matter much
    assert values[whole.argmax()] == pytest.approx(whole.max(), rel=0.1)
    monkeypatch.setattr(acquisition, "_KG_CANDIDATES", 13)
    np.testing.assert_array_equal(knowledge_gradient(belief), whole)


def test_limits_of_the_acquisition_functions() -> None:
    assert (acquisition._FANTASIES, acquisition._KG_CANDIDATES, acquisition._KG_OUTCOMES) == (16, 128, 64)
    points = acquisition._normal_points(3)
    assert points.shape == (64, 3)
    np.testing.assert_allclose(points.mean(axis=0), 0, atol=0.05)
    np.testing.assert_allclose(points.std(axis=0), 1, atol=0.06)
    assert points is acquisition._normal_points(3)


def test_with_pending_candidates_the_value_is_the_mean_over_what_is_imagined(
    belief: Belief, posterior: Posterior, weights: np.ndarray
) -> None:
    pending = np.array([0, 5])
    values = acquire(posterior, weights, pending, upper_confidence_bound, seed=3)
    imagined = belief.fantasize(pending, 16, np.random.default_rng(3))
    free = np.setdiff1d(np.arange(13), [*ROWS, *pending])
    expected = np.mean([one.mean + one.sd / 2 for one in imagined], axis=0)
    np.testing.assert_allclose(values[free], expected[free])
    assert np.isneginf(values[[*ROWS, *pending]]).all()
    assert not np.allclose(values[free], (belief.mean + belief.sd / 2)[free])


def test_what_is_imagined_is_the_conditional_of_the_joint_gaussian(belief: Belief, weights: np.ndarray) -> None:
    """Rows of the pending candidates' scores S = X w + e: E[f | S] and Cov[w | S] by the textbook formulas."""
    pending = np.array([0, 11])
    x = belief.rows(pending).reshape(-1, belief.covariance.shape[0])
    noise = np.kron(np.eye(2), belief.misfit)
    marginal = x @ belief.covariance @ x.T + noise
    after = belief.covariance - belief.covariance @ x.T @ np.linalg.inv(marginal) @ x @ belief.covariance
    imagined = belief.fantasize(pending, 3, np.random.default_rng(0))
    assert len(imagined) == 3
    for one in imagined:
        np.testing.assert_allclose(one.covariance, after, atol=1e-9)
        assert np.flatnonzero(one.known).tolist() == [0, 1, 3, 7, 11]
    assert np.flatnonzero(belief.known).tolist() == ROWS.tolist()
    z = np.random.default_rng(0).standard_normal((3, 16))
    for one, standard in zip(imagined, z, strict=True):
        surprise = np.linalg.cholesky(marginal) @ standard
        moved = belief.mean + belief.design @ belief.covariance @ x.T @ np.linalg.solve(marginal, surprise)
        free = np.setdiff1d(np.arange(13), pending)
        np.testing.assert_allclose(one.mean[free], moved[free])
        np.testing.assert_allclose(
            one.mean[pending], belief.mean[pending] + surprise.reshape(2, 8) @ weights, rtol=1e-9
        )


# -- recommendation ----------------------------------------------------------------------------------------------------


def test_screening_keeps_the_highest_mean_plus_three_sd_in_their_own_order() -> None:
    mean, sd = np.array([0.0, 1.0, 2.0, 3.0, 0.5]), np.array([1.1, 0.1, 0.2, 0.0, 0.0])
    assert (mean + 3 * sd).round(6).tolist() == [3.3, 1.3, 2.6, 3.0, 0.5]
    assert screen(mean, sd, 2).tolist() == [0, 3]
    assert screen(mean, sd, 3).tolist() == [0, 2, 3]
    assert screen(mean, sd, 4).tolist() == [0, 1, 2, 3]
    assert screen(mean, sd, 5).tolist() == [0, 1, 2, 3, 4]
    assert screen(mean, sd, 6).tolist() == [0, 1, 2, 3, 4]


def shares(*counts: int) -> np.ndarray:
    """Draws of as many candidates as there are counts; candidate i is the best in counts[i] of them, by one."""
    best = np.repeat(np.arange(len(counts)), counts)
    drawn = np.tile(-np.arange(len(counts), dtype=float), (len(best), 1))
    drawn[np.arange(len(best)), best] = 1.0
    return drawn


@pytest.mark.parametrize(
    ("counts", "held"),
    [
        ((95, 5, 0), [0]),  # 0.95 is enough
        ((89, 11, 0), [0, 1]),  # 0.89 is not
        ((50, 39, 11), [0, 1, 2]),
        ((50, 41, 9), [0, 1]),
        ((5, 15, 80), [2, 1]),
        ((75, 25, 0), [0, 1]),
        ((875, 125, 0), [0, 1]),
    ],
)
def test_the_credible_set_is_the_fewest_that_hold_the_best_with_probability_0_9(
    counts: tuple[int, ...], held: list[int]
) -> None:
    drawn = shares(*counts)
    advice = recommend(Given([0, 0, 0], [1, 1, 1], drawn, []), np.ones(1), 0, len(drawn))
    assert advice.credible_set.tolist() == held
    np.testing.assert_allclose(advice.p_best, np.array(counts) / sum(counts))
    assert math.isnan(advice.expected_regret)


def test_probabilities_order_and_regret_by_hand() -> None:
    """Four draws of five candidates, of which 1 and 3 are finetuned and so the same in every draw."""
    drawn = np.array([[9, 5, 1, 4, 0], [2, 5, 8, 4, 3], [6, 5, 0, 4, 1], [3, 5, 2, 4, 1]], dtype=float)
    given = Given([4.0, 5.0, 2.75, 4.0, 1.25], [1, 0, 1, 0, 1], drawn, [1, 3])
    advice = recommend(given, np.ones(1), 0, 4)
    assert advice.p_best.tolist() == [0.5, 0.25, 0.25, 0, 0]
    assert advice.p_top3.tolist() == [0.75, 1, 0.25, 1, 0]
    assert advice.order.tolist() == [0, 1, 2, 3, 4]  # 1 before 2, and 3 before 4, by their means
    assert advice.expected_regret == pytest.approx((4 + 3 + 1 + 0) / 4)
    assert advice.credible_set.tolist() == [0, 1, 2]
    np.testing.assert_allclose(advice.low, np.quantile(drawn, 0.1, axis=0))
    np.testing.assert_allclose(advice.high, np.quantile(drawn, 0.9, axis=0))


def test_two_candidates_are_both_among_the_three_best() -> None:
    advice = recommend(Given([1, 0], [1, 1], np.array([[1.0, 0.0]]), [0]), np.ones(1), 0, 1)
    assert advice.p_top3.tolist() == [1, 1]


def test_candidates_that_are_not_screened_have_their_normal_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recommendation, "_SCREEN", 2)
    mean, sd = [5.0, 0.0, 4.0, -1.0], [0.5, 0.25, 0.5, 1.0]
    drawn = np.random.default_rng(0).normal(mean, sd, (100, 4))
    advice = recommend(Given(mean, sd, drawn, [0]), np.ones(1), 0, 100)
    for row in (1, 3):
        normal = NormalDist(mean[row], sd[row])
        assert advice.low[row] == pytest.approx(normal.inv_cdf(0.1), abs=1e-4)
        assert advice.high[row] == pytest.approx(normal.inv_cdf(0.9), abs=1e-4)
        assert advice.p_best[row] == advice.p_top3[row] == 0
    assert advice.order.tolist()[2:] == [1, 3]
    np.testing.assert_allclose(advice.low[[0, 2]], np.quantile(drawn[:, [0, 2]], 0.1, axis=0))


def test_a_recommendation_is_made_of_4096_draws_of_at_most_512_candidates(
    posterior: Posterior, weights: np.ndarray
) -> None:
    assert recommendation._SCREEN == 512
    advice = recommend(posterior, weights, 0)
    np.testing.assert_allclose(advice.p_best * 4096, np.round(advice.p_best * 4096), atol=1e-9)
    assert not np.allclose(advice.p_best * 2048, np.round(advice.p_best * 2048), atol=1e-9)
    drawn = posterior.draws(20_000, np.random.default_rng(5)) @ weights
    np.testing.assert_allclose(advice.p_best, np.bincount(drawn.argmax(axis=1), minlength=13) / 20_000, atol=0.03)
    assert advice.expected_regret == pytest.approx((drawn.max(axis=1) - drawn[:, ROWS].max(axis=1)).mean(), rel=0.1)
