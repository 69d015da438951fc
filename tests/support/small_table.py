"""A table of five candidates and two benchmarks with its files, and what must hold of any table that was read."""

from __future__ import annotations

import math

import numpy as np
import yaml

from acsearch.config.prior_file import load_prior
from acsearch.law.diagnostics import diagnose
from acsearch.law.features import WITHOUT_C
from acsearch.law.least_squares import PublishedLaw
from acsearch.law.registry import make_surrogate
from acsearch.tables.table import Table

ROWS = [
    [name, task, str(50 + 3 * i + j * i), f"0.{i + 1}{j}", str(10 + i * i)]
    for i, name in enumerate(("clip", "dino", "siglip", "sdxl", "dit"))
    for j, task in enumerate(("gqa", "mme"))
]
HEADER = ["representation", "benchmark", "score", "alignment", "correspondence"]
TABLE = "\n".join(map(",".join, [HEADER, *ROWS])) + "\n"
SHEET = {
    "title": "t",
    "alignment": "A_cos",
    "correspondence": "C",
    "benchmarks": {"gqa": {"floor": 0, "ceiling": 100}, "mme": {"floor": 0, "ceiling": 100}},
}
STUDY = {"name": "mine", "title": "t", "table": "table.csv", "policy": "ucb", "prior": "weak", "objective": "gqa"}
FILES = {"table.csv": TABLE.encode(), "table.yaml": yaml.safe_dump(SHEET).encode()}


def usable(table: Table) -> None:
    """All numbers are there, but for a C that nobody measured."""
    for values in (table.scores, table.alignment, table.scaled, table.floor, table.span):
        assert np.isfinite(values).all()
    assert (table.span > 0).all()
    assert np.isfinite(table.correspondence).all() or np.isnan(table.correspondence).any()
    assert len(set(table.representations)) == len(table.representations) == len(table.scores)


def fitted(table: Table, prior: str) -> None:
    """The published and the Bayesian law on the table, with nothing infinite in them."""
    load_prior(prior).check(table.metadata)
    if len(table.representations) < 4:
        return
    published = PublishedLaw() if table.has_correspondence else PublishedLaw(WITHOUT_C)
    for name, law in (("published", published), ("bayes", make_surrogate("bayes", table, load_prior(prior), ""))):
        found = diagnose(table, name, law, noise_fits=1)
        for benchmark in found.benchmarks.values():
            assert math.isfinite(benchmark.r2), name
            assert not math.isinf(benchmark.r2_loo), name
            assert all(map(math.isfinite, benchmark.residuals.values())), name
