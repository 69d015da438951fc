"""The Bayesian law against an independent computation, and its honesty on the published tables."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from scipy import special

from acsearch.config.prior_file import load_prior, priors
from acsearch.config.table_file import load_table
from acsearch.errors import DefinitionError
from acsearch.law.bayes import HierarchicalLaw, objective_weights
from acsearch.law.diagnostics import diagnose
from acsearch.law.features import FULL, Features
from acsearch.law.prior import Prior
from acsearch.tables.table import Table

ROWS = np.array([0, 3, 7, 11])


def test_posterior_equals_the_dense_formulas(v1: Table, weak: Prior) -> None:
    """The same model written as a Gaussian process over all observed cells, one grid point at a time."""
    features = Features.of(v1)
    design, (n, m) = features.design(), (len(ROWS), len(v1.benchmarks))
    posterior = HierarchicalLaw(weak).fit(features, ROWS, v1.scaled[ROWS])
    z = (v1.scaled[ROWS] / posterior.scale).ravel()
    log_weights, means = [], []
    for (terms, probability), share, size, r in itertools.product(
        weak.term_sets, weak.sharing, weak.misfit, weak.correlation
    ):
        used = np.array([0.0, *(term in terms for term in FULL)])
        prior_variance, prior_mean = used * np.array([0.0, *weak.sd]) ** 2, used * np.array([0.0, *weak.mean])

        def covariance(left: np.ndarray, right: np.ndarray, v: np.ndarray = prior_variance, w: float = share):
            inner = np.einsum("ibt,t,jct->ibjc", left, v, right)
            same = np.eye(m)[None, :, None, :]
            return inner * (w + (1 - w) * same) + 100.0 * same * np.ones((len(left), 1, len(right), 1))

        noise = size**2 * (r + (1 - r) * np.eye(m)) + weak.noise**2 * np.eye(m)
        k = covariance(design[ROWS], design[ROWS]).reshape(n * m, n * m) + np.kron(np.eye(n), noise)
        residual = z - (design[ROWS] @ prior_mean).ravel()
        alpha = np.linalg.solve(k, residual)
        shape, rate = weak.shape + n * m / 2, weak.rate + residual @ alpha / 2
        evidence = special.gammaln(shape) - shape * np.log(rate) - np.linalg.slogdet(k)[1] / 2
        log_weights.append(np.log(probability) + evidence)
        cross = covariance(design, design[ROWS]).reshape(len(design) * m, n * m)
        means.append((design @ prior_mean).ravel() + cross @ alpha)
    weights = np.exp(np.array(log_weights) - max(log_weights))
    expected = (weights / weights.sum()) @ np.array(means)
    # grid points of negligible weight are dropped, which moves the mixture by less than their weight
    np.testing.assert_allclose(posterior.fitted / posterior.scale, expected.reshape(-1, m), atol=2e-3)


def test_draws_have_the_posterior_moments(v1: Table, weak: Prior) -> None:
    posterior = HierarchicalLaw(weak).fit(Features.of(v1), ROWS, v1.scaled[ROWS])
    weights = objective_weights(v1.benchmarks, "mean")
    mean, sd = posterior.objective(weights)
    drawn = posterior.draws(40_000, np.random.default_rng(0))
    assert drawn.shape == (40_000, 13, 8)
    objective = drawn @ weights
    np.testing.assert_allclose(objective.mean(axis=0), mean, atol=0.003)
    np.testing.assert_allclose(objective.std(axis=0), sd, rtol=0.06, atol=1e-12)
    straight = posterior.draws(40_000, np.random.default_rng(1), weights=weights[:, None])[..., 0]
    np.testing.assert_allclose(np.quantile(straight, 0.9, axis=0), np.quantile(objective, 0.9, axis=0), atol=0.004)
    np.testing.assert_array_equal(drawn[:5, ROWS], np.broadcast_to(v1.scaled[ROWS], (5, 4, 8)))
    free = 1
    probability = posterior.cdf(free, np.quantile(drawn[:, free], 0.3, axis=0))
    np.testing.assert_allclose(probability, 0.3, atol=0.01)


def test_finetuned_candidates_are_known(v1: Table, weak: Prior) -> None:
    posterior = HierarchicalLaw(weak).fit(Features.of(v1), ROWS, v1.scaled[ROWS])
    np.testing.assert_array_equal(posterior.mean[ROWS], v1.scaled[ROWS])
    assert (posterior.objective(objective_weights(v1.benchmarks, "mme"))[1][ROWS] == 0).all()


def test_only_finetuned_scores_are_looked_at(v1: Table, weak: Prior) -> None:
    other = replace(v1, scores=v1.scores.copy())
    others = np.setdiff1d(np.arange(13), ROWS)
    other.scores[others] = np.random.default_rng(0).random((9, 8))
    posteriors = [HierarchicalLaw(weak).fit(Features.of(t), ROWS, t.scaled[ROWS]) for t in (v1, other)]
    np.testing.assert_array_equal(posteriors[0].fitted, posteriors[1].fitted)


def test_correspondence_fades_where_it_does_not_help(v1: Table, v3: Table, weak: Prior) -> None:
    """With version 3's A, C adds nothing out of sample; with version 1's it does."""

    def without_c(table: Table) -> float:
        posterior = HierarchicalLaw(weak).fit(Features.of(table), np.arange(len(table.scores)), table.scaled)
        return sum(weight for terms, weight in posterior.term_weights.items() if "C" not in terms)

    assert without_c(v3) > 0.2
    assert without_c(v1) < 0.01


def test_correspondence_is_absent_where_unknown(v1: Table, weak: Prior) -> None:
    partly = replace(v1, correspondence=np.where(np.arange(13) == 4, np.nan, v1.correspondence))
    posterior = HierarchicalLaw(weak).fit(Features.of(partly), ROWS, v1.scaled[ROWS])
    assert set(posterior.term_weights) == {"A", "A+A2"}
    assert np.isfinite(posterior.mean).all()


@pytest.mark.parametrize("name", ["law_v1", "law_v3"])
def test_intervals_are_calibrated(name: str, weak: Prior) -> None:
    fit = diagnose(load_table(name), "bayes", HierarchicalLaw(weak), noise_fits=2)
    assert 0.75 <= fit.mean["coverage_80"] <= 0.85
    assert fit.mean["r2_loo"] > fit.mean["r2_noise"]


def test_diagnostics_tell_noise_from_law(v1: Table, weak: Prior) -> None:
    shuffled = replace(v1, scores=np.random.default_rng(3).permutation(v1.scores))
    fit = diagnose(shuffled, "bayes", HierarchicalLaw(weak), noise_fits=5)
    assert fit.mean["r2_loo"] < 0.1
    assert fit.mean["r2_adjusted"] < fit.mean["r2"]


def test_a_learnt_prior_refuses_other_definitions(v1: Table, v3: Table, tmp_path: object) -> None:
    learnt = load_prior("a_ll")
    learnt.check(v3.metadata)
    with pytest.raises(DefinitionError, match="A_ll"):
        learnt.check(v1.metadata)
    for name in priors():
        assert load_prior(name).provenance


def test_a_learnt_prior_is_what_its_table_teaches(v3: Table, weak: Prior) -> None:
    posterior = HierarchicalLaw(weak).fit(Features.of(v3), np.arange(15), v3.scaled)
    learnt, shipped = posterior.learnt_prior(weak, v3.metadata, 2.0), load_prior("a_ll")
    np.testing.assert_allclose(learnt.mean, shipped.mean, atol=1e-3)
    np.testing.assert_allclose(learnt.sd, shipped.sd, atol=1e-3)
    assert learnt.sd[0] < weak.sd[0]
