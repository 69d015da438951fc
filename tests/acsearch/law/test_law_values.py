"""Both laws, their intervals and diagnostics, compared with textbook formulas and hand-worked numbers."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from acsearch.errors import DefinitionError, TableError
from acsearch.law import diagnostics
from acsearch.law.bayes import HierarchicalLaw, Posterior, objective_weights
from acsearch.law.conjugate import stack
from acsearch.law.diagnostics import diagnose, finetuned_r2
from acsearch.law.features import FULL, Features, parse_terms
from acsearch.law.least_squares import PublishedLaw
from acsearch.law.prior import Prior
from acsearch.law.registry import make_surrogate
from acsearch.tables.table import Table
from trainers.errors import ConfigError

ROWS = np.array([0, 3, 7, 11])


@pytest.fixture(scope="module")
def single(weak: Prior) -> Prior:
    """One point of the grid, so that the posterior is one multivariate t."""
    return replace(weak, term_sets=((FULL, 1.0),), sharing=(0.7,), misfit=(0.1,), correlation=(0.2,))


@pytest.fixture(scope="module")
def posterior(v1: Table, weak: Prior) -> Posterior:
    return HierarchicalLaw(weak).fit(Features.of(v1), ROWS, v1.scaled[ROWS])


# -- features ----------------------------------------------------------------------------------------------------------


def test_features_are_scaled_by_column_and_terms_are_products(v1: Table) -> None:
    table = replace(
        v1.subset([0, 1, 2]),
        alignment=np.array([[1.0, 7.0], [3.0, 7.0], [2.0, 7.0]]),
        correspondence=np.array([10.0, 40.0, 25.0]),
    )
    features = Features.of(table)
    assert features.alignment.tolist() == [[0, 0], [1, 0], [0.5, 0]]  # a column without variation becomes 0
    assert features.correspondence is not None
    assert features.correspondence.tolist() == [0, 1, 0.5]
    made = Features(np.array([[0.5]]), np.array([0.25])).design()
    assert made.tolist() == [[[1, 0.5, 0.25, 0.25, 0.125, 0.0625]]]
    assert Features(np.array([[0.5]]), None).design(("C", "A", "AC")).tolist() == [[[0, 0.5, 0]]]
    assert Features.of(replace(table, correspondence=np.array([1.0, np.nan, 2.0]))).correspondence is None


def test_terms_are_read_in_the_law_s_order() -> None:
    assert parse_terms("full") == ("A", "C", "A2", "AC", "C2")
    assert parse_terms("C+A2+A") == ("A", "C", "A2")


def test_objectives_as_weights() -> None:
    assert objective_weights(("a", "b", "c", "d"), "mean").tolist() == [0.25] * 4
    assert objective_weights(("a", "b", "c", "d"), "c").tolist() == [0, 0, 1, 0]


def test_surrogates_by_name(v1: Table, weak: Prior) -> None:
    assert make_surrogate("bayes", v1, weak) == HierarchicalLaw(weak)
    assert make_surrogate("published", v1, weak) == PublishedLaw(FULL)
    assert make_surrogate("published", v1, weak, "A+C") == PublishedLaw(("A", "C"))
    partly = replace(v1, correspondence=np.full(13, np.nan))
    assert make_surrogate("published", partly, weak) == PublishedLaw(("A", "A2"))
    with pytest.raises(ConfigError, match="choose one of bayes, published"):
        make_surrogate("forest", v1, weak)
    with pytest.raises(ConfigError, match="--terms belongs to"):
        make_surrogate("bayes", v1, weak, "A")


def test_a_prior_is_checked_for_both_of_its_definitions(v1: Table, weak: Prior) -> None:
    metadata = replace(v1.metadata, alignment="A_one", correspondence="C_one")
    weak.check(metadata)
    replace(weak, alignment=("A_two", "A_one"), correspondence=("C_one",)).check(metadata)
    with pytest.raises(DefinitionError, match="belongs to A as A_two"):
        replace(weak, alignment=("A_two",), correspondence=("C_one",)).check(metadata)
    with pytest.raises(DefinitionError, match="belongs to C as C_two or C_three"):
        replace(weak, alignment=("A_one",), correspondence=("C_two", "C_three")).check(metadata)


# -- least squares -----------------------------------------------------------------------------------------------------


def straight() -> tuple[Features, np.ndarray, np.ndarray]:
    """A line through (0, 1), (1, 3), (2, 2), (3, 6): slope 1.4, intercept 0.9; and a fifth candidate at 4."""
    features = Features(np.arange(5.0)[:, None], None)
    return features, np.arange(4), np.array([[1.0], [3.0], [2.0], [6.0]])


def test_intervals_of_a_straight_line_by_the_textbook() -> None:
    """Residual variance 4.2 / 2; Var(slope) = 2.1 / 5, Var(intercept) = 2.1 (1/4 + 1.5^2 / 5), t with 2 degrees."""
    features, observed, scores = straight()
    fit = PublishedLaw(("A",)).fit(features, observed, scores)
    assert (fit.dof, fit.effective_weights().tolist(), fit.term_weights) == (2, [2.0], {"A": 1.0})
    t = stats.t(2).ppf(0.9)
    variance = 4.2 / 2
    intervals = fit.weight_intervals(0.8)
    assert list(intervals) == ["1", "A"]
    half = t * math.sqrt(variance / 5)
    np.testing.assert_allclose(intervals["A"][:, 0], [1.4, 1.4 - half, 1.4 + half])
    half = t * math.sqrt(variance * (1 / 4 + 1.5**2 / 5))
    np.testing.assert_allclose(intervals["1"][:, 0], [0.9, 0.9 - half, 0.9 + half])


def test_a_prediction_s_interval_by_the_textbook() -> None:
    """At 4 the line says 6.5, with variance 2.1 (1 + 1/4 + 2.5^2 / 5) of a new score."""
    features, observed, scores = straight()
    fit = PublishedLaw(("A",)).fit(features, observed, scores)
    half = stats.t(2).ppf(0.9) * math.sqrt(2.1 * (1 + 1 / 4 + 2.5**2 / 5))
    for score, held in ((6.5 + 0.999 * half, 1), (6.5 + 1.001 * half, 0), (6.5 - 0.999 * half, 1), (6.5 - half - 1, 0)):
        assert fit.covers(4, np.array([score]), 0.8).tolist() == [held]
    assert fit.covers(4, np.array([6.5 + 1.001 * half]), 0.9).tolist() == [1]


def test_without_degrees_of_freedom_there_is_no_interval() -> None:
    features, observed, scores = straight()
    exact = PublishedLaw(("A",)).fit(features, observed[:2], scores[:2])
    assert exact.dof == 0
    assert np.isnan(exact.covers(4, np.array([6.5]), 0.8)).all()
    assert np.isnan(exact.weight_intervals(0.8)["A"][1:]).all()
    assert exact.weight_intervals(0.8)["A"][0].tolist() == pytest.approx([2])
    one_left = PublishedLaw(("A",)).fit(features, observed[:3], scores[:3])
    assert one_left.dof == 1
    assert np.isfinite(one_left.covers(4, np.array([6.5]), 0.8)).all()
    assert np.isfinite(one_left.weight_intervals(0.8)["A"]).all()


# -- the Bayesian law --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("times", [1, 1e-3, 100], ids=["inside", "at the low end", "at the high end"])
def test_each_benchmark_s_scale_is_the_most_probable_of_its_grid(v1: Table, weak: Prior, times: float) -> None:
    """log t density of the finetuned scores plus the log-normal prior, for 61 scales from e^-4 to e^2 of its median."""
    features = Features.of(v1)
    x = features.design()[ROWS]
    variances, means = np.array([100, *np.square(weak.sd)]), np.array([0, *weak.mean])
    noise = 0.1**2 + 0.02**2
    scores = times * v1.scaled[ROWS]
    fitted = HierarchicalLaw(weak).fit(features, ROWS, scores)
    for b in range(8):
        covariance = x[:, b] @ np.diag(variances) @ x[:, b].T + noise * np.eye(4)
        best = max(
            (
                stats.multivariate_t(
                    0.5 * math.exp(step) * x[:, b] @ means, (0.5 * math.exp(step)) ** 2 * covariance, df=6
                ).logpdf(scores[:, b])
                - step**2 / 2,
                0.5 * math.exp(step),
            )
            for step in np.linspace(-4, 2, 61)
        )
        assert fitted.scale[b] == pytest.approx(best[1])
    nothing = HierarchicalLaw(replace(weak, scale_median=0.3)).fit(features, ROWS[:0], v1.scaled[:0])
    assert nothing.scale.tolist() == [0.3] * 8


def test_without_finetunes_the_law_is_the_prior(v1: Table, single: Prior) -> None:
    features = Features.of(v1)
    nothing = HierarchicalLaw(single).fit(features, ROWS[:0], v1.scaled[:0])
    design = features.design()
    np.testing.assert_allclose(nothing.fitted, 0.5 * design @ np.array([0, *single.mean]))
    weights = objective_weights(v1.benchmarks, "mme")
    inflated = 3 / 2  # E[sigma^2] of the inverse gamma: rate / (shape - 1)
    own = design[:, 1] ** 2 @ np.array([100, *np.square(single.sd)]) + 0.1**2 + 0.02**2
    np.testing.assert_allclose(nothing.objective(weights)[1], 0.5 * np.sqrt(inflated * own))
    assert nothing.dof == 6
    mean = objective_weights(v1.benchmarks, "mean")
    shared = 0.7 * np.einsum("nbt,t,nct->nbc", design[..., 1:], np.square(single.sd), design[..., 1:])
    apart = np.einsum("nbt,t->nb", design[..., 1:] ** 2, np.square(single.sd)) * 0.3 + 100
    law = shared.mean(axis=(1, 2)) + apart.mean(axis=1) / 8
    missed = 0.1**2 * (0.2 + 0.8 / 8) + 0.02**2 / 8
    np.testing.assert_allclose(nothing.objective(mean)[1], 0.5 * np.sqrt(inflated * (law + missed)))


def test_a_candidate_s_score_has_a_t_distribution(v1: Table, single: Prior) -> None:
    """With one grid point: centre the law's mean, scale from the objective's sd, degrees 2 shape + n M."""
    fitted = HierarchicalLaw(single).fit(Features.of(v1), ROWS, v1.scaled[ROWS])
    assert fitted.dof == 2 * 3 + 4 * 8
    free, dof = 5, 6 + 32
    sd = np.array([fitted.objective(objective_weights(v1.benchmarks, name))[1][free] for name in v1.benchmarks])
    distribution = stats.t(dof, loc=fitted.fitted[free], scale=sd * math.sqrt((dof - 2) / dof))
    for quantile in (0.05, 0.3, 0.5, 0.95):
        np.testing.assert_allclose(fitted.cdf(free, distribution.ppf(quantile)), quantile, atol=1e-9)
    assert fitted.covers(free, distribution.ppf(0.91), 0.8).tolist() == [0] * 8
    assert fitted.covers(free, distribution.ppf(0.89), 0.8).tolist() == [1] * 8
    assert fitted.covers(free, distribution.ppf(0.11), 0.8).tolist() == [1] * 8
    assert fitted.covers(free, distribution.ppf(0.09), 0.8).tolist() == [0] * 8


def test_effective_weights_are_the_trace_of_the_smoother(v1: Table, single: Prior) -> None:
    """The sum over the finetuned of d fitted / d score, by finite differences."""
    features, scores = Features.of(v1), v1.scaled[ROWS]
    law = HierarchicalLaw(single)
    before = law.fit(features, ROWS, scores)
    traces = np.zeros(8)
    for place, row in enumerate(ROWS):
        for b in range(8):
            moved = scores.copy()
            moved[place, b] += 1e-5
            after = law.fit(features, ROWS, moved)
            assert after.scale.tolist() == before.scale.tolist()
            traces[b] += (after.fitted[row, b] - before.fitted[row, b]) / 1e-5
    np.testing.assert_allclose(before.effective_weights(), traces, rtol=1e-4)
    assert (traces > 1).all()
    assert (traces < 4).all()


def test_intervals_of_the_weights_are_those_of_their_t(v1: Table, single: Prior) -> None:
    fitted = HierarchicalLaw(single).fit(Features.of(v1), ROWS, v1.scaled[ROWS])
    mean, covariance, _ = fitted.moments
    intervals = fitted.weight_intervals(0.8)
    assert list(intervals) == ["1", "A", "C", "A2", "AC", "C2"]
    for t, term in enumerate(intervals):
        for b in range(8):
            both = np.zeros(len(mean))
            both[[t, 6 * (b + 1) + t]] = fitted.scale[b]
            centre, sd = both @ mean, math.sqrt(both @ covariance @ both)
            half = stats.t(38).ppf(0.9) * sd * math.sqrt(36 / 38)
            np.testing.assert_allclose(
                intervals[term][:, b], [centre, centre - half, centre + half], atol=0.12 * max(sd, 1e-9)
            )
    without = HierarchicalLaw(replace(single, term_sets=((("A",), 1.0),))).fit(Features.of(v1), ROWS, v1.scaled[ROWS])
    assert list(without.weight_intervals(0.8)) == ["1", "A"]


def test_term_sets_weigh_one_and_points_of_no_weight_are_dropped(posterior: Posterior, weak: Prior) -> None:
    assert sum(posterior.term_weights.values()) == pytest.approx(1)
    assert posterior.weight.sum() == pytest.approx(1)
    assert posterior.weight.min() > 1e-4
    assert len(posterior.weight) == len(posterior.terms) < 60
    assert set(posterior.term_weights) <= {"+".join(terms) for terms, _ in weak.term_sets}


def test_stacked_terms_stand_for_the_shared_and_the_own_weights() -> None:
    design = np.arange(1.0, 9).reshape(2, 2, 2)  # 2 candidates, 2 benchmarks, 2 terms
    assert stack(design).tolist() == [
        [[1, 2, 1, 2, 0, 0], [3, 4, 0, 0, 3, 4]],
        [[5, 6, 5, 6, 0, 0], [7, 8, 0, 0, 7, 8]],
    ]


def test_a_learnt_prior_mixes_what_was_learnt_with_a_fifth_of_doubt(
    posterior: Posterior, weak: Prior, v1: Table
) -> None:
    learnt = posterior.learnt_prior(weak, v1.metadata, 4.0)
    weights = posterior.term_weights
    assert {"+".join(terms): one for terms, one in learnt.term_sets} == {
        "+".join(terms): pytest.approx(0.8 * weights.get("+".join(terms), 0) + 0.04, abs=5e-5)
        for terms, _ in weak.term_sets
    }
    mean, covariance, _ = posterior.moments
    np.testing.assert_allclose(learnt.mean, mean[1:6], atol=5.1e-5)
    np.testing.assert_allclose(learnt.sd, 2 * np.sqrt(np.diag(covariance)[1:6]), atol=5.1e-5)
    assert all(value == round(value, 4) for value in (*learnt.mean, *learnt.sd))
    assert (learnt.name, learnt.alignment) == ("learnt", (v1.metadata.alignment,))
    assert (learnt.sharing, learnt.noise, learnt.scale_median) == (weak.sharing, weak.noise, weak.scale_median)
    assert "variance times 4" in learnt.provenance


def test_draws_of_some_rows_and_sums_are_those_of_all(posterior: Posterior) -> None:
    """Of the rows asked for, in their order; those finetuned as they were, and two sums correlated as they must."""
    rows = np.array([5, 3, 2])
    sums = np.stack([np.full(8, 1 / 8), np.eye(8)[2]], axis=1)
    drawn = posterior.draws(30_000, np.random.default_rng(0), rows, sums)
    assert drawn.shape == (30_000, 3, 2)
    np.testing.assert_allclose(drawn[:, 1], np.broadcast_to(posterior.scores[1] @ sums, (30_000, 2)))
    for k in range(2):
        mean, sd = posterior.objective(sums[:, k])
        np.testing.assert_allclose(drawn[:, [0, 2], k].mean(axis=0), mean[[5, 2]], atol=0.005)
        np.testing.assert_allclose(drawn[:, [0, 2], k].std(axis=0), sd[[5, 2]], rtol=0.06)
    _, covariance, misfit = posterior.moments
    x = posterior.objective_design(sums[:, 0])[5], posterior.objective_design(sums[:, 1])[5]
    expected = x[0] @ covariance @ x[1] + sums[:, 0] @ misfit @ sums[:, 1]
    assert np.cov(drawn[:, 0].T)[0, 1] == pytest.approx(expected, rel=0.1)


# -- diagnostics -------------------------------------------------------------------------------------------------------


def test_diagnostics_by_hand(v1: Table) -> None:
    """The published law with A alone, against a straight line of each benchmark by numpy."""
    fit = diagnose(v1, "published", PublishedLaw(("A",)), noise_fits=1)
    a = Features.of(v1).alignment
    assert (fit.table, fit.surrogate, fit.term_weights) == ("law_v1", "published", {"A": 1.0})
    for b, name in enumerate(v1.benchmarks):
        y, x, one = v1.scores[:, b], a[:, b], fit.benchmarks[name]
        total = ((y - y.mean()) ** 2).sum()
        slope, intercept = np.polyfit(x, y, 1)
        r2 = 1 - ((y - slope * x - intercept) ** 2).sum() / total
        left = np.array([np.polyval(np.polyfit(np.delete(x, i), np.delete(y, i), 1), x[i]) for i in range(13)])
        assert one.r2 == pytest.approx(r2)
        assert one.r2_adjusted == pytest.approx(1 - (1 - r2) * 12 / 11)
        assert one.r2_loo == pytest.approx(1 - ((y - left) ** 2).sum() / total)
        np.testing.assert_allclose(list(one.residuals.values()), y - left, atol=1e-9)
        assert list(one.residuals) == list(v1.representations)
        assert one.weights["A"].estimate == pytest.approx(slope)
        assert one.weights["A"].low < slope < one.weights["A"].high
        held = []
        for i in range(13):
            xi, yi = np.delete(x, i), np.delete(y, i)
            line = stats.linregress(xi, yi)
            s2 = ((yi - line.slope * xi - line.intercept) ** 2).sum() / 10
            spread = math.sqrt(s2 * (1 + 1 / 12 + (x[i] - xi.mean()) ** 2 / ((xi - xi.mean()) ** 2).sum()))
            held.append(abs(y[i] - left[i]) <= stats.t(10).ppf(0.9) * spread)
        assert one.coverage_80 == pytest.approx(np.mean(held))
    assert fit.mean["r2"] == pytest.approx(np.mean([one.r2 for one in fit.benchmarks.values()]))
    assert list(fit.mean) == ["r2", "r2_adjusted", "r2_loo", "r2_noise", "coverage_80"]


def test_diagnostics_need_four_candidates_and_more_than_weights(v1: Table) -> None:
    with pytest.raises(TableError, match="3 candidates"):
        diagnose(v1.subset([0, 1, 2]), "published", PublishedLaw(("A",)))
    four = diagnose(v1.subset([0, 3, 7, 11]), "published", PublishedLaw(("A", "A2", "C")), noise_fits=1)
    assert math.isnan(four.mean["r2_adjusted"])  # four weights for four scores
    three = diagnose(v1.subset([0, 3, 7, 11]), "published", PublishedLaw(("A", "A2")), noise_fits=1)
    assert math.isfinite(three.mean["r2_adjusted"])


def test_noise_has_one_alignment_for_all_benchmarks_and_c_where_there_is_one(v1: Table) -> None:
    features = Features.of(v1)
    fakes = diagnostics._noise(features, 3, 5)
    assert len(fakes) == 3
    for fake in fakes:
        assert fake.alignment.shape == (13, 8)
        assert (np.ptp(fake.alignment, axis=1) == 0).all()
        assert fake.correspondence is not None
        assert fake.correspondence.shape == (13,)
        values = np.concatenate([fake.alignment[:, 0], fake.correspondence])
        assert len(set(values.tolist())) == 26
        assert 0 <= values.min() < 0.3 < 0.7 < values.max() < 1
    assert not np.array_equal(fakes[0].alignment, fakes[1].alignment)
    assert all(fake.correspondence is None for fake in diagnostics._noise(replace(features, correspondence=None), 2, 0))
    again = diagnostics._noise(features, 3, 5)
    assert all(np.array_equal(one.alignment, two.alignment) for one, two in zip(fakes, again, strict=True))


def test_noise_is_fitted_twenty_times_with_seed_0(v1: Table) -> None:
    law = PublishedLaw(("A",))
    default, spelt = diagnose(v1, "p", law), diagnose(v1, "p", law, noise_fits=20, seed=0)
    assert default.mean == spelt.mean
    assert default.mean["r2_noise"] != diagnose(v1, "p", law, noise_fits=20, seed=1).mean["r2_noise"]
    expected = []
    for fake in diagnostics._noise(Features.of(v1), 20, 0):
        expected.append([np.corrcoef(fake.alignment[:, 0], y)[0, 1] ** 2 for y in v1.scores.T])
    assert default.mean["r2_noise"] == pytest.approx(np.mean(expected))


def test_r2_of_the_finetuned(v1: Table, weak: Prior) -> None:
    features, law = Features.of(v1), HierarchicalLaw(weak)
    fitted = law.fit(features, ROWS, v1.scaled[ROWS])
    whole, left_out = finetuned_r2(law, features, fitted)
    scores = v1.scaled[ROWS]
    total = ((scores - scores.mean(axis=0)) ** 2).sum(axis=0)
    assert whole == pytest.approx((1 - ((scores - fitted.fitted[ROWS]) ** 2).sum(axis=0) / total).mean())
    left = [law.fit(features, np.delete(ROWS, i), np.delete(scores, i, axis=0)).fitted[ROWS[i]] for i in range(4)]
    assert left_out == pytest.approx((1 - ((scores - np.array(left)) ** 2).sum(axis=0) / total).mean())
    three = law.fit(features, ROWS[:3], scores[:3])
    assert all(map(math.isfinite, finetuned_r2(law, features, three)))
    two = law.fit(features, ROWS[:2], scores[:2])
    assert all(map(math.isnan, finetuned_r2(law, features, two)))
    equal = scores.copy()
    equal[:, 3] = 0.5
    assert all(map(math.isnan, finetuned_r2(law, features, law.fit(features, ROWS, equal))))
