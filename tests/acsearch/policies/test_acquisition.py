"""Acquisition functions against brute force, and at scale."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from acsearch.law.bayes import HierarchicalLaw, Posterior, objective_weights
from acsearch.law.features import Features
from acsearch.law.prior import Prior
from acsearch.policies.acquisition import (
    Belief,
    acquire,
    expected_improvement,
    knowledge_gradient,
    upper_confidence_bound,
)
from acsearch.tables.table import Table
from support import ROOT

ROWS = np.array([1, 3, 7])
NOBODY = np.empty(0, dtype=np.intp)
ACQUISITIONS = [expected_improvement, upper_confidence_bound, knowledge_gradient]


@pytest.fixture(scope="module")
def posterior(v1: Table, weak: Prior) -> Posterior:
    return HierarchicalLaw(weak).fit(Features.of(v1), ROWS, v1.scaled[ROWS])


@pytest.fixture(scope="module")
def weights(v1: Table) -> np.ndarray:
    return objective_weights(v1.benchmarks, "mean")


def moments(posterior: Posterior, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (N * M,) and covariance (N * M, N * M) of all scaled scores, written out in full; finetuned rows certain."""
    from acsearch.law.conjugate import stack

    _, covariance, misfit = posterior.moments
    x = (stack(posterior.design) * posterior.scale[:, None]).reshape(-1, covariance.shape[0])
    full = x @ covariance @ x.T + np.kron(np.eye(len(posterior.design)), misfit)
    known = np.isin(np.arange(len(posterior.design)), posterior.observed).repeat(len(posterior.scale))
    full[known] = full[:, known] = 0
    return posterior.mean.ravel(), full


def test_knowledge_gradient_equals_refitting(posterior: Posterior, weights: np.ndarray) -> None:
    """The one-step formula against conditioning the full joint Gaussian on outcomes, one after the other."""
    mean, covariance = moments(posterior, weights)
    n, m = posterior.design.shape[:2]
    to_objective = np.kron(np.eye(n), weights)
    rng = np.random.default_rng(0)
    values = knowledge_gradient(Belief.of(posterior, weights))
    for row in (0, 4, 11):
        cells = np.arange(row * m, (row + 1) * m)
        block = covariance[np.ix_(cells, cells)]
        gain = to_objective @ covariance[:, cells] @ np.linalg.inv(block)
        outcomes = rng.multivariate_normal(np.zeros(m), block, 20_000, method="cholesky")
        after = to_objective @ mean + outcomes @ gain.T
        brute = after.max(axis=1).mean() - (to_objective @ mean).max()
        assert values[row] == pytest.approx(brute, rel=0.12, abs=3e-4)


def test_expected_improvement_equals_its_integral(posterior: Posterior, weights: np.ndarray) -> None:
    belief = Belief.of(posterior, weights)
    values = expected_improvement(belief)
    samples = belief.mean + belief.sd * np.random.default_rng(0).standard_normal((200_000, 1))
    brute = np.maximum(samples - belief.incumbent, 0).mean(axis=0)
    free = ~belief.known
    np.testing.assert_allclose(values[free], brute[free], rtol=0.03, atol=2e-5)


def test_imagined_outcomes_leave_the_expectation_and_shrink_the_doubt(
    posterior: Posterior, weights: np.ndarray
) -> None:
    belief = Belief.of(posterior, weights)
    imagined = belief.fantasize(np.array([0, 11]), 4000, np.random.default_rng(0))
    np.testing.assert_allclose(np.mean([one.mean for one in imagined], axis=0), belief.mean, atol=0.004)
    assert (imagined[0].sd <= belief.sd + 1e-12).all()
    assert (imagined[0].sd[[0, 11]] == 0).all()
    spread = np.std([one.mean for one in imagined], axis=0)
    np.testing.assert_allclose(spread[[0, 11]], belief.sd[[0, 11]], rtol=0.05)


@pytest.mark.parametrize("acquisition", ACQUISITIONS, ids=lambda f: f.__name__)
def test_neither_finetuned_nor_pending_are_proposed(posterior: Posterior, weights: np.ndarray, acquisition) -> None:
    pending = np.array([0])
    values = acquire(posterior, weights, pending, acquisition, seed=0)
    assert np.isneginf(values[[*ROWS, 0]]).all()
    assert np.isfinite(values[[2, 4, 5, 6, 8, 9, 10, 11, 12]]).all()


@pytest.mark.parametrize("acquisition", ACQUISITIONS, ids=lambda f: f.__name__)
def test_the_first_proposal_follows_the_prior(v1: Table, weak: Prior, weights: np.ndarray, acquisition) -> None:
    nothing = HierarchicalLaw(weak).fit(Features.of(v1), NOBODY, v1.scaled[:0])
    values = acquire(nothing, weights, NOBODY, acquisition, seed=0)
    worst = v1.representations.index("SD2.1")  # low A, low C
    assert values.argmax() != worst
    assert np.isfinite(values).all()


def test_a_hundred_thousand_candidates_fit_into_memory() -> None:
    """A proposal takes less than two gigabytes; how long it takes, the same script says."""
    script = ROOT / "benchmarks/proposals.py"
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    numbers = {name: float(value) for name, value in (line.split() for line in done.stdout.splitlines())}
    assert numbers.keys() == {"ucb", "ei", "kg", "peak"}
    assert numbers["peak"] < 2.0
