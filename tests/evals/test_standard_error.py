"""Standard errors against computations by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from evals.standard_error import Unit, estimate


def test_the_error_of_independent_samples_is_their_deviation_over_root_n() -> None:
    values = np.random.default_rng(0).random(50)
    score, error = estimate([Unit(value, str(i)) for i, value in enumerate(values)])
    assert score == pytest.approx(values.mean())
    assert error == pytest.approx(values.std(ddof=1) / math.sqrt(50))


def test_copies_of_a_sample_in_one_cluster_add_nothing() -> None:
    values = np.random.default_rng(1).random(30)
    once = estimate([Unit(value, str(i)) for i, value in enumerate(values)])
    thrice = estimate([Unit(value, str(i)) for i, value in enumerate(values) for _ in range(3)])
    assert thrice == pytest.approx(once)


def test_strata_are_summed_and_so_are_their_variances() -> None:
    first, second = [Unit(v, str(i), "a") for i, v in enumerate([0, 1, 1])], [Unit(v, str(v), "b") for v in (0, 4)]
    score, error = estimate(first + second)
    alone = estimate(first), estimate(second)
    assert score == pytest.approx(alone[0][0] + alone[1][0])
    assert error == pytest.approx(math.hypot(alone[0][1] or 0, alone[1][1] or 0))


def test_one_cluster_has_no_error() -> None:
    assert estimate([Unit(1.0, "a"), Unit(0.0, "a")]) == (0.5, None)
