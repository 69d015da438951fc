"""Left-out predictions in closed form: those of a fit for each, for any number of candidates, in little memory."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acsearch.law.bayes import HierarchicalLaw
from acsearch.law.features import Array, Features, Index
from acsearch.law.leave_one_out import leave_one_out
from acsearch.law.prior import Prior
from acsearch.tables.table import Table

LEVEL = 0.8


def one_by_one(law: HierarchicalLaw, features: Features, observed: Index, scores: Array) -> tuple[Array, Array]:
    """The same by a fit for each candidate."""
    predicted, covered = np.empty_like(scores), np.empty_like(scores)
    for place, row in enumerate(observed.tolist()):
        fitted = law.fit(features, np.delete(observed, place), np.delete(scores, place, axis=0))
        predicted[place], covered[place] = fitted.fitted[row], fitted.covers(row, scores[place], LEVEL)
    return predicted, covered


def equal(law: HierarchicalLaw, features: Features, observed: Index, scores: Array) -> None:
    predicted, covered = leave_one_out(law, features, observed, scores, LEVEL)
    expected, held = one_by_one(law, features, observed, scores)
    np.testing.assert_allclose(predicted, expected, rtol=1e-6, atol=1e-8)
    assert (covered == held).all()


@pytest.mark.parametrize("name", ["v1", "v3"])
def test_of_a_whole_table(name: str, weak: Prior, request: pytest.FixtureRequest) -> None:
    table: Table = request.getfixturevalue(name)
    equal(HierarchicalLaw(weak), Features.of(table), np.arange(len(table.scores)), table.scaled)


@pytest.mark.parametrize("rows", [[0, 5], [7, 1, 4], [2, 3, 9, 11, 12]])
@pytest.mark.parametrize("with_c", [True, False])
def test_of_few_finetunes_of_a_pool(v1: Table, weak: Prior, rows: list[int], with_c: bool) -> None:
    features = Features.of(v1)
    features = features if with_c else Features(features.alignment, None)
    equal(HierarchicalLaw(weak), features, np.array(rows), v1.scaled[rows])


@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1000), n=st.integers(2, 40), benchmarks=st.integers(1, 4))
def test_of_any_table(weak: Prior, seed: int, n: int, benchmarks: int) -> None:
    rng = np.random.default_rng(seed)
    features = Features(rng.random((n, benchmarks)), rng.random(n))
    equal(HierarchicalLaw(weak), features, np.arange(n), rng.random((n, benchmarks)))


def many(n: int, benchmarks: int = 20) -> tuple[Features, Array]:
    rng = np.random.default_rng(0)
    features = Features(rng.random((n, benchmarks)), rng.random(n))
    return features, 0.4 + 0.2 * features.alignment + 0.02 * rng.standard_normal((n, benchmarks))


def test_memory_does_not_grow_with_candidates_times_the_grid(weak: Prior) -> None:
    features, scores = many(2000)
    law, rows = HierarchicalLaw(weak), np.arange(2000)
    tracemalloc.start()
    try:
        posterior = law.fit(features, rows, scores)
        posterior.effective_weights()
        leave_one_out(law, features, rows[:100], scores[:100], LEVEL)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 150e6


@pytest.mark.slow
def test_ten_thousand_candidates_on_twenty_benchmarks(tmp_path: Path) -> None:
    features, scores = many(10_000)
    lines = ["representation,benchmark,score,alignment,correspondence"]
    assert features.correspondence is not None
    for row, c in enumerate(features.correspondence):
        lines += [
            f"r{row},b{b},{100 * scores[row, b]:.4f},{features.alignment[row, b]:.4f},{c:.4f}"
            for b in range(scores.shape[1])
        ]
    (tmp_path / "t.csv").write_text("\n".join(lines))

    program = """
import atexit, pathlib, resource, sys
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
status = pathlib.Path("/proc/self/status")  # ru_maxrss would count the process that started this
atexit.register(lambda: pathlib.Path("peak").write_text(status.read_text().split("VmHWM:")[1].split()[0]))
from acsearch.cli.main import main
main()
"""
    command = [sys.executable, "-c", program, "law", "fit", "t.csv", "--json"]
    subprocess.run(command, cwd=tmp_path, stdout=subprocess.DEVNULL, check=True)
    assert int((tmp_path / "peak").read_text()) < 1_500_000  # kilobytes
