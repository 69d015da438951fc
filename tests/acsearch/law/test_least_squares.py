"""The published law against the published numbers and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression
from sklearn.preprocessing import PolynomialFeatures

from acsearch.law.diagnostics import diagnose
from acsearch.law.features import FULL, Features, parse_terms
from acsearch.law.least_squares import PublishedLaw
from acsearch.tables.table import Table
from trainers.errors import ConfigError

VISION = ("mmbench_en", "mme", "ok_vqa", "seed_image")

# R^2 by terms: mmbench, mme, mmmu, ok_vqa, textvqa, vizwiz, scienceqa, seed (version 1, from the authors' own CSV)
V1_FULL = (0.963397, 0.973597, 0.835214, 0.954173, 0.902803, 0.803760, 0.866743, 0.937513)
V1_MEANS = {  # vision, OCR
    "A": (0.5080, 0.5506),
    "C": (0.4612, 0.1945),
    "A+C": (0.8324, 0.6618),
    "A+A2": (0.7656, 0.7745),
    "C+C2": (0.5691, 0.2908),
    "full": (0.9572, 0.8521),
}
V3_MEANS = {
    "A": (0.8062, 0.5810),
    "C": (0.3902, 0.1458),
    "A+C": (0.8065, 0.6214),
    "A+A2": (0.9149, 0.7967),
    "C+C2": (0.5656, 0.3012),
    "full": (0.9408, 0.8377),
}


def groups(values: dict[str, float]) -> tuple[float, float]:
    vision = [value for name, value in values.items() if name in VISION]
    rest = [value for name, value in values.items() if name not in VISION]
    return float(np.mean(vision)), float(np.mean(rest))


def r2(table: Table, terms: str) -> dict[str, float]:
    fit = diagnose(table, "published", PublishedLaw(parse_terms(terms)), noise_fits=1)
    return {name: benchmark.r2 for name, benchmark in fit.benchmarks.items()}


def test_r2_of_version_1(v1: Table) -> None:
    np.testing.assert_allclose(list(r2(v1, "full").values()), V1_FULL, atol=1e-6)


@pytest.mark.parametrize("terms", V1_MEANS)
def test_r2_of_version_1_by_group(v1: Table, terms: str) -> None:
    np.testing.assert_allclose(groups(r2(v1, terms)), V1_MEANS[terms], atol=5.1e-5)


@pytest.mark.parametrize("terms", V3_MEANS)
def test_r2_of_version_3_by_group(v3: Table, terms: str) -> None:
    np.testing.assert_allclose(groups(r2(v3, terms)), V3_MEANS[terms], atol=0.0015)


def test_left_out_r2(v1: Table, v3: Table) -> None:
    for table, terms, expected in (
        (v1, "full", (0.849, 0.536)),
        (v1, "A+A2", (0.654, 0.633)),
        (v3, "full", (0.703, 0.457)),
        (v3, "A+A2", (0.865, 0.597)),
    ):
        fit = diagnose(table, "published", PublishedLaw(parse_terms(terms)), noise_fits=1)
        left_out = groups({name: benchmark.r2_loo for name, benchmark in fit.benchmarks.items()})
        np.testing.assert_allclose(left_out, expected, atol=6e-4)


def test_noise_fits_as_well_as_its_weights_allow(v1: Table) -> None:
    """E[R^2] of k weights on noise is k / (n - 1) for Gaussian features; close to it for uniform ones."""
    for terms, weights in (("A", 1), ("A+C", 2), ("full", 5)):
        fit = diagnose(v1, "published", PublishedLaw(parse_terms(terms)), noise_fits=400)
        assert fit.mean["r2_noise"] == pytest.approx(weights / 12, abs=0.045)


TRAINED = {
    ("CLIP336", "DINOv2", "DiT", "SDXL"): (
        {"A": 0.306988, "C": 0.263185, "A2": 0.196471, "AC": 0.236710, "C2": 0.359689},
        0.104027,
        {"CLIP336": 0.960373, "CLIP224": 0.958261, "CLIP336+DINOv2": 0.941172, "OpenCLIP": 0.581974},
    ),
    ("CLIP224", "SD1.5", "SD3", "CLIP336+DINOv2"): (
        {"A": 0.585035, "C": -0.109456, "A2": -0.223688, "AC": 0.843799, "C2": 0.543070},
        0.077550,
        {"CLIP336": 0.995706, "CLIP336+DINOv2": 0.983683, "CLIP224": 0.958042},
    ),
    ("CLIP336", "CLIP224", "OpenCLIP", "DINOv2", "SDim", "SD1.5", "SDXL", "DiT"): (
        {"A": 2.737886, "C": 1.138773, "A2": -1.474613, "AC": -1.300088, "C2": -0.528425},
        -0.086487,
        {"CLIP224+DINOv2": 0.903420},
    ),
}


@pytest.mark.parametrize("trained", TRAINED, ids=len)
def test_fit_on_a_few(v1: Table, trained: tuple[str, ...]) -> None:
    weights, intercept, predictions = TRAINED[trained]
    column = v1.benchmark_index("mmbench_en")
    low, span = v1.scores[:, column].min(), np.ptp(v1.scores[:, column])
    target = (v1.scores[:, [column]] - low) / span
    features = Features.of(v1)
    features = Features(features.alignment[:, [column]], features.correspondence)
    rows = np.array([v1.representations.index(name) for name in trained])
    fit = PublishedLaw().fit(features, rows, target[rows])
    np.testing.assert_allclose(fit.weights[:, 0], [weights[term] for term in FULL], atol=1e-5)
    assert fit.intercept[0] == pytest.approx(intercept, abs=1e-5)
    for name, expected in predictions.items():
        assert fit.fitted[v1.representations.index(name), 0] == pytest.approx(expected, abs=1e-5)


def test_same_as_scikit_learn_for_any_number_of_finetunes(v1: Table) -> None:
    features = Features.of(v1)
    rng = np.random.default_rng(0)
    for n in range(1, 14):
        rows = rng.choice(13, n, replace=False)
        ours = PublishedLaw().fit(features, rows, v1.scores[rows]).fitted
        for b in range(len(v1.benchmarks)):
            assert features.correspondence is not None
            inputs = np.stack([features.alignment[:, b], features.correspondence], axis=1)
            quadratic = PolynomialFeatures(2).fit_transform(inputs)
            reference = LinearRegression().fit(quadratic[rows], v1.scores[rows, b]).predict(quadratic)
            np.testing.assert_allclose(ours[:, b], reference, rtol=1e-7, atol=1e-6)


def test_ranking_does_not_depend_on_the_scale_of_scores(v1: Table) -> None:
    rows = np.array([0, 3, 6, 7])
    fitted = PublishedLaw().fit(Features.of(v1), rows, v1.scores[rows]).fitted
    moved = PublishedLaw().fit(Features.of(v1), rows, 7 - 0.01 * v1.scores[rows]).fitted
    np.testing.assert_allclose(moved, 7 - 0.01 * fitted, atol=1e-9)


def test_terms_need_their_scores(ravel: Table) -> None:
    with pytest.raises(ConfigError, match="need correspondence"):
        diagnose(ravel, "published", PublishedLaw())
    with pytest.raises(ConfigError, match="no term 'B'"):
        parse_terms("A+B")
